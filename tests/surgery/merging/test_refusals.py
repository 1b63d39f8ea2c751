"""What cannot be merged is listed with the reason."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import surgery
from surgery.merging.groups import linear_groups

X = torch.randn(2, 4, 9, 9)


class Called(nn.Module):
    """Two convolutions with an activation between that is erased, called in some way."""

    def __init__(self, call: Callable[[Called, Tensor], Tensor], change: Callable[[Called], object] = id) -> None:
        super().__init__()
        self.call = call
        self.conv1, self.line, self.conv2 = nn.Conv2d(4, 4, 1), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3)
        self.pool, self.bn, self.act = nn.MaxPool2d(2), nn.BatchNorm2d(4), nn.ReLU()
        change(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.call(self, x))


class Conv2dSame(nn.Conv2d):
    """As in timm: its padding depends on the size of its input."""

    def forward(self, x: Tensor) -> Tensor:
        need = [max((-(-size // 2) - 1) * 2 + 3 - size, 0) for size in x.shape[:-3:-1]]
        return self._conv_forward(nn.functional.pad(x, [side for n in need for side in (n // 2, n - n // 2)]),
                                  self.weight, self.bias)  # fmt: skip


def straight(m: Called, x: Tensor) -> Tensor:
    return m.conv2(m.line(m.conv1(x)))


def setting(name: str, value: nn.Module) -> Callable[[Called], object]:
    return lambda m: m.register_module(name, value)


def spectral(m: Called) -> object:
    return parametrizations.spectral_norm(m.conv1)


def tied(m: Called) -> None:
    m.pool = nn.Conv2d(4, 4, 1)
    m.pool.weight = m.conv1.weight


CASES: dict[str, tuple[Called, str]] = {
    "pool": (Called(lambda m, x: m.conv2(m.pool(m.line(m.conv1(x))))), "max_pool2d is not linear"),
    "gate": (Called(lambda m, x: (y := m.line(m.conv1(x))) * y.mean((2, 3), keepdim=True)), "its result is read 2"),
    "gated": (Called(lambda m, x: m.conv1(m.line(x * m.bn.weight.sum()))), "mul has no exact form here"),
    "second reader": (Called(lambda m, x: m.conv2(y := m.line(m.conv1(x))) + y.mean()), "its result is read 2"),
    "hooks": (Called(straight, lambda m: m.conv2.register_forward_hook(lambda *_: None)), "conv2: it has hooks"),
    "gradient hooks": (Called(straight, lambda m: m.conv2.register_full_backward_hook(print)), "it has hooks"),
    "masks": (Called(straight, lambda m: prune.random_unstructured(m.conv1, "weight", 0.5)), "its weight is computed"),
    "parametrisations": (Called(straight, spectral), "its weight is computed"),
    "shared": (Called(lambda m, x: m.conv1(m.line(m.conv1(x)))), "conv1: it is called 2 times"),
    "tied": (Called(lambda m, x: m.pool(m.act(straight(m, x))), tied), "conv1.weight is also used elsewhere"),
    "padding": (Called(straight, setting("conv2", nn.Conv2d(4, 4, 3, padding=1))), "move the padding first"),
    "padding by size": (Called(straight, setting("conv2", Conv2dSame(4, 4, 3, 2))), "its padding depends on the size"),
    "flattened": (Called(lambda m, x: m.line(m.conv1(x)).flatten(2)), "a layer cannot contain flatten"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_reason_is_named(case: str) -> None:
    model, reason = CASES[case]
    edited, _ = surgery.transform(model.eval(), surgery.erase(site="line"), X)
    groups = linear_groups(edited, X)
    refused = [group for group in groups.refused if "line" in group.sites]
    assert len(refused) == 1 and reason in refused[0].reason, str(groups)
    assert not any({"line", "conv2"} <= set(group.layers) for group in groups.mergeable)


class Shared(nn.Module):
    """One convolution for two maps, with a norm for each or one for both."""

    def __init__(self, norms: int) -> None:
        super().__init__()
        self.conv, self.norms = nn.Conv2d(3, 4, 1), nn.ModuleList(nn.BatchNorm2d(4) for _ in range(norms))

    def forward(self, x: Tensor) -> Tensor:
        return self.norms[0](self.conv(x)).relu().sum() + self.norms[-1](self.conv(x * 2)).relu().sum()


@pytest.mark.parametrize("norms", (1, 2))
def test_the_norms_of_a_shared_convolution_stay(norms: int) -> None:
    groups = linear_groups(Shared(norms).eval(), torch.randn(2, 3, 5, 5))
    assert groups.mergeable == ()
    assert {"it is called 2 times" in group.reason for group in groups} == {True}
    with pytest.raises(surgery.NothingPicked, match="it is called 2 times"):
        surgery.merge(Shared(norms).eval(), example=torch.randn(2, 3, 5, 5))


class Borrowed(nn.Module):
    """A module that uses the weight of a child that it does not call."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.inner.weight, self.inner.bias)


def test_a_weight_of_another_module_stays_there() -> None:
    model = nn.Sequential(Borrowed(), nn.BatchNorm2d(4)).eval()
    reasons = {group.path: group.reason for group in linear_groups(model, torch.randn(2, 3, 5, 5))}
    why = "its weight is that of another module"
    assert reasons == {"0": why, "1": f"0: {why}"}
