"""Calibration: all that enters a function counts, whatever its axis, and nothing of the model changes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from surgery.activations import PWLU, FReLU
from surgery.errors import BadValue
from surgery.simplification.calibration import differences, points_of
from tests.asserts import assert_untouched
from tests.surgery.repair.data import random_batches


class Twice(nn.Module):
    """One function, called twice on pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.act, self.unused = FReLU(3, 0.9, 0.2), PWLU(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x) + self.act(2 * x - 1)


def rows(x: Tensor) -> Tensor:
    return x.movedim(1, -1).reshape(-1, 3)


def test_all_calls_are_seen_together() -> None:
    model, batches = Twice().eval(), random_batches(2, 3)
    with assert_untouched(model), torch.no_grad():
        found = points_of(model, {model.act: 1, model.unused: 1}, batches)
    assert list(found) == [model.act]
    entered = torch.cat([rows(part) for x in batches for part in (x, 2 * x - 1)])
    assert torch.equal(found[model.act].x.float().sort(dim=0).values, entered.sort(dim=0).values)
    with torch.no_grad():
        wanted = model.act(found[model.act].x.float())
    assert torch.allclose(found[model.act].y.float(), wanted) and not found[model.act].shared


def test_tokens_have_their_channels_last() -> None:
    model, batches = nn.Sequential(FReLU(3, 0.9, 0.2, axis=-1)), random_batches(2, 2, 5, 3)
    with torch.no_grad():
        found = points_of(model, {model[0]: -1}, batches)[model[0]]
    assert torch.allclose(found.y.float(), model[0](found.x.float()))


def test_the_difference_is_that_on_every_input() -> None:
    model, batches = Twice().train(), random_batches(3, 4)
    with torch.no_grad(), assert_untouched(model):
        found = differences(model, {model.act: nn.ReLU()}, {model.act: 1}, batches)[model.act]
        entered = torch.cat([rows(part) for x in batches for part in (x, 2 * x - 1)])
        y = model.act(entered)
    apart = entered.relu() - y
    error = (apart.square().mean(0).sqrt() / y.std(0, correction=0)).max().item()
    assert found.error == pytest.approx(error, rel=1e-5) and found.most == pytest.approx(apart.abs().max().item())


def test_inputs_that_are_not_finite_are_an_error() -> None:
    model = Twice()
    with pytest.raises(BadValue, match="not finite"), torch.no_grad():
        points_of(model, {model.act: 1}, [torch.full((1, 3, 2, 2), torch.inf)])


def test_an_input_may_be_a_keyword_and_empty_ones_do_not_count() -> None:
    class ByKeyword(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = FReLU(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.act(input=x) + self.act(x[:0]).sum()

    model, batches = ByKeyword(), random_batches(1, 2)
    with torch.no_grad():
        assert len(points_of(model, {model.act: 1}, batches)[model.act].x) == batches[0].numel() // 3
        assert points_of(model, {model.act: 1}, [batches[0][:0]]) == {}
