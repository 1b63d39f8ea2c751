"""Compensation: the means of the layers after a cut are those before it, wherever something can take the difference."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pruning.masks.masks import Masks
from pruning.rounds.compensation import compensate, differences
from surgery.errors import BadValue, CannotLook, NothingPicked, WrongModel
from tests import models
from tests.asserts import assert_raises, assert_untouched
from tests.models import randomise
from tests.pruning.tiny import batch, random_masks, tiny_net

BATCHES = [batch(step) for step in range(3)]


def cut(model: nn.Module, masks: Masks) -> nn.Module:
    masks.lay_over(model)
    return model


def test_a_linear_layer_with_constant_inputs_loses_nothing() -> None:
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2.0, 4.0], [0.5, 0.25, -1.0]]))
        layer.bias.zero_()
    x = torch.tensor([[3.0, -2.0, 1.0]]).repeat(5, 1)
    before = layer(x)
    added = compensate(layer, Masks({"weight": torch.tensor([[True, False, True], [False, True, True]])}), [x])
    assert layer.weight.tolist() == [[1, 0, 4], [0, 0.25, -1]]
    assert added["bias"].tolist() == [2 * -2, 0.5 * 3] == layer.bias.tolist()
    assert torch.equal(layer(x), before)


def test_double_precision_stays() -> None:
    layer = nn.Linear(6, 4).double()
    x = torch.randn(50, 6, dtype=torch.float64)
    before = layer(x).mean(0)
    compensate(layer, random_masks(layer), [x])
    torch.testing.assert_close(layer(x).mean(0), before, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(2, 4, 3, groups=2), nn.ConvTranspose2d(2, 4, 2), nn.Linear(6, 4)],
    ids=["padded", "grouped", "transposed", "linear"],
)
def test_the_mean_of_every_output_channel_stays(layer: nn.Module) -> None:
    mean = _last_axis_mean if isinstance(layer, nn.Linear) else _second_axis_mean
    before, masks = mean(layer(BATCHES[0])), random_masks(layer)
    compensate(layer, masks, BATCHES[:1])
    masks.check_zero(layer)
    torch.testing.assert_close(mean(layer(BATCHES[0])), before)


def _last_axis_mean(x: Tensor) -> Tensor:
    return x.mean((0, 1, 2))


def _second_axis_mean(x: Tensor) -> Tensor:
    return x.mean((0, 2, 3))


def test_the_outputs_of_a_network_keep_their_means_although_all_its_layers_are_cut() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    other = copy.deepcopy(randomise(model).eval())
    before = model(BATCHES[0]).mean(0)
    added = compensate(model, random_masks(model), BATCHES[:1])
    assert list(added) == ["1.running_mean", "4.bias"]
    torch.testing.assert_close(model(BATCHES[0]).mean(0), before)
    assert not torch.allclose(cut(other, random_masks(model))(BATCHES[0]).mean(0), before, rtol=0.01)


def test_behind_a_batch_norm_nothing_changes_in_training() -> None:
    def normed() -> nn.Module:
        return nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())

    model, other = normed(), normed()
    other.load_state_dict(model.state_dict())
    masks = random_masks(model)
    assert bool(compensate(model, masks, BATCHES)["1.running_mean"].any())
    for x in BATCHES:
        assert torch.equal(model.train()(x), cut(other, masks).train()(x))


def test_batches_weigh_as_many_values_as_they_have() -> None:
    layer = nn.Linear(2, 1)
    x = torch.randn(12, 2, generator=torch.Generator().manual_seed(0))
    masks = Masks({"weight": torch.tensor([[True, False]])})
    whole, parts = differences(layer, masks, [x]), differences(layer, masks, [x[:2], x[2:3], x[3:]])
    torch.testing.assert_close(parts, whole)


def test_a_bias_of_two_layers_and_a_layer_called_twice_get_the_mean_difference() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(1, 1), nn.Linear(1, 1)
            self.b.bias = self.a.bias

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) + self.a(3 * x) + self.b(x)

    model = Tied()
    with torch.no_grad():
        model.a.weight.fill_(1)
        model.b.weight.fill_(-1)
        model.a.bias.zero_()
    masks = Masks({name: torch.zeros(1, 1, dtype=torch.bool) for name in ("a.weight", "b.weight")})
    assert differences(model, masks, [torch.full((2, 1), 6.0)]) == {"a.bias": torch.tensor([(6 + 18 - 6) / 3])}


def test_a_layer_may_get_a_single_row() -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.row, self.layer = nn.Parameter(torch.tensor([1.0, 2.0])), nn.Linear(2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.layer(self.row)

    model = Shifted()
    with torch.no_grad():
        model.layer.weight.copy_(torch.tensor([[3.0, 4.0]]))
    masks = Masks({"layer.weight": torch.tensor([[True, False]])})
    assert differences(model, masks, [torch.zeros(5, 1)]) == {"layer.bias": torch.tensor([8.0])}


@pytest.mark.parametrize("by_name", [False, True])
def test_a_norm_may_take_more_than_its_input(by_name: bool) -> None:
    class Scaled(nn.BatchNorm1d):
        def forward(self, input: Tensor, scale: float = 1.0) -> Tensor:
            return scale * super().forward(input)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm, self.last = nn.Linear(2, 2, bias=False), Scaled(2), nn.Linear(2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.last(self.norm(input=x, scale=5.0) if by_name else self.norm(x, 5.0))  # type: ignore[no-any-return]

    model, x = Net().eval(), torch.tensor([[1.0, 2.0], [2.0, 5.0], [6.0, -1.0]])
    before = model(x).mean(0)
    compensate(model, random_masks(model), [x])
    torch.testing.assert_close(model(x).mean(0), before)


def test_calls_that_a_batch_makes_only_before_the_cut_count_for_no_other_batch() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(2, 1), nn.Linear(1, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.second(x) if x.std() > 0.1 else x

    model = Branching()
    with torch.no_grad():
        model.first.weight.fill_(1)
        model.first.bias.zero_()
    masks = Masks({"first.weight": torch.tensor([[False, True]])})
    batches = [torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, -3.0], [0.0, 5.0]])]
    found = differences(model, masks, batches)
    assert found == {"first.bias": torch.zeros(1), "second.bias": torch.zeros(1)}


def test_masks_that_cut_nothing_add_nothing() -> None:
    model = randomise(models.ResidualNet())
    x = torch.randn(4, 3, 8, 8)
    with assert_untouched(model):
        added = differences(model, Masks.full(model), [x])
    assert added and not any(bool(value.any()) for value in added.values())


@pytest.mark.parametrize(
    ("error", "words", "broken"),
    [
        (BadValue, "No batches", lambda net, masks: compensate(net, masks, [])),
        (BadValue, "Batch 2", lambda net, masks: compensate(net, masks, [batch(0), torch.zeros(1, 7, 6, 6)])),
        (BadValue, "0.bias", lambda net, masks: compensate(net, masks, [batch(0) * torch.nan])),
        (BadValue, "meta", lambda net, masks: compensate(tiny_net().to("meta"), masks, BATCHES)),
        (WrongModel, "other", lambda net, masks: compensate(net, Masks({"other": masks["0.weight"]}), BATCHES)),
        (CannotLook, "model.module", lambda net, masks: compensate(nn.DataParallel(net), masks, BATCHES)),
    ],
)
def test_what_cannot_be_compensated_is_refused_and_nothing_has_changed(
    error: type[Exception], words: str, broken: Callable[[nn.Module, Masks], object]
) -> None:
    model = tiny_net()
    with assert_untouched(model):
        assert_raises(error, lambda: broken(model, random_masks(model)), words)


def test_a_network_without_biases_and_norms_has_nowhere_to_put_a_mean() -> None:
    layer = nn.Linear(2, 2, bias=False)
    assert_raises(NothingPicked, lambda: compensate(layer, random_masks(layer), [torch.ones(1, 2)]), "nowhere")
