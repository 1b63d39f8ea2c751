"""The meter: dead neurons during training, measured in some of its forwards."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import surgery
from pruning.dead import meter as meters
from pruning.dead.meter import DeadNeuronMeter
from pruning.dead.rates import dead_neurons
from pruning.masks.masks import Masks
from surgery import BadValue, CannotLook, WrongModel
from tests import models
from tests.asserts import assert_raises, assert_untouched
from tests.models import picture, randomise


def batch(seed: int, size: int = 4) -> Tensor:
    return torch.randn(size, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def trained(model: nn.Module, steps: int, every: int | None) -> list[Any]:
    """The losses of some steps, and the tensors of the model after them."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    torch.manual_seed(0)
    losses = []

    def go() -> None:
        for step in range(steps):
            optimizer.zero_grad()
            loss = model(batch(step)).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())

    if every is None:
        go()
    else:
        with DeadNeuronMeter(model, every) as meter:
            go()
        assert meter.rates().rows
    return [*losses, *model.state_dict().values(), torch.rand(2)]


def highest_of(model: nn.Module, xs: list[Tensor]) -> list[Tensor]:
    """By hand: the highest output of every relu, per channel, of train-mode forwards."""
    plain, runs = F.relu, []
    for x in xs:
        calls: list[Tensor] = []

        def kept(*args: Any, calls: list[Tensor] = calls, **kwargs: Any) -> Tensor:
            result = plain(*args, **kwargs)
            calls.append(result.detach().clone())
            return result

        F.relu = kept  # type: ignore[assignment]
        try:
            model(x)
        finally:
            F.relu = plain
        runs.append([call.amax((0, 2, 3)) for call in calls])
    return [torch.stack(parts).amax(0) for parts in zip(*runs, strict=True)]


@pytest.mark.parametrize("every", [1, 2, 50])
def test_the_numbers_are_those_of_the_forwards_looked_into(every: int) -> None:
    model, other = (randomise(models.ResidualNet()).train() for _ in range(2))
    other.load_state_dict(model.state_dict())
    for network in (model, other):
        with torch.no_grad():
            network.bn1.bias[:2] -= 30  # type: ignore[index, union-attr, operator]
    xs = [batch(seed) for seed in range(5)]
    with DeadNeuronMeter(model, every) as meter:
        for x in xs:
            model(x)
    rates = meter.rates()
    wanted = highest_of(other, xs[::every])
    assert [row.silent for row in rates.rows] == [int((high <= 0).sum()) for high in wanted]
    assert rates.rows[0].dynamic >= 2 and rates.mode == "train"
    assert rates.samples == 4 * len(xs[::every])


@pytest.mark.parametrize("every", [1, 3])
def test_training_goes_as_it_would(every: int) -> None:
    torch.manual_seed(0)
    model, other = (nn.Sequential(randomise(models.ResidualNet()), nn.Dropout()) for _ in range(2))
    other.load_state_dict(model.state_dict())
    for first, second in zip(trained(model, 4, every), trained(other, 4, None), strict=True):
        assert torch.equal(first, second)


def test_the_mean_inputs_are_those_of_the_forwards_looked_into() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2), nn.ReLU())
    with DeadNeuronMeter(model, every=2, inputs=True) as meter:
        for seed in range(4):
            model(batch(seed))
    images = torch.cat([batch(0), batch(2)])
    hidden = torch.cat([model[:4](batch(seed)).detach() for seed in (0, 2)])
    found = meter.measured().inputs
    torch.testing.assert_close(dict(found), {"0.weight": images.mean((0, 2, 3)), "4.weight": hidden.mean(0)})
    assert not model[0]._forward_pre_hooks and not model[4]._forward_pre_hooks
    meter.reset()
    assert_raises(BadValue, meter.measured, "No forward")
    with meter:
        model(batch(1))
    torch.testing.assert_close(meter.measured().inputs["0.weight"], batch(1).mean((0, 2, 3)))
    with DeadNeuronMeter(model, every=1) as plain:
        model(batch(0))
    assert plain.measured().inputs == {}


