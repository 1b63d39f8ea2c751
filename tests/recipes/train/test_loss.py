"""Losses: for labels, smoothed and mixed labels, and a teacher."""

from __future__ import annotations

import copy
from typing import Any

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import surgery
from recipes.format.settings import Finetune
from recipes.train.loss import body_of, has_phases, mixing_of, task_of, unsynced
from surgery.errors import BadValue
from surgery.schedule.progress import finish
from tests.asserts import assert_raises

IMAGES = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(8) % 3


def net(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3)).eval()


def losses_of(
    model: nn.Module, teacher: nn.Module | None = None, labels: Tensor = LABELS, **options: Any
) -> dict[str, Any]:
    found: dict[str, Any] = task_of(model, Finetune(**options), teacher)(IMAGES, labels)
    return found


def test_the_loss_is_cross_entropy() -> None:
    model = net()
    assert torch.equal(losses_of(model)["loss"], F.cross_entropy(model(IMAGES), LABELS))


def test_smoothed_labels() -> None:
    model = net()
    expected = F.cross_entropy(model(IMAGES), LABELS, label_smoothing=0.2)
    assert torch.allclose(losses_of(model, smoothing=0.2)["loss"], expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mixed_labels_are_shares_and_images_go_with_them(smoothing: float) -> None:
    options = Finetune(mixup=1.0, smoothing=smoothing)
    numpy.random.seed(3)
    before = IMAGES.clone()
    images, labels = mixing_of(options, 3)(IMAGES, LABELS)
    assert torch.equal(IMAGES, before), "the feed's own images were changed"
    numpy.random.seed(3)
    numpy.random.rand()
    share = numpy.random.beta(1.0, 1.0)
    assert torch.allclose(images, share * IMAGES + (1 - share) * IMAGES.flip(0), atol=1e-6)
    hot = F.one_hot(LABELS, 3) * (1 - smoothing) + smoothing / 3
    assert torch.allclose(labels, share * hot + (1 - share) * hot.flip(0), atol=1e-6)
    model = net()
    expected = -(labels * model(images).log_softmax(1)).sum(1).mean()
    assert torch.allclose(task_of(model, options)(images, labels)["loss"], expected)


def test_cut_labels_are_shares_of_the_area() -> None:
    numpy.random.seed(5)
    images, labels = mixing_of(Finetune(cutmix=1.0), 3)(IMAGES, LABELS)
    swapped = (images != IMAGES).any(1)[0]
    own = 1 - float(swapped.float().mean())
    assert 0 < own < 1
    hot = F.one_hot(LABELS, 3)
    assert torch.allclose(labels, own * hot + (1 - own) * hot.flip(0), atol=1e-6)


def test_an_odd_batch_cannot_be_mixed() -> None:
    assert_raises(BadValue, lambda: mixing_of(Finetune(mixup=1.0), 3)(IMAGES[:7], LABELS[:7]), "even number", "7")


def test_a_student_like_its_teacher_has_nothing_to_learn_from_it() -> None:
    model = net()
    same = losses_of(model, copy.deepcopy(model), distill=True)
    assert same["kd_loss"].item() == pytest.approx(0, abs=1e-6)
    assert torch.allclose(same["loss"], F.cross_entropy(model(IMAGES), LABELS))
    assert losses_of(model, net(1), distill=True)["kd_loss"].item() > 1e-3


def test_distillation_is_the_divergence_of_softened_logits() -> None:
    model, teacher = net(), net(1)
    options = {"distill": True, "kd_temperature": 2.0, "task_loss_weight": 0.25, "distill_loss_weight": 3.0}
    loss = losses_of(model, teacher, **options)["loss"]
    soft, own = ((network(IMAGES) / 2.0).log_softmax(1) for network in (teacher, model))
    divergence = (soft.exp() * (soft - own)).sum(1).mean() * 4.0
    assert torch.allclose(loss, 0.25 * F.cross_entropy(model(IMAGES), LABELS) + 3.0 * divergence)


def test_a_teacher_learns_nothing_and_stays_in_eval_mode() -> None:
    model, teacher = net().train(), net(1)
    losses_of(model, teacher, distill=True)["loss"].backward()
    assert all(param.grad is None for param in teacher.parameters()) and not teacher.training
    assert all(param.grad is not None for param in model.parameters())


def test_no_teacher_is_refused() -> None:
    assert_raises(BadValue, lambda: task_of(net(), Finetune(distill=True)), "needs a teacher")


def test_phases_are_warm_ups_and_alternations() -> None:
    def swapped(name: str, **params: Any) -> nn.Module:
        model = net()
        surgery.transform_(model, surgery.swap(name, **params), IMAGES)
        return model

    assert has_phases(swapped("pwlu", warmup=0.1)) and has_phases(swapped("frelu", alternate="slopes"))
    assert not has_phases(net()) and not has_phases(swapped("pwlu")) and not has_phases(swapped("frelu"))
    assert not has_phases(swapped("pwlu", fade=True))
    assert not has_phases(finish(swapped("pwlu", warmup=0.1)))


def test_one_process_has_nothing_to_hold_back() -> None:
    model = net()
    with unsynced(task_of(model, Finetune())):
        pass
    assert body_of(model, Finetune(sync_bn=True)) is model
