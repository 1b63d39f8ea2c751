"""Held masks in a training: they hold, are passed on, and movement is gathered on demand."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import SGD

from pruning.masks.hold_in_training import Held
from surgery.errors import BadValue
from tests.asserts import assert_raises
from tests.pruning.tiny import assert_held, loss_of, random_masks, tiny_net


def test_masks_are_told_and_held_in_copies_too() -> None:
    model, average = tiny_net(), tiny_net()
    held, optimizer = Held(model, random_masks(model)), SGD(model.parameters(), lr=0.05)
    with held(optimizer, also=[average]):
        loss_of(model, 0).backward()
        optimizer.step()
        assert_held(model, held.masks)
        assert_held(average, held.masks)
    assert held.movement is None


def test_movement_is_gathered_over_several_entries() -> None:
    model = tiny_net()
    movement: dict[str, Tensor] = {}
    held, optimizer = Held(model, random_masks(model), movement), SGD(model.parameters(), lr=0.05)
    expected = {name: torch.zeros_like(mask, dtype=torch.float32) for name, mask in held.masks.items()}
    for step in range(3):
        with held([optimizer]):
            optimizer.zero_grad()
            loss_of(model, step).backward()
            for name, (param, _) in zip(held.masks, held.masks.pairs(model), strict=True):
                assert param.grad is not None
                expected[name] -= param.detach() * param.grad
            optimizer.step()
    for name, tensor in expected.items():
        torch.testing.assert_close(movement[name], tensor)
        assert tensor.any()


def test_without_an_optimiser_nothing_is_held() -> None:
    model = tiny_net()
    assert_raises(BadValue, lambda: Held(model, random_masks(model))(), "not an optimiser")