def test_nothing_is_left_behind() -> None:
    model = models.ResidualNet().eval()
    x = batch(0)
    with assert_untouched(model), DeadNeuronMeter(model) as meter:
        model.train()
        with torch.no_grad():
            frozen = {name: buffer.clone() for name, buffer in model.named_buffers()}
            model(x)
            for name, buffer in model.named_buffers():
                buffer.copy_(frozen[name])
        model.eval()
    assert meter.rates().rows and vars(x) == {}
    assert torch.overrides._get_current_function_mode_stack() == []


def test_nothing_is_left_behind_after_exceptions() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Conv2d(3, 4, 1), nn.ReLU()).train()
    with assert_untouched(model):
        with pytest.raises(RuntimeError), DeadNeuronMeter(model, every=1) as meter:
            model(batch(0))
            model(torch.ones(2, 5, 8, 8))
        assert torch.overrides._get_current_function_mode_stack() == []
        with DeadNeuronMeter(model, every=1) as meter:
            for x in (torch.ones(2, 5, 8, 8), batch(0)):  # a loop that goes on
                try:
                    model(x)
                except (RuntimeError, CannotLook):
                    assert torch.overrides._get_current_function_mode_stack() == []
    assert meter.rates().samples == 4
    assert torch.overrides._get_current_function_mode_stack() == []


def test_a_model_that_calls_itself_is_looked_into_once() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor, again: bool = True) -> Tensor:
            x = torch.relu(self.conv(x))
            return self(x, again=False) if again else x

    model = Twice().train()
    with DeadNeuronMeter(model, every=1) as meter:
        model(batch(0))
    assert len(meter.rates().rows) == 2 and meter.rates().samples == 4
    assert not model._forward_hooks and not model.conv._forward_pre_hooks


def test_forwards_in_eval_mode_are_not_counted() -> None:
    model = models.ResidualNet()
    with DeadNeuronMeter(model, every=2) as meter:
        for x in (batch(0), batch(1, 3), batch(2, 2)):
            model.eval()(x)
            model.train()(x)
    assert meter.rates().samples == 4 + 2


def test_reset_begins_anew() -> None:
    model = models.ResidualNet().train()
    with DeadNeuronMeter(model, every=1) as meter:
        model(batch(0))
        meter.reset()
        assert_raises(BadValue, meter.rates, "No forward")
        model(batch(1, 3))
    assert meter.rates().samples == 3


def test_masks_are_read_when_rates_are_asked_for() -> None:
    model = models.ResidualNet().train()
    conv = model.conv1
    assert isinstance(conv, nn.Conv2d)
    with DeadNeuronMeter(model, every=1) as meter:
        model(batch(0))
    assert meter.rates().static_share == 0
    with torch.no_grad():
        conv.weight[1] = 0
    assert meter.rates().rows[0].static == 0
    assert meter.rates(Masks.of(model)).rows[0].static == 1
    other = Masks({"conv1.weight": torch.ones(1, 2, dtype=torch.bool)})
    assert_raises(WrongModel, lambda: meter.rates(other), "conv1.weight")


def test_calls_made_in_training_only_are_measured() -> None:
    model = models.TrainOnly().train()
    example = models.TrainOnly.example
    with DeadNeuronMeter(model, every=1) as meter:
        model(example)
    trained_only = [str(site) for site in surgery.find_sites(model, example) if site.modes == ("train",)]
    assert trained_only and set(trained_only) <= {row.site for row in meter.rates().rows}
    assert not set(trained_only) & {row.site for row in dead_neurons(model, [example]).rows}


def test_a_model_behind_a_wrapper_is_metered() -> None:
    class Wrapper(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, **inputs: Tensor) -> Tensor:
            return self.module(x=inputs["picture"])

    model = models.ResidualNet().train()
    with DeadNeuronMeter(model, every=1) as meter:
        Wrapper(model)(picture=picture())
    assert meter.rates().samples == 2


