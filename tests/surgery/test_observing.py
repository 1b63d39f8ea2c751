"""Observing: the outputs of the activation calls of a live model in one forward."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

import surgery
from surgery.look.example import Example
from surgery.look.observe import Key
from tests import models
from tests.asserts import assert_bit_equal, assert_raises, assert_untouched
from tests.models import picture, randomise


class Mixed(models.Stated):
    """In place and out of place, by module and by function, one module twice; each result is overwritten later."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (nn.Conv2d(3, 3, 1) for _ in range(3))
        self.norm, self.act = nn.BatchNorm2d(3), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.conv1(x)))
        x = self.act(self.conv2(x) - 0.1) * 2
        y = F.silu(self.conv3(x) + 0.5)
        y += 0.25  # what was shown is gone
        return torch.tanh_(y)


def seen_by(model: nn.Module, run: Callable[[], Any]) -> list[tuple[Key, Tensor]]:
    """Keys and copies of what is shown while `run` makes one forward."""
    noted: list[tuple[Key, Tensor]] = []
    with surgery.observing(model, lambda key, output: noted.append((key, output.clone()))):
        run()
    return noted


def by_hand(model: Mixed, x: Tensor) -> list[Tensor]:
    first = model.norm(model.conv1(x)).clamp(min=0)
    second = (model.conv2(first) - 0.1).clamp(min=0)
    third = model.conv3(second * 2) + 0.5
    third = third / (1 + (-third).exp())
    fourth = third + 0.25
    return [first, second, third, (fourth.exp() - (-fourth).exp()) / (fourth.exp() + (-fourth).exp())]


# Which calls


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("kind", models.STATED, ids=lambda kind: kind.__name__)
def test_every_call_is_shown_under_the_key_of_its_site(kind: type[models.Stated], mode: str) -> None:
    model = kind()
    sites = surgery.find_sites(model, kind.example)
    model.train(mode == "train")
    arguments = Example.of(kind.example, model).on(torch.device("cpu"))
    noted = seen_by(model, lambda: model(*arguments.args, **arguments.kwargs))
    keys = [key for key, _ in noted]
    assert len(keys) == len(set(keys))
    assert set(keys) == {site.key for site in sites if mode in site.modes}
    assert keys == [site.key for site in sites if mode in site.modes]
    shapes = {key: tuple(output.shape) for key, output in noted}
    assert all(shapes[site.key] == site.shape for site in sites if mode in site.modes)


def test_a_graph_model_is_shown() -> None:
    model = models.graph_model()
    sites = surgery.find_sites(model, picture())
    assert [key for key, _ in seen_by(model, lambda: model(picture()))] == [site.key for site in sites]


def test_an_erased_call_is_not_shown_and_a_swapped_one_is() -> None:
    model = models.ResidualNet()
    edited, _ = surgery.transform(
        model, [surgery.erase_relu(location="last"), surgery.swap("prelu", remaining=True)], picture()
    )
    sites = surgery.find_sites(edited, picture())
    assert 0 < len(sites) < len(surgery.find_sites(model, picture()))
    assert {site.activation for site in sites} == {"prelu"}
    assert [key for key, _ in seen_by(edited, lambda: edited(picture()))] == [site.key for site in sites]


def test_another_batch_size_makes_the_same_calls() -> None:
    model = models.ResidualNet()
    keys = [key for key, _ in seen_by(model, lambda: model(picture()))]
    noted = seen_by(model, lambda: model(torch.rand(5, 3, 8, 8)))
    assert [key for key, _ in noted] == keys
    assert {len(output) for _, output in noted} == {5}


# What is shown


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("graph", [True, False])
def test_what_is_shown_is_what_the_network_goes_on_with(mode: str, graph: bool) -> None:
    model = randomise(Mixed()).train(mode == "train")
    assert isinstance(model, Mixed)
    x = picture() * 2 - 1
    with torch.set_grad_enabled(graph):
        noted = seen_by(model, lambda: model(x))
    wanted = by_hand(model, x)
    assert len(noted) == len(wanted) == 4
    for (_, output), other in zip(noted, wanted, strict=True):
        assert not output.requires_grad
        assert torch.allclose(output, other, atol=1e-5)


def test_a_hook_that_changes_a_result_is_before_what_is_shown() -> None:
    model = models.TwiceUsed()
    model.act.register_forward_hook(lambda module, args, output: output + 5)  # type: ignore[union-attr, operator]
    noted = seen_by(model, lambda: model(picture()))
    assert all(float(output.min()) >= 5 for _, output in noted)


