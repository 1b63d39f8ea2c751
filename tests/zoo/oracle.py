"""What a model computes without some of its activation calls, found without editing it."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from tests.asserts import tensors
from tests.zoo.counting import Event, run, watching


def output(model: nn.Module, example: Any) -> list[Tensor]:
    """All tensors the model returns in eval mode; model and example stay as they are."""
    return _tensors_of(model, example, gone=())[0]


def output_without(model: nn.Module, example: Any, gone: Collection[int]) -> tuple[list[Tensor], list[Event]]:
    """The same with these activation calls (counted from 0) left out, and the calls that were made.

    An in-place call that is left out hands its input on untouched; any other hands on a copy of it.
    """
    outputs, events = _tensors_of(model, example, gone)
    assert all(place < len(events) for place in gone), f"there are {len(events)} activation calls, not {max(gone) + 1}"
    return outputs, [event for place, event in enumerate(events) if place not in gone]


def _tensors_of(model: nn.Module, example: Any, gone: Collection[int]) -> tuple[list[Tensor], list[Event]]:
    model, example = copy.deepcopy(model).eval(), copy.deepcopy(example)
    torch.manual_seed(0)
    with torch.no_grad(), watching(model, lambda place, event: place in gone) as events:
        found = tensors(run(model, example))
    return found, events
