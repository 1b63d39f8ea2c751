"""Errors of a model on a batch are reported with the number of the batch; other errors pass unchanged."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from surgery.errors import BadValue, CannotLook
from surgery.repair.batches import batch_errors, run_through
from tests.asserts import assert_raises

HALVES = torch.ones(4, 3, dtype=torch.half)


def forward(model: nn.Module, images: Tensor) -> Tensor:
    with batch_errors(3, model, images):
        result: Tensor = model(images)
    return result


def failing(error: Exception) -> nn.Module:
    class Failing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise error

    return Failing()


def test_a_forward_that_goes_through_says_nothing() -> None:
    assert forward(nn.Identity(), HALVES) is HALVES


def test_what_does_not_go_through_is_told_with_batch_model_and_cause() -> None:
    error = assert_raises(BadValue, lambda: forward(nn.Linear(3, 2), HALVES), "Batch 3", "Linear", "(4, 3)", "float16")
    assert isinstance(error.__cause__, RuntimeError)
    assert str(error.__cause__).splitlines()[0] in str(error)


def test_one_value_per_channel_is_told() -> None:
    assert_raises(BadValue, lambda: forward(nn.BatchNorm1d(3), torch.ones(1, 3)), "Batch 3", "more than 1 value")


@pytest.mark.parametrize(
    "error",
    [TypeError("t"), ValueError("v"), KeyError("k"), AttributeError("a"), AssertionError(), ZeroDivisionError("z")],
)
def test_every_kind_of_refusal(error: Exception) -> None:
    raised = assert_raises(BadValue, lambda: forward(failing(error), HALVES), "Batch 3", type(error).__name__)
    assert raised.__cause__ is error


@pytest.mark.parametrize("error", [CannotLook("scripted"), OSError("disk"), StopIteration()])
def test_errors_of_ours_and_what_is_no_refusal_pass(error: Exception) -> None:
    assert assert_raises(type(error), lambda: forward(failing(error), HALVES)) is error


def test_batches_are_handed_on_when_they_have_gone_through() -> None:
    through, seen = run_through(nn.Linear(3, 2), [torch.ones(2, 3), (torch.ones(4, 3), torch.arange(4)), HALVES]), []
    seen += [next(through), next(through)]
    assert [tuple(batch.images.shape) for batch in seen] == [(2, 3), (4, 3)] and seen[1].labels is not None
    assert_raises(BadValue, lambda: next(through), "Batch 3 fails in Linear", "float16")