def test_pruned_weights_are_what_is_used() -> None:
    model = models.TwiceUsed()
    prune.custom_from_mask(model.conv1, "weight", torch.zeros_like(model.conv1.weight))  # type: ignore[arg-type]
    before = set(vars(model.conv1.weight))
    noted = seen_by(model, lambda: model(picture()))
    wanted = model.conv1.bias.detach().clamp(min=0).view(1, 4, 1, 1).expand(2, 4, 8, 8)  # type: ignore[operator, union-attr]
    assert torch.allclose(noted[0][1], wanted)
    assert set(vars(model.conv1.weight)) == before
    assert [key for key, _ in noted] == [site.key for site in surgery.find_sites(model, picture())]


# What is left behind


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_gradients_and_results_are_those_of_an_unobserved_forward(mode: str) -> None:
    value, other = (randomise(Mixed()) for _ in range(2))
    other.load_state_dict(value.state_dict())
    results = []
    for model, watched in ((value, True), (other, False)):
        model.train(mode == "train")
        x = (picture() * 2 - 1).requires_grad_()
        noted: list[Any] = []
        if watched:
            with surgery.observing(model, lambda key, output, noted=noted: noted.append(key)):
                result = model(x * 1)
        else:
            result = model(x * 1)
        result.sum().backward()
        results.append([result.detach(), x.grad, *(param.grad for param in model.parameters()), *model.buffers()])
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)


def test_nothing_is_left_behind() -> None:
    model, x = randomise(Mixed()).eval(), picture()
    with assert_untouched(model):
        seen_by(model, lambda: model(x))
    assert vars(x) == {}
    assert all(vars(param) == {} for param in (*model.parameters(), *model.buffers()))
    assert torch.overrides._get_current_function_mode_stack() == []


def test_nothing_is_left_behind_after_exceptions() -> None:
    model = randomise(Mixed()).eval()

    class Stop(Exception):
        pass

    def stop(key: Key, output: Tensor) -> None:
        raise Stop

    fast = torch.backends.mha.get_fastpath_enabled()
    with assert_untouched(model):
        with pytest.raises(Stop), surgery.observing(model, stop):
            model(picture())
        with pytest.raises(RuntimeError), surgery.observing(model, lambda key, output: None):
            model(picture(5))
    assert torch.overrides._get_current_function_mode_stack() == []
    assert torch.backends.mha.get_fastpath_enabled() == fast


def test_an_activation_that_raises_inside_a_model_that_goes_on() -> None:
    class Refuses(nn.ReLU):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("no")

    class GoesOn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = Refuses(), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            try:
                x = self.first(x)
            except RuntimeError:
                x = x + 1
            return self.second(x)

    model = GoesOn()
    (key, output), *rest = seen_by(model, lambda: model(picture()))
    assert not rest and key[2] == "self.second" and torch.equal(output, picture() + 1)


def test_random_numbers_are_drawn_as_ever() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Dropout())
    torch.manual_seed(1)
    with torch.no_grad():
        plain, after = model(picture()), torch.rand(3)
        torch.manual_seed(1)
        with surgery.observing(model, lambda key, output: None):
            watched = model(picture())
    assert torch.equal(plain, watched) and torch.equal(after, torch.rand(3))


def test_wrapped_models_are_refused() -> None:
    model = nn.DataParallel(models.TwiceUsed())

    def enter() -> None:
        with surgery.observing(model, lambda key, output: None):
            pass

    assert_raises(surgery.CannotLook, enter, "model.module")


# Threads


def test_what_other_threads_run_is_not_shown() -> None:
    model = Mixed().eval()
    mine, theirs = torch.randn(2, 3, 4, 4), torch.randn(5, 3, 4, 4)
    alone = [output for _, output in seen_by(model, lambda: model(mine))]
    shown: list[Tensor] = []

    def run_theirs(*_: Any) -> None:
        thread = threading.Thread(target=lambda: seen_by(model, lambda: model(theirs)) and model(theirs))
        thread.start()
        thread.join()

    def look(key: Key, output: Tensor) -> None:
        shown.append(output.clone())
        run_theirs()

    with assert_untouched(model), surgery.observing(model, look):
        run_theirs()
        model(mine)
    assert_bit_equal(shown, alone)
