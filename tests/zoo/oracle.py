"""What a model computes without one of its activation calls, worked out without editing it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from tests.asserts import tensors
from tests.zoo.counting import Event, run, watching


def output(model: nn.Module, example: Any) -> list[Tensor]:
    """All tensors the model returns in eval mode; model and example stay as they are."""
    return _tensors_of(model, example, gone=-1)[0]


def output_without(model: nn.Module, example: Any, gone: int) -> tuple[list[Tensor], list[Event]]:
    """The same with the `gone`-th activation call (from 0) left out, and the calls that were made.

    An in-place call that is left out hands its input on untouched; any other hands on a copy of it.
    """
    outputs, events = _tensors_of(model, example, gone)
    assert gone < len(events), f"there is no activation call {gone}"
    return outputs, events[:gone] + events[gone + 1 :]


def _tensors_of(model: nn.Module, example: Any, gone: int) -> tuple[list[Tensor], list[Event]]:
    model, example = copy.deepcopy(model).eval(), copy.deepcopy(example)
    torch.manual_seed(0)
    with torch.no_grad(), watching(model, lambda place, event: place == gone) as events:
        found = tensors(run(model, example))
    return found, events