def test_a_copy_made_inside_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.ResidualNet().train()
    with DeadNeuronMeter(model, every=1) as meter:
        model(batch(0))
        average = copy.deepcopy(model)
        with monkeypatch.context() as patch:
            patch.setattr(meters, "tallying", None)  # nobody looks
            average(batch(1))
            copy.copy(model)(batch(1))
        model(batch(2))
    rates = meter.rates()
    average(batch(3))
    assert rates.samples == 8 and meter._forwards == 2
    assert meter.rates() == rates
    assert not model._forward_pre_hooks and not model._forward_hooks


@pytest.mark.parametrize("size", [2, 3, 5])
def test_time_first_has_no_elements_also_where_it_is_as_long_as_the_batch(size: int) -> None:
    class Sequence(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.fc(x.transpose(0, 1))).mean(0)
            return torch.relu(self.head(x))

    model = Sequence().train()
    with DeadNeuronMeter(model, every=1) as meter:
        for _ in range(2):
            model(torch.randn(size, 5, 3))
        model(torch.randn(5, size, 3))
    first, second = meter.rates().rows
    assert (first.channels, first.elements, first.outputs) == (4, None, 15 * size * 4)
    assert (second.channels, second.elements) == (2, 2)
    with meter:
        for length in (2, 3):
            meter.reset()
            model(torch.randn(length, length, 3))
            assert [row.elements for row in meter.rates().rows] == [None, 2]


def test_what_is_no_number_is_refused_until_the_reset() -> None:
    model = models.ResidualNet().train()
    with DeadNeuronMeter(model, every=1) as meter:
        model(batch(0) * torch.nan)
        model(batch(1))
        assert_raises(BadValue, meter.rates, "relu", "NaN")
    plain = models.ResidualNet().train()
    with DeadNeuronMeter(plain, every=1) as meter:
        plain(batch(0))
    masks = dict(Masks.full(plain))
    assert meter.rates(masks) == meter.rates(Masks(masks))
    assert_raises(BadValue, lambda: meter.rates([]), "`masks`")  # type: ignore[arg-type]


def test_bad_input_is_refused_by_name() -> None:
    model = models.ResidualNet()
    for every in (0, -1, 1.5, True):
        assert_raises(BadValue, lambda every=every: DeadNeuronMeter(model, every), f"every={every!r}")  # type: ignore[misc]
    assert_raises(BadValue, lambda: DeadNeuronMeter(model, threshold=float("inf")), "threshold=inf")
    assert_raises(BadValue, lambda: DeadNeuronMeter(model, role="all"), "role='all'")
    assert_raises(CannotLook, lambda: DeadNeuronMeter(nn.DataParallel(model)), "model.module")
    assert_raises(BadValue, DeadNeuronMeter(model).rates, "No forward")


def test_a_meter_that_measures_is_not_entered_again() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    meter = DeadNeuronMeter(model, every=1)
    with assert_untouched(model), meter:
        assert_raises(BadValue, meter.__enter__, "already measuring", "second")
        model(torch.ones(3, 4))
    with meter:  # but after it has ended
        model(torch.ones(2, 4))
    assert meter.rates().samples == 5


def test_a_forward_that_begins_in_another_thread_meanwhile_does_not_count() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    own = model[0].forward

    def meanwhile(x: Tensor) -> Tensor:
        if threading.current_thread() is threading.main_thread():
            other = threading.Thread(target=lambda: model(torch.randn(7, 4)))
            other.start()
            other.join()
        return own(x)

    batches = [torch.randn(3, 4) for _ in range(2)]
    with DeadNeuronMeter(model, every=1, inputs=True) as meter:
        model[0].forward = meanwhile  # type: ignore[method-assign]
        for x in batches:
            model(x)
    assert meter.rates().samples == 6
    torch.testing.assert_close(meter.measured().inputs["0.weight"], torch.cat(batches).mean(0))


def test_a_meter_says_what_it_has_seen() -> None:
    model = models.ResidualNet()
    meter = DeadNeuronMeter(model, every=2)
    assert repr(meter) == "<DeadNeuronMeter of ResidualNet: every=2, 0 samples since the last reset>"
    with meter:
        for step in range(3):
            model(batch(step))
    assert repr(meter) == "<DeadNeuronMeter of ResidualNet: every=2, 8 samples since the last reset>"
