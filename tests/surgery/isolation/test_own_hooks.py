"""Hooks that a model sets on itself and needs: it looks the same before and after its first forward."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import pruning
import surgery
from surgery.isolation.meta_copy import scratch_copy
from tests.asserts import assert_untouched

NOTED: list[Tensor] = []
X = torch.randn(2, 8)


class Collecting(nn.Module):
    """Sets hooks on its layers in its first forward, in one of several ways, and reads what they gathered."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(3))
        self.head, self.ready, self.way = nn.Linear(24, 2), False, way
        self.kept: list[Tensor] = []

    def keep(self, place: str, module: nn.Module, args: Any, result: Tensor) -> None:
        self.kept.append(result)

    def keep_all(self, module: nn.Module, args: Any, kwargs: Any, result: Tensor) -> None:
        self.kept.append(result)

    def set_hooks(self) -> None:
        for layer in self.layers:
            if self.way == "closure":
                layer.register_forward_hook(lambda module, args, result: self.kept.append(result))
            elif self.way == "method":
                layer.register_forward_hook(self.keep_all, with_kwargs=True, always_call=True)
            elif self.way == "partial":
                layer.register_forward_hook(partial(self.keep, "here"))
            else:
                layer.register_forward_hook(lambda module, args, result: NOTED.append(result))

    def forward(self, x: Tensor) -> Tensor:
        if not self.ready:
            self.set_hooks()
            self.ready = True
        kept = NOTED if self.way == "global" else self.kept
        kept.clear()
        for layer in self.layers:
            x = layer(x)
        result: Tensor = self.head(torch.cat([kept[k] for k in range(3)], -1))
        kept.clear()
        return result


@pytest.mark.slow
@pytest.mark.parametrize("way", ["closure", "method", "partial", "global"])
def test_looks_the_same_before_and_after_a_forward(way: str) -> None:
    model = Collecting(way).eval()
    fresh = surgery.find_sites(model, X)
    with torch.no_grad():
        wanted = model(X)
    with assert_untouched(model):
        again = surgery.find_sites(model, X)
        edited, _ = surgery.transform(model, surgery.swap("prelu"), X)
        rows = pruning.dead_neurons(model, [X]).rows
    assert tuple(fresh) == tuple(again)
    assert len(fresh) == len(rows) == 3
    assert surgery.find_sites(edited, X)[0].activation == "prelu"
    with torch.no_grad():
        assert torch.equal(model(X), wanted)
    assert not model.kept


def test_a_copied_hook_speaks_of_the_copy() -> None:
    model = Collecting("closure").eval()
    model(X)
    other = scratch_copy(model, meta=False)
    model.kept.clear()
    other.layers[0](X)  # type: ignore[index, operator]
    assert len(other.kept) == 1  # type: ignore[arg-type]
    assert not model.kept


@pytest.mark.slow
def test_hooks_of_the_user_stay_behind() -> None:
    model, calls = Collecting("method").eval(), []
    model(X)
    model.layers[0].register_forward_hook(lambda *_: calls.append("a function"))
    model.layers[0].register_forward_pre_hook(partial(lambda *_: calls.append("a partial")))
    surgery.find_sites(model, X)
    surgery.transform(model, surgery.swap("prelu"), X)
    assert not calls
    assert len(scratch_copy(model, meta=True).layers[0]._forward_hooks) == 1  # type: ignore[index, union-attr]


def test_timm_features_by_hooks() -> None:
    settings: dict[str, Any] = {"features_only": True, "feature_cls": "hook", "out_indices": (1, 2)}
    model = timm.create_model("test_resnet", **settings).eval()
    x = torch.randn(2, 3, 32, 32)
    plain = timm.create_model("test_resnet", features_only=True, out_indices=(1, 2)).eval()
    assert len(surgery.find_sites(model, x)) >= len(surgery.find_sites(plain, x)) > 3
    with torch.no_grad():
        assert [tensor.shape for tensor in model(x)] == [tensor.shape for tensor in plain(x)]
