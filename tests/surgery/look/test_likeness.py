"""Likeness: owners that their code treats alike are proved once, others each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import surgery
from surgery import transforms
from surgery.edit import prove as proof
from tests import models
from tests.models import picture
from tests.surgery.edit.proofs import blocks, refused


@pytest.fixture
def proved(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the owners that are run for a proof, one per mode, because traces do not prove it."""
    monkeypatch.setattr(transforms, "only_these_changed", lambda *_: False)
    paths: list[str] = []
    original = proof._prove

    def counted(model: nn.Module, path: str, *rest: Any) -> None:
        paths.append(path)
        original(model, path, *rest)

    monkeypatch.setattr(proof, "_prove", counted)
    return paths


def test_equal_owners_are_proved_once(proved: list[str]) -> None:
    model = blocks(*(models.blocks.BasicBlock(3, 3) for _ in range(3)))
    surgery.transform(model, surgery.swap("silu"), picture())
    assert proved == ["0", "0"]  # in eval and in train mode
    surgery.transform(model, surgery.swap("silu"), picture())
    assert proved == ["0"] * 4  # what was proved in another call says nothing: the code may be another


@pytest.mark.parametrize(
    "change",
    [
        lambda block: setattr(block, "fast", True),
        lambda block: setattr(block, "downsample", nn.Sequential()),
        lambda block: setattr(block, "scale", nn.Parameter(torch.ones(1))),
        lambda block: setattr(block.conv1, "bias", None),
        lambda block: setattr(block, "conv2", block.conv1),
        lambda block: setattr(block, "helper", lambda x: x),
        lambda block: block.register_buffer("steps", torch.zeros(1, dtype=torch.int64)),
        lambda block: block.relu.register_forward_hook(lambda *_: None),
        lambda block: setattr(block.relu, "inplace", False),
    ],
    ids=["attribute", "child", "parameter", "no parameter", "ties", "function", "buffer", "hook", "option of a child"],
)
def test_owners_that_code_can_tell_apart_are_proved_each(change: Callable[[Any], None], proved: list[str]) -> None:
    model = blocks(models.blocks.BasicBlock(3, 3), models.blocks.BasicBlock(3, 3))
    change(model[1])
    surgery.transform(model, surgery.swap("silu"), picture())
    assert sorted(proved) == ["0", "0", "1", "1"]


def test_a_class_that_is_changed_between_two_calls_is_proved_anew() -> None:
    class Changing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.between(self.act(x)))

        def between(self, x: Tensor) -> Tensor:
            return x - 0.1

    surgery.transform(Changing(), surgery.swap("silu"), picture())
    Changing.between = lambda self, x: x * 2.0 if hasattr(self, "act_1") else x
    refused(Changing(), surgery.swap("silu"), "other outputs")
