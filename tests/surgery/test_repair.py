"""Repair: stand-ins fitted to their inputs, statistics estimated anew, and unsuitable images refused."""

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

from recipes.data import Pictures, cifar10, crop_and_flip, normalise
from recipes.data.feed import ImageTransform, MemoryBatches
from recipes.models.build import build
from recipes.train.finetune import accuracy
from surgery import SurgeryError, erase, erase_relu, transform
from surgery.activations import Fade
from surgery.activations.functions.affine import Affine
from surgery.errors import BadValue, NothingPicked
from surgery.repair.affine_fit import fit_affine
from surgery.repair.batch_norm_stats import recalibrate
from tests.surgery.small_net import SmallNet


class Twice(nn.Module):
    """Two lines in the order in which they run, not in that of their names; the second is called twice."""

    example = torch.zeros(2, 3, 5, 5)

    def __init__(self) -> None:
        super().__init__()
        self.after, self.before = Affine(4), Affine(4)
        self.conv, self.norm, self.drop = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)
        self.after.stand_for(nn.GELU())
        self.before.stand_for(nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(self.drop(self.norm(self.conv(x))))
        return self.after(x) + self.after(2 * x + 1)


def random_batches(count: int = 3, size: int = 8, *shape: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(size, *(shape or (3, 5, 5)), generator=generator) for _ in range(count)]


def few() -> Any:
    return pytest.warns(UserWarning, match="images are few for calibration statistics")


def least_squares(z: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """By torch's own solver, channel by channel, z and value (n, C)."""
    found = [
        torch.linalg.lstsq(torch.stack([got, torch.ones_like(got)], 1), other.unsqueeze(1)).solution.flatten()
        for got, other in zip(z.T, value.T, strict=True)
    ]
    return torch.stack(found).unbind(1)


def rows(x: Tensor) -> Tensor:
    return x.detach().double().movedim(1, -1).reshape(-1, x.shape[1])


# Fitting


def test_lines_are_fitted_by_least_squares_in_order_of_execution() -> None:
    model, batches = Twice().eval(), random_batches()
    assert fit_affine(model, batches) is model
    with torch.no_grad():
        entered = torch.cat([rows(model.norm(model.conv(x))) for x in batches])
        slope, intercept = least_squares(entered, F.relu(entered))
        torch.testing.assert_close(model.before.weight.double(), slope, rtol=0, atol=1e-6)
        torch.testing.assert_close(model.before.bias.double(), intercept, rtol=0, atol=1e-6)
        first = [model.before(model.norm(model.conv(x))) for x in batches]
        entered = torch.cat([rows(part) for x in first for part in (x, 2 * x + 1)])
        slope, intercept = least_squares(entered, F.gelu(entered))
        torch.testing.assert_close(model.after.weight.double(), slope, rtol=0, atol=1e-5)
        torch.testing.assert_close(model.after.bias.double(), intercept, rtol=0, atol=1e-5)


def test_fitting_leaves_everything_else_as_it_was() -> None:
    model = Twice().train()
    model.drop.eval()
    modes = [module.training for module in model.modules()]
    before, drawn = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    fit_affine(model, random_batches())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(drawn, torch.get_rng_state())
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"before.weight", "before.bias", "after.weight", "after.bias"}
    assert all(param.requires_grad and param.grad is None for param in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    "form",
    ["tensors", "pairs", "lists", "dicts", "loader"],
)
def test_batches_come_in_any_usual_form(form: str) -> None:
    images = random_batches()
    labels = [torch.zeros(8, dtype=torch.int64)] * 3
    given: dict[str, Any] = {
        "tensors": images,
        "pairs": list(zip(images, labels, strict=True)),
        "lists": [list(pair) for pair in zip(images, labels, strict=True)],
        "dicts": [{"pixel_values": x, "labels": y} for x, y in zip(images, labels, strict=True)],
        "loader": DataLoader(TensorDataset(torch.cat(images), torch.cat(labels)), batch_size=8),
    }
    model = Twice().eval()
    same = copy.deepcopy(model)
    fit_affine(model, given[form])
    fit_affine(same, images)
    assert torch.equal(model.before.weight, same.before.weight) and torch.equal(model.after.bias, same.after.bias)


def test_a_limit_ends_the_pass() -> None:
    model, batches = Twice().eval(), random_batches()
    same = copy.deepcopy(model)
    fit_affine(model, batches, limit=9)
    fit_affine(same, batches[:2])
    assert torch.equal(model.after.weight, same.after.weight)


def test_a_constant_channel_keeps_its_slope_and_gets_the_right_value() -> None:
    line = Affine(2, weight=0.25)
    line.stand_for(nn.ReLU())
    x = torch.stack([torch.full((50,), 3.0), torch.linspace(-1, 1, 50)], 1)
    fit_affine(nn.Sequential(line), [x])
    assert line.weight.tolist() == [0.25, pytest.approx(0.5)]
    assert line.bias.tolist() == [pytest.approx(3 - 0.75), pytest.approx(float(F.relu(x[:, 1]).mean()))]


def test_a_line_shared_by_all_channels_takes_them_all() -> None:
    line = Affine(1)
    line.stand_for(nn.ReLU())
    x = torch.randn(64, 3, 4)
    fit_affine(nn.Sequential(line), [x])
    slope, intercept = least_squares(x.reshape(-1, 1).double(), F.relu(x).reshape(-1, 1).double())
    torch.testing.assert_close(line.weight.detach().double(), slope, rtol=0, atol=1e-6)
    torch.testing.assert_close(line.bias.detach().double(), intercept, rtol=0, atol=1e-6)


def test_what_is_faded_to_is_fitted() -> None:
    line = Affine(3)
    line.stand_for(nn.ReLU())
    fit_affine(nn.Sequential(Fade(nn.ReLU(), line)), [torch.randn(200, 3)])
    torch.testing.assert_close(line.weight.detach(), torch.full((3,), 0.5), rtol=0, atol=0.15)


def test_a_fitted_line_is_nearer_than_one_without_data_and_that_nearer_than_the_identity() -> None:
    model, example = SmallNet(), torch.randn(64, 3, 6, 6)
    with few():
        recalibrate(model.eval(), [example])
    site = "blocks.0.relu 1/2"
    bare, _ = transform(model, erase(site=site), example)
    lines, _ = transform(model, erase(site=site, stand_in="affine"), example)
    with torch.no_grad():
        wanted = model(example)
        far = [float((net(example) - wanted).square().mean()) for net in (bare, lines)]
        fit_affine(lines, [example])
        far.append(float((lines(example) - wanted).square().mean()))
    assert far[2] < far[1] < 0.5 * far[0]


def test_what_cannot_be_fitted_is_refused_and_nothing_has_changed() -> None:
    model, batches = Twice().eval(), random_batches()
    before = copy.deepcopy(model.state_dict())
    once = (x for x in batches)
    for bad, message in [
        (once, "iterated more than once"),
        (batches[0], "This is one batch"),
        ([], "No batches"),
        (["image"], "Batch 1 contains no images"),
        ([{"picture": batches[0]}], "Batch 1 contains no images"),
        ([batches[0], batches[1] * float("nan")], "The input of before is not finite"),
        ([batches[0], torch.randn(2, 7)], "Batch 2 fails in Twice"),
        ([batches[0].half()], "Batch 1 fails in Twice"),
        ([batches[0][:, :2]], "Batch 1 fails in Twice"),
    ]:
        with pytest.raises(SurgeryError, match=message):
            fit_affine(model, bad)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert not any(module._forward_pre_hooks for module in model.modules())
    with pytest.raises(BadValue, match="number of images"):
        fit_affine(model, batches, limit=0)
    with pytest.raises(NothingPicked, match="SmallNet has no affine stand-in"):
        fit_affine(SmallNet(), batches)
    with pytest.raises(BadValue, match="unknown which function 0 replaces"):
        fit_affine(nn.Sequential(Affine(3)), batches)


def test_an_error_at_a_later_line_takes_the_earlier_ones_back() -> None:
    model = Twice()
    model.after.stand_for(nn.PReLU(7))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(BadValue, match="PReLU fails on the inputs of this call"):
        fit_affine(model, random_batches())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# Statistics


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
    recalibrate(Normed(), labelled("random", labels))


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


# On a trained network


@pytest.fixture(scope="module")
def trained(surgery_data: Path) -> tuple[nn.Module, Pictures, Pictures]:
    """ResNet-20, images to fit on, and 500 others to measure on."""
    train = cifar10(surgery_data / "data" / "cifar10", test=False).train
    assert train is not None
    weights = surgery_data / "weights" / "cifar10_resnet20.safetensors"
    later = Pictures(train.images[2000:2500], train.labels[2000:2500])
    return build("cifar/resnet20", pretrained=weights).eval(), train.first(1000), later


@pytest.mark.data
def test_one_relu_of_a_trained_network_is_ruin_without_and_little_with_a_fitted_line(trained: Any) -> None:
    model, fit, later = trained
    example, site = normalise(fit.images[:2]), "layer2.0.act1"
    batches = MemoryBatches(later, ImageTransform(32), 250)
    before = accuracy(model, batches)
    bare, _ = transform(model, erase(module=site), example)
    lines, _ = transform(model, erase(module=site, stand_in="affine"), example)
    assert before - accuracy(bare, batches) > 0.3
    assert before - accuracy(lines, batches) < 0.15  # without data
    fit_affine(lines, list(normalise(fit.images[:500]).split(125)))
    assert before - accuracy(lines, batches) < 0.1
    augmented = crop_and_flip(fit.images, torch.Generator().manual_seed(0))
    recalibrate(bare, list(normalise(augmented).split(125)))
    assert before - accuracy(bare, batches) < 0.1


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
