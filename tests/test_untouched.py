"""Looking and measuring leave the model, the random generators and the state of the process unchanged."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.data import DataLoader, TensorDataset

import pruning
import surgery
from recipes.runs.evaluate import measure
from recipes.train.finetune import accuracy
from surgery.look.listen import listening
from tests import models
from tests.asserts import assert_process_untouched, assert_raises, assert_untouched, call

IMAGES = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(256, 2)
    )


def shuffled() -> DataLoader[Any]:
    """A loader that draws from the global generator whenever it is iterated."""
    return DataLoader(TensorDataset(IMAGES, torch.arange(64) % 2), batch_size=16, shuffle=True)


LOOKS: dict[str, Callable[[nn.Module], object]] = {
    "find_sites": lambda model: surgery.find_sites(model, IMAGES[:2]),
    "transform": lambda model: surgery.transform(model, surgery.swap("swish"), IMAGES[:2]),
    "dead_neurons": lambda model: pruning.dead_neurons(model, shuffled()),
    "dead_units": lambda model: pruning.dead_units(model, shuffled()),
    "with_ap": lambda _: pruning.with_ap(pruning.global_magnitude(), 0.1, by="dead", batches=shuffled()),
    "accuracy": lambda model: accuracy(model, shuffled()),
    "measure": lambda model: measure(model, shuffled()),
}


@pytest.mark.parametrize("look", LOOKS)
def test_nothing_is_touched(look: str) -> None:
    model = net()
    model[1].eval()  # modes of its own
    with assert_untouched(model):
        LOOKS[look](model)


@pytest.mark.filterwarnings("ignore:64 images")
def test_repairs_touch_nothing_but_the_model() -> None:
    edited, _ = surgery.transform(net(), surgery.erase(stand_in="affine"), IMAGES[:2])
    for repair in (surgery.recalibrate, surgery.fit_affine):
        modes = [module.training for module in edited.modules()]
        with assert_process_untouched():
            repair(edited, shuffled())
        assert [module.training for module in edited.modules()] == modes


class Counted:
    """Batches that count how often they are iterated."""

    def __init__(self) -> None:
        self.begun = 0

    def __iter__(self) -> Any:
        self.begun += 1
        return iter([IMAGES])


def test_batches_are_read_only_when_they_are_needed() -> None:
    batches = Counted()
    pruning.with_ap(pruning.global_magnitude(), 0.1, by="dead", batches=batches)
    assert batches.begun == 0
    assert_raises(
        surgery.SurgeryError, lambda: surgery.recalibrate(net(), iter([IMAGES])), "list_iterator", "read once"
    )


@pytest.mark.parametrize("batches", [[], [(torch.randn(2, 5), torch.zeros(2).long())]], ids=["none", "misfits"])
def test_accuracy_leaves_every_mode_after_an_exception(batches: Any) -> None:
    model = net()
    model[1].eval()
    with assert_untouched(model), pytest.raises((surgery.SurgeryError, RuntimeError)):
        accuracy(model, batches)


# Weights that are computed, and move whenever they are


def normed_classifier() -> tuple[nn.Module, torch.Tensor]:
    layers = nn.Linear(8, 8), nn.ReLU(), parametrizations.spectral_norm(nn.Linear(8, 4))
    return nn.Sequential(*layers), torch.randn(3, 8)


class Scale(nn.Module):
    """A parametrization that counts its calls in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("asked", torch.zeros(()))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        self.asked += self.training
        return weight * 2


def normed_norm() -> tuple[nn.Module, torch.Tensor]:
    norm = nn.BatchNorm2d(4)
    nn.utils.parametrize.register_parametrization(norm, "weight", Scale())
    return nn.Sequential(nn.Conv2d(3, 4, 1), norm, nn.ReLU(), nn.Flatten(), nn.Linear(256, 2)), IMAGES[:4]


@pytest.mark.parametrize("make", [normed_classifier, normed_norm])
def test_computed_weights_do_not_move_on(make: Callable[[], tuple[nn.Module, torch.Tensor]]) -> None:
    model, x = make()
    looks = (
        lambda: surgery.find_sites(model, x),
        lambda: surgery.transform(model, surgery.swap("swish"), x),
        lambda: surgery.transform(model, surgery.erase(stand_in="affine"), x),
        lambda: surgery.transform(model, surgery.rectify_scores(), x),
        lambda: pruning.dead_neurons(model, [x]),
    )
    for look in looks:
        with assert_untouched(model):
            look()


def test_a_computed_scale_is_read_as_it_is() -> None:
    model, x = normed_norm()
    norm = model[1]  # type: ignore[index]
    with torch.no_grad():
        norm.bias.fill_(1.5)
    edited, _ = surgery.transform(model, surgery.erase(stand_in="affine"), x)
    plain = nn.BatchNorm2d(4)
    with torch.no_grad():
        plain.weight.fill_(2.0)
        plain.bias.fill_(1.5)
    unparametrized = nn.Sequential(model[0], plain, *list(model)[2:])  # type: ignore[index, call-overload]
    wanted, _ = surgery.transform(unparametrized, surgery.erase(stand_in="affine"), x)
    assert torch.equal(edited[2].weight, wanted[2].weight)  # type: ignore[index]
    assert 0.5 < wanted[2].weight[0].item() < 1  # type: ignore[index]


# Again, after a run, and in two threads


KINDS = (models.TwiceUsed, models.SqueezeExciteNet, models.DependsOnNumbers, models.Encoder, models.TinyVit)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_model_that_has_run_looks_as_a_fresh_one_every_time(kind: type[models.Stated]) -> None:
    model = kind().eval()
    fresh = surgery.find_sites(model, kind.example)
    with torch.no_grad():
        call(model, kind.example.clone())
    with assert_untouched(model):
        assert tuple(surgery.find_sites(model, kind.example)) == tuple(fresh)
        assert tuple(surgery.find_sites(model, kind.example)) == tuple(fresh)


@pytest.mark.slow
@pytest.mark.parametrize("one_model", [True, False], ids=["one model", "two models"])
def test_two_threads_look_and_cut_at_once(one_model: bool) -> None:
    kinds = (models.Encoder, models.Encoder) if one_model else (models.Encoder, models.DependsOnNumbers)
    made = [kind().eval() for kind in kinds]
    if one_model:
        made[1] = made[0]
    wanted = [tuple(surgery.find_sites(model, kind.example)) for model, kind in zip(made, kinds, strict=True)]
    together = threading.Barrier(2)

    def work(number: int) -> None:
        model, example = made[number], kinds[number].example
        together.wait()
        for _ in range(3):
            assert tuple(surgery.find_sites(model, example)) == wanted[number]
            edited, report = surgery.transform(model, surgery.swap("prelu"), example)
            assert report.plan.edits
            assert "prelu" in {site.activation for site in surgery.find_sites(edited, example)}

    with assert_untouched(made[0]), assert_untouched(made[1]), ThreadPoolExecutor(2) as threads:
        list(threads.map(work, range(2)))


def test_looks_that_overlap_leave_every_switch_as_it_was() -> None:
    first, second = (listening(nn.Sequential(nn.Linear(4, 4), nn.ReLU())) for _ in range(2))
    with assert_process_untouched(), ThreadPoolExecutor(1) as pool, ThreadPoolExecutor(1) as other:
        pool.submit(first.__enter__).result()
        other.submit(second.__enter__).result()
        pool.submit(first.__exit__, None, None, None).result()
        other.submit(second.__exit__, None, None, None).result()
