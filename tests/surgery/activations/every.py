"""Shared by the sweeps over the catalogue: all functions, how each is built, and the formula of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from surgery import activations

# Functions without parameters per channel, in torch's own words.
PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "relu": F.relu,
    "relu6": F.relu6,
    "leaky_relu": F.leaky_relu,
    "helu": F.relu,
    "elu": F.elu,
    "selu": F.selu,
    "celu": F.celu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "silu": F.silu,
    "mish": F.mish,
    "hardswish": F.hardswish,
    "hardtanh": F.hardtanh,
    "softplus": F.softplus,
    "squared_relu": lambda x: F.relu(x) ** 2,
    "sigmoid": torch.sigmoid,
    "hardsigmoid": F.hardsigmoid,
    "tanh": torch.tanh,
    "rectified_scores": lambda x: x.clamp_min(0),
}
# Functions with parameters per channel, and what they are built with here: few intervals, and everything learns.
LEARNED: dict[str, dict[str, Any]] = {
    "affine": {},
    "frelu": {"negative": 0.1},
    "gsmelu": {"low_slope": 0.1},
    "npwlu": {"intervals": 3},
    "prelu": {},
    "pwlu": {"intervals": 4},
    "rescu": {"low_slope": -0.2, "learn": True},
    "smelu": {},
    "swish": {},
}
SWEPT = (*PLAIN, *LEARNED)
# Those that numba has compiled; gsmelu, and rescu with it, is left to the closed form.
FUSED = ("affine", "frelu", "npwlu", "prelu", "pwlu", "smelu", "swish")
# Every function in every form it has: those of torch's operations have but one.
CASES = [
    *((name, "closed") for name in PLAIN),
    *((name, form) for name in LEARNED for form in ("formula", "closed")),
    *((name, "fused") for name in FUSED),
]


def made(name: str, channels: int | None = 3, *, axis: int = 1, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The function with different parameters in every channel; shared by all channels without `channels`."""
    module = activations.build(name, channels, axis=axis, **LEARNED.get(name, {})).to(dtype)
    moves = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for param in module.parameters():
            param.add_(0.2 * torch.rand(param.shape, generator=moves).to(param) - 0.1)
    return module


class SideBySide(nn.Module):
    """All these functions of one tensor."""

    def __init__(self, names: Iterable[str] = SWEPT) -> None:
        super().__init__()
        self.functions = nn.ModuleList(made(name) for name in names)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [function(x) for function in self.functions]


def dtype_of(form: str) -> torch.dtype:
    """What is precise in a form: kernels compute in float32."""
    return torch.float32 if form == "fused" else torch.float64


def numbers(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
    """Normal numbers with standard deviation 3, which reach every piece of every function."""
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def by_formula(name: str, module: nn.Module, rows: Tensor) -> Tensor:
    """The function of `module` on rows (n, C), from its parameters by another formula than its own, in float64."""
    if name in PLAIN:
        return PLAIN[name](rows.double())
    params = {key: param.double() for key, param in module.named_parameters()}
    return FORMULAS[name](rows.double(), **params)


def _prelu(x: Tensor, weight: Tensor) -> Tensor:
    return F.prelu(x, weight)


def _frelu(x: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    return positive * F.relu(x) - negative * F.relu(-x)


def _swish(x: Tensor, beta: Tensor) -> Tensor:
    return x / (1 + torch.exp(-beta * x))


def _smelu(x: Tensor, beta: Tensor) -> Tensor:
    return torch.where(x <= -beta, 0.0, torch.where(x >= beta, x, (x + beta) ** 2 / (4 * beta)))


def _gsmelu(x: Tensor, left: Tensor, right: Tensor, low_slope: Tensor, high_slope: Tensor, height: Tensor) -> Tensor:
    """Three polynomials, their coefficients as in equation 11."""
    a = (high_slope - low_slope) / (2 * (left + right))
    b = (left * high_slope + right * low_slope) / (left + right)
    c = height + (left**2 * (high_slope + low_slope) + 2 * left * right * low_slope) / (2 * (left + right))
    low = low_slope * x + height + low_slope * left
    high = high_slope * x + height + (left + right) / 2 * low_slope + (left - right) / 2 * high_slope
    return torch.where(x <= -left, low, torch.where(x >= right, high, a * x**2 + b * x + c))


def _interpolated(x: Tensor, knots: Tensor, heights: Tensor, low_slope: Tensor, high_slope: Tensor) -> Tensor:
    """numpy's piecewise linear interpolation of one channel after the other, and the lines beyond it."""
    columns = []
    for channel in range(x.shape[1]):
        xs, at, up = (tensor[:, min(channel, tensor.shape[1] - 1)].detach().numpy() for tensor in (x, knots, heights))
        low, high = (slopes[min(channel, len(slopes) - 1)].item() for slopes in (low_slope, high_slope))
        beyond = low * np.minimum(xs - at[0], 0) + high * np.maximum(xs - at[-1], 0)
        columns.append(np.interp(xs, at, up) + beyond)
    return torch.from_numpy(np.stack(columns, axis=1))


def _pwlu(x: Tensor, **params: Tensor) -> Tensor:
    return _interpolated(x, knots_of(**params), params["heights"], params["low_slope"], params["high_slope"])


def _npwlu(x: Tensor, start: Tensor, height: Tensor, widths: Tensor, slopes: Tensor) -> Tensor:
    rises = (widths * slopes[1:-1]).cumsum(0)
    heights = torch.cat([height[None], height + rises])
    knots = torch.cat([start[None], start + widths.cumsum(0)])
    return _interpolated(x, knots, heights, slopes[0], slopes[-1])


def knots_of(**params: Tensor) -> Tensor:
    """The equal steps of a PWLU, (N + 1, C)."""
    shares = torch.linspace(0, 1, len(params["heights"]), dtype=torch.float64)[:, None]
    return params["left"] + shares * (params["right"] - params["left"])


FORMULAS: dict[str, Callable[..., Tensor]] = {
    "affine": lambda x, weight, bias: torch.addcmul(bias, x, weight),
    "frelu": _frelu,
    "gsmelu": _gsmelu,
    "npwlu": _npwlu,
    "prelu": _prelu,
    "pwlu": _pwlu,
    "rescu": _gsmelu,
    "smelu": _smelu,
    "swish": _swish,
}


def joints(name: str, module: nn.Module) -> Tensor:
    """Where the function, or its derivative, has a kink: (k, C), in float64."""
    params = {key: param.detach().double() for key, param in module.named_parameters()}
    if name in ("prelu", "frelu"):
        return torch.zeros_like(next(iter(params.values())))[None]
    if name == "smelu":
        return torch.stack([-params["beta"], params["beta"]])
    if name in ("gsmelu", "rescu"):
        return torch.stack([-params["left"], params["right"]])
    if name == "pwlu":
        return knots_of(**params)
    if name == "npwlu":
        return torch.cat([params["start"][None], params["start"] + params["widths"].cumsum(0)])
    assert name in ("affine", "swish")
    return torch.full((1, 1), float("inf"), dtype=torch.float64)


def away_from_joints(name: str, module: nn.Module, x: Tensor, least: float = 0.02) -> Tensor:
    """Rows x (n, C), moved where they are nearer than this to a joint, so that differences do not step over it."""
    for _ in range(9):
        apart = (x.unsqueeze(0) - joints(name, module).unsqueeze(1)).abs().amin(0)
        if bool((apart >= least).all()):
            return x
        x = torch.where(apart < least, x + 1.7 * least, x)
    raise AssertionError(f"{name}: its joints are everywhere")
