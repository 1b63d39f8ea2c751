"""Affine fits: lines by least squares where activations stood, in order, and nothing else changed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from recipes.data import crop_and_flip, normalise
from recipes.data.feed import ImageTransform, MemoryBatches
from recipes.train.finetune import accuracy
from surgery import SurgeryError, erase, transform
from surgery.activations import Fade
from surgery.activations.functions.affine import Affine
from surgery.errors import BadValue, NothingPicked
from surgery.repair.affine_fit import fit_affine
from surgery.repair.batch_norm_stats import recalibrate
from tests.surgery.repair.data import few, random_batches
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


def least_squares(z: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """By torch's own solver, channel by channel, z and value (n, C)."""
    found = [
        torch.linalg.lstsq(torch.stack([got, torch.ones_like(got)], 1), other.unsqueeze(1)).solution.flatten()
        for got, other in zip(z.T, value.T, strict=True)
    ]
    return torch.stack(found).unbind(1)


def rows(x: Tensor) -> Tensor:
    return x.detach().double().movedim(1, -1).reshape(-1, x.shape[1])


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
