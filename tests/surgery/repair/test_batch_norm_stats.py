"""Batch norm statistics: measured anew on batches that are random, augmented and many."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset, TensorDataset
from torchvision import transforms
from torchvision.transforms import v2

from recipes.data import normalise
from surgery import SurgeryError, erase_relu, transform
from surgery.errors import BadValue, NothingPicked
from surgery.repair.batch_norm_stats import recalibrate
from tests.surgery.repair.data import few, random_batches


class Normed(nn.Module):
    """Two batch norms, one of them never reached, with dropout between."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, **options)
        self.drop, self.last, self.unused = nn.Dropout(0.5), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.drop(self.norm(self.conv(x))))


def test_statistics_become_the_mean_over_batches_with_dropout_off() -> None:
    model, batches = Normed().train(), random_batches()
    model.unused.running_mean.fill_(7.0)
    model.norm.num_batches_tracked.fill_(5)
    before = copy.deepcopy(model.state_dict())
    drawn = torch.get_rng_state()
    with few():
        assert recalibrate(model, batches) is model
    with torch.no_grad():
        entered = [model.conv(x) for x in batches]
        mean = torch.stack([x.mean((0, 2, 3)) for x in entered]).mean(0)
        variance = torch.stack([x.var((0, 2, 3)) for x in entered]).mean(0)
        normed = [F.batch_norm(x, None, None, model.norm.weight, model.norm.bias, True) for x in entered]
        last = torch.stack([x.var((0, 2, 3)) for x in normed]).mean(0)
    torch.testing.assert_close(model.norm.running_mean, mean)
    torch.testing.assert_close(model.norm.running_var, variance)
    torch.testing.assert_close(model.last.running_var, last)
    assert model.norm.momentum == 0.1 and int(model.norm.num_batches_tracked) == 5
    assert all(module.training for module in model.modules())
    assert torch.equal(drawn, torch.get_rng_state())
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {f"{norm}.running_{what}" for norm in ("norm", "last") for what in ("mean", "var")}
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_small_last_batch_weighs_little() -> None:
    images = torch.cat([*random_batches(2, 32), random_batches(1, 1)[0] + 100.0])
    parts, whole = Normed().eval(), Normed().eval()
    whole.load_state_dict(parts.state_dict())
    with few():
        recalibrate(parts, list(images.split(32)), force=True)
    with few():
        recalibrate(whole, [images], force=True)
    torch.testing.assert_close(parts.norm.running_mean, whole.norm.running_mean)
    with torch.no_grad():
        inside = torch.stack([parts.conv(x).var((0, 2, 3)) for x in images.split(32)])
    expected = (torch.tensor([32.0, 32.0, 1.0]).unsqueeze(1) * inside).sum(0) / 65
    torch.testing.assert_close(parts.norm.running_var, expected)


def test_a_norm_that_is_called_twice_counts_both_calls_by_their_values() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(x).mean() + self.norm(x[..., :2] + 6.0).mean()

    model, (images,) = Shared(), random_batches(1, 16, 3, 4, 4)
    with few():
        recalibrate(model, [images])
    expected = torch.cat((images.flatten(2), images[..., :2].flatten(2) + 6.0), 2).mean((0, 2))
    torch.testing.assert_close(model.norm.running_mean, expected)


def test_a_norm_that_averages_over_all_it_saw_goes_on_from_the_new_batches() -> None:
    model = Normed(momentum=None, affine=False).eval()
    model.norm.num_batches_tracked.fill_(500)
    with few():
        recalibrate(model, random_batches())
    assert model.norm.momentum is None and int(model.norm.num_batches_tracked) == 3
    assert not any(module.training for module in model.modules())


