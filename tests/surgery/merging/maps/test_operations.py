"""Operations: each affine call of torch, against the map that it is said to be."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from surgery.activations import Affine
from surgery.look.example import Example
from surgery.merging.forward import forward_of
from surgery.merging.maps.linear_map import NotMergeable
from surgery.merging.maps.values import Values
from surgery.merging.units import map_between
from tests.surgery.merging.jacobian import apply

X = torch.randn(2, 4, 6, 8, dtype=torch.float64)


class Calls(nn.Module):
    """One call on an image, with weights that it may use."""

    def __init__(self, call: Callable[[Calls, Tensor], Tensor]) -> None:
        super().__init__()
        self.call = call
        self.scale, self.shift = nn.Parameter(torch.randn(4, 1, 1)), nn.Parameter(torch.randn(1, 4, 1, 1))
        self.one, self.map = nn.Parameter(torch.randn(1)), nn.Parameter(torch.randn(4, 6, 8))
        self.norm, self.line = nn.BatchNorm2d(4, eps=0.1, affine=False), Affine(4)
        self.same = nn.Conv2d(4, 6, (2, 4), padding="same", dilation=(1, 2))
        with torch.no_grad():
            self.norm.running_mean.uniform_()  # type: ignore[union-attr]
            self.line.weight.uniform_()
            self.line.bias.uniform_()

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self, x)


LINEAR: dict[str, Callable[[Calls, Tensor], Tensor]] = {
    "scale and shift": lambda m, x: (2 * x * m.scale + m.shift - 1) / m.one,
    "from a constant": lambda m, x: 3 - x,
    "negative": lambda m, x: -x + x + x,
    "difference": lambda m, x: x * 3 - x,
    "in place": lambda m, x: x.clone().mul_(m.scale).add_(m.shift).sub_(x),
    "norm": lambda m, x: m.norm(x),
    "affine": lambda m, x: m.line(x),
    "same": lambda m, x: m.same(x),
    "average": lambda m, x: F.avg_pool2d(x, 2),
    "average, padded": lambda m, x: F.avg_pool2d(x, 3, 1, 1),
    "average, own divisor": lambda m, x: F.avg_pool2d(x, (3, 2), divisor_override=5),
    "padded": lambda m, x: F.pad(x, (1, 2, 0, 1)),
    "padded around": lambda m, x: F.pad(x, (1, 2, 2, 1), mode="circular"),
    "channels padded": lambda m, x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 2)),
    "strided": lambda m, x: x[..., ::2] + x[:, :, :, ::2],
    "copies": lambda m, x: F.dropout(x.contiguous().clone(), training=m.training).to(torch.float64),
}


@pytest.mark.parametrize("case", LINEAR)
def test_the_map_is_what_the_call_computes(case: str) -> None:
    model = Calls(LINEAR[case]).double().eval()
    forward = forward_of(model, Example.of(X, model))
    (output,) = forward.outputs
    made, axis = map_between(forward, 0, output, Values(model))
    with torch.no_grad():
        torch.testing.assert_close(apply(made.lifted(2) if not made.stride else made, X), model(X), atol=1e-12, rtol=0)
    assert axis in (1, None)


OTHER: dict[str, tuple[Callable[[Calls, Tensor], Tensor], str]] = {
    "activation": (lambda m, x: F.relu(x), "relu is not linear"),
    "pool": (lambda m, x: F.max_pool2d(x, 2), "is not linear"),
    "gate": (lambda m, x: x * x.mean((2, 3), keepdim=True), "a gate multiplies it by another tensor"),
    "map": (lambda m, x: x * m.map, "mul has no exact form here"),
    "computed": (lambda m, x: F.conv2d(x, m.same.weight * 2), "its weight is computed"),
    "ceiling": (lambda m, x: F.avg_pool2d(x, 4, ceil_mode=True), "avg_pool2d has no exact form here"),
    "cut": (lambda m, x: x[:, :, 1:], "getitem has no exact form here"),
    "dtype": (lambda m, x: x.to(torch.float32), "to has no exact form here"),
    "layer norm": (lambda m, x: F.layer_norm(x, (8,)), "layer_norm is not linear"),
    "dropout": (lambda m, x: F.dropout(x), "dropout has no exact form here"),
    "broadcast": (lambda m, x: x + x[:, :, :, :1], "is not linear|no exact form"),
    "part overwritten": (lambda m, x: _overwritten(x), "overwrites a part|it is overwritten"),
    "along another axis": (lambda m, x: F.linear(x * m.scale, torch.eye(8)), "its weight is computed"),
}


def _overwritten(x: Tensor) -> Tensor:
    y = x * 2
    y[:, 0] = 0
    return y


@pytest.mark.parametrize("case", OTHER)
def test_other_calls_are_not_linear_and_say_why(case: str) -> None:
    call, why = OTHER[case]
    model = Calls(call).double().eval()
    forward = forward_of(model, Example.of(X, model))
    (output,) = forward.outputs
    with pytest.raises(NotMergeable, match=why):
        map_between(forward, 0, output, Values(model))
