"""The kernels of numba beside the closed forms."""

from __future__ import annotations

import torch
from torch import Tensor

from surgery.activations import dispatch as forms
from surgery.activations.functions.affine import AFFINE
from surgery.activations.functions.npwlu import FUNCTION as NPWLU
from surgery.activations.functions.piecewise import PWLU
from surgery.activations.functions.prelu import FRELU, PRELU
from surgery.activations.functions.smelu import SMELU
from surgery.activations.functions.swish import SWISH

FUNCTIONS = {function.name: function for function in (PRELU, FRELU, SMELU, SWISH, AFFINE, PWLU, NPWLU)}


CLOSE = 2e-6  # of the largest entry


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 1.5


def outcome(form: str, name: str, x: Tensor, axis: int, params: list[Tensor], grad: Tensor) -> list[Tensor]:
    """The values, the gradient of x and those of the parameters."""
    x, params = x.detach().requires_grad_(), [param.detach().requires_grad_() for param in params]
    with forms.only(form):
        y = forms.apply(FUNCTIONS[name], x, axis, *params)
        return [y.detach(), *torch.autograd.grad(y, (x, *params), grad)]


def assert_near(found: list[Tensor], wanted: list[Tensor], close: float = CLOSE) -> None:
    for number, (tensor, other) in enumerate(zip(found, wanted, strict=True)):
        error = (tensor.double() - other).abs().max() / other.abs().max().clamp_min(1e-3)
        assert tensor.shape == other.shape and error <= close, f"result {number} is off by {error:.1e}"


HALF = {torch.bfloat16: 2**-8, torch.float16: 2**-11}  # half a unit in the last place


def params_of(name: str, channels: int, intervals: int = 16) -> list[Tensor]:
    """Parameters that differ in every channel."""
    vary = torch.linspace(0.5, 1.5, channels)
    heights = torch.linspace(-1, 2, intervals + 1).sin().unsqueeze(1) * vary
    widths = torch.tensor([1.0, 0.5, 0.75, 1.5]).unsqueeze(1) * vary
    slopes = torch.linspace(-1, 2, 6).sin().unsqueeze(1) * vary
    return {
        "prelu": [0.3 * vary],
        "frelu": [vary, -0.2 * vary],
        "smelu": [0.8 * vary],
        "swish": [1.3 * vary],
        "affine": [vary, vary - 1],
        "npwlu": [-2 * vary, vary - 1, widths, slopes],
        "pwlu": [heights, -1.93 * vary, 1.7 * vary, 0.1 * vary, 1.2 * vary],
    }[name]


def in_double(name: str, x: Tensor, axis: int, params: list[Tensor], grad: Tensor) -> list[Tensor]:
    return outcome("formula", name, x.double(), axis, [param.double() for param in params], grad.double())