def labelled(order: str, labels: bool) -> list[Any]:
    """1,200 images in batches of 100 whose class is written in their colour, sorted or not."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.arange(1200) * 4 // 1200
    classes = classes[torch.randperm(1200, generator=generator)] if order == "random" else classes
    images = torch.randn(1200, 3, 5, 5, generator=generator)
    images[:, 0] += classes.view(-1, 1, 1) * 0.7
    pairs = zip(images.split(100), classes.split(100), strict=True)
    return [(x, y) if labels else x for x, y in pairs]


@pytest.mark.parametrize("labels", [True, False])
def test_random_order_is_accepted_without_a_word(labels: bool) -> None:
    model, batches = Normed(), labelled("random", labels)
    recalibrate(model, batches)
    assert float(model.norm.running_mean.abs().sum()) > 0  # type: ignore[union-attr]


@pytest.mark.parametrize(("labels", "message"), [(True, "their labels vary"), (False, "the batch means at the last")])
def test_sorted_images_are_refused(labels: bool, message: str) -> None:
    model = Normed()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(BadValue, match=f"are sorted[^§]*{message}"):
        recalibrate(model, labelled("sorted", labels))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training and model.norm.momentum == 0.1
    recalibrate(model, labelled("sorted", labels), force=True)
    assert not torch.equal(model.norm.running_mean, before["norm.running_mean"])


def test_images_of_one_class_are_refused() -> None:
    images = [(x, torch.full((100,), 3)) for x, _ in labelled("random", True)]
    with pytest.raises(BadValue, match="All images are of one class"):
        recalibrate(Normed(), images)


class Views(TensorDataset):
    """Images with transforms, as torchvision's data sets have them."""

    def __init__(self, transform: Any, images: Tensor) -> None:
        super().__init__(images)
        self.transform = transform

    def __getitem__(self, index: int) -> Tensor:
        return super().__getitem__(index)[0]


@pytest.mark.parametrize(
    ("transform", "warned"),
    [
        (transforms.Compose([transforms.ToTensor(), transforms.Normalize(0.5, 0.5)]), True),
        (transforms.Compose([transforms.RandomHorizontalFlip(), transforms.ToTensor()]), False),
        (transforms.Compose([transforms.RandomApply([transforms.Grayscale()]), transforms.ToTensor()]), False),
        (v2.Compose([v2.ToImage(), v2.CenterCrop(5)]), True),
        (lambda image: image, False),
        (None, False),
    ],
)
@pytest.mark.parametrize("subset", [False, True])
def test_images_without_augmentation_are_warned_of(transform: Any, warned: bool, subset: bool) -> None:
    data: Any = Views(transform, torch.cat(labelled("random", False)))
    data = Subset(data, range(1100)) if subset else data
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        recalibrate(Normed(), DataLoader(data, batch_size=100, shuffle=True))
    assert [str(warning.message).startswith("The images are not augmented (Compose") for warning in caught] == [
        True
    ] * warned


def test_a_loader_that_reads_in_order_is_warned_of() -> None:
    data = TensorDataset(torch.cat(labelled("random", False)))
    with pytest.warns(UserWarning, match="reads its data in order") as caught:
        recalibrate(Normed(), DataLoader(data, batch_size=100))
    assert Path(caught[0].filename) == Path(__file__)


def test_what_cannot_be_recalibrated_is_refused_and_nothing_has_changed() -> None:
    model, batches = Normed(), random_batches()
    before = copy.deepcopy(model.state_dict())

    def once() -> Iterator[Tensor]:
        yield from batches

    for bad, message in [
        (once(), "iterated more than once"),
        ([], "No batches"),
        ([batches[0], batches[1] * float("inf")], "infinite or NaN"),
        ([batches[0], torch.randn(2, 7)], "Batch 2 fails in Normed"),
        ([batches[0].double()], "Batch 1 fails in Normed"),
        ([batches[0][:, :2]], "Batch 1 fails in Normed"),
        ([batches[0], torch.randn(1, 3, 3, 3)], "Batch 2 fails in Normed"),  # one value per channel
    ]:
        for force in (False, True):
            with pytest.raises(SurgeryError, match=message):
                recalibrate(model, bad, force=force)
            assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
            assert model.training and model.norm.momentum == 0.1
            assert not any(module._forward_pre_hooks for module in model.modules())
    with pytest.raises(NothingPicked, match="does not have a batch norm with running statistics"):
        recalibrate(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)), batches)


@pytest.mark.data
@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("erased", [True, False])
def test_recalibration_refuses_sorted_cifar(trained: Any, labels: bool, erased: bool) -> None:
    model, fit, _ = trained
    model = transform(model, erase_relu(), normalise(fit.images[:2]))[0] if erased else copy.deepcopy(model)
    before = copy.deepcopy(model.state_dict())
    order = fit.labels.argsort(stable=True)
    batches = zip(normalise(fit.images[order]).split(125), fit.labels[order].split(125), strict=True)
    with pytest.raises(BadValue, match="are sorted"):
        recalibrate(model, list(batches) if labels else [images for images, _ in batches])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    recalibrate(model, list(normalise(fit.images).split(125)))
