"""Observing: the norm in front of a call, and the statistics of its input, from that norm or from a run."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import surgery
from surgery.activations.input_stats import InputStats
from surgery.look.observe import behind_norm, seen_at
from tests import models
from tests.asserts import assert_untouched
from tests.models import picture, randomise

SPREAD = 4  # deviations to either side that a norm is said to let through


class Tokens(models.Stated):
    """Rows with their channels last: a norm in front, one reshaped, one without numbers of its own, and none."""

    example = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(3))

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(4), nn.LayerNorm(4), nn.LayerNorm(4, elementwise_affine=False)
        self.act1, self.act2, self.act3, self.act4 = (nn.ReLU() for _ in range(4))
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act1(self.norm1(x))
        x = self.act2(self.norm2(x).flatten(0, 1)).unflatten(0, (2, 5))
        return self.act4(self.fc(self.act3(self.norm3(x))))


class InPlace(models.Stated):
    """Overwrites the inputs, by module and by function; the second call gets the result of an addition."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.act = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.conv1(x))
        return torch.relu_(self.conv2(x) + x)


def entered(model: nn.Module, paths: dict[str, str], x: Tensor) -> dict[str, Tensor]:
    """Copies of the outputs of modules, by the site that reads them."""
    noted: dict[str, Tensor] = {}
    for site, path in paths.items():
        model.get_submodule(path).register_forward_hook(
            lambda _, __, out, site=site: noted.__setitem__(site, out.clone())  # type: ignore[misc]
        )
    with torch.no_grad():
        model.eval()(x.clone())
    return noted


def assert_seen(seen: InputStats, x: Tensor, axis: int) -> None:
    rows = x.movedim(axis, -1).flatten(0, -2)
    wanted = (rows.mean(0), rows.std(0, correction=0), rows.amin(0), rows.amax(0))
    for number, other in zip((seen.mean, seen.deviation, seen.low, seen.high), wanted, strict=True):
        assert number.shape == other.shape
        assert torch.allclose(number, other, atol=1e-6)


# The norm in front


@pytest.mark.parametrize(
    ("kind", "norms"),
    [
        (models.ResidualNet, ["bn1", "layer1.0.bn1", None, "layer1.1.bn1", None]),
        (models.PreActNet, ["body.0.bn1", "body.0.bn2", "body.1.bn1", "body.1.bn2", "norm"]),
        (models.BottleneckNet, ["body.0.bn1", "body.0.bn2", None, "body.1.bn1", "body.1.bn2", None]),
        (models.TwiceUsed, [None, "bn2"]),
        (models.TinyVit, [None, None]),
        (Tokens, ["norm1", None, None, None]),
    ],
)
def test_the_norm_right_in_front_of_a_call(kind: type[models.Stated], norms: list[str | None]) -> None:
    assert [site.norm for site in surgery.find_sites(kind(), kind.example)] == norms


def test_a_norm_shared_by_two_calls_is_the_norm_of_both() -> None:
    class Shared(models.Stated):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.act = nn.BatchNorm2d(3), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.norm(self.act(self.norm(x)) - 1))

    assert [site.norm for site in surgery.find_sites(Shared(), picture())] == ["norm", "norm"]


# What it lets through


def test_without_an_example_a_norm_says_what_enters() -> None:
    model = randomise(models.PreActNet())
    with torch.no_grad():
        model.norm.weight[0] *= -1  # type: ignore[index, union-attr, operator]
    sites = surgery.find_sites(model)
    found = seen_at(model, sites, sites.example)
    assert list(found) == list(sites)
    for site, seen in found.items():
        assert site.norm is not None
        norm = model.get_submodule(site.norm)
        assert torch.equal(seen.mean, norm.bias) and torch.equal(seen.deviation, norm.weight.abs())
        assert torch.equal(seen.low, norm.bias - SPREAD * norm.weight.abs())
        assert torch.equal(seen.high, norm.bias + SPREAD * norm.weight.abs())
        assert (seen.dims, seen.axis) == (4, 1)


def test_without_an_example_and_without_a_norm_random_numbers_enter() -> None:
    model = randomise(models.TwiceUsed())
    sites = surgery.find_sites(model)
    found = seen_at(model, sites, sites.example)
    first, second = (found[site] for site in sites)
    assert first.mean.shape == (4,) and second.mean.shape == (5,)
    assert bool((first.low < first.mean).all()) and bool((first.mean < first.high).all())
    torch.manual_seed(1)
    again = seen_at(model, sites, sites.example)[sites[0]]
    assert torch.equal(first.low, again.low)  # the same random numbers each time
    bn = model.bn2
    assert isinstance(bn, nn.BatchNorm2d) and torch.equal(second.mean, bn.bias.detach())


def test_a_norm_that_does_not_scale_says_nothing() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False), nn.ReLU())
    (site,) = surgery.find_sites(model, picture())
    assert site.norm in ("1", None)
    assert behind_norm(model, site) is None
    layers = Tokens()
    assert [behind_norm(layers, site) is None for site in surgery.find_sites(layers, Tokens.example)] == [
        False, True, True, True,
    ]  # fmt: skip


# What is observed


def test_an_example_says_what_enters_channel_by_channel() -> None:
    model, x = randomise(models.ResidualNet()), picture() * 3 - 1
    sites = surgery.find_sites(model, x)
    found = {str(site): seen for site, seen in seen_at(model, sites, sites.example).items()}
    noted = entered(model, {"relu": "bn1", "layer1.0.relu 1/2": "layer1.0.bn1", "layer1.1.relu 1/2": "layer1.1.bn1"}, x)
    for name, value in noted.items():
        assert_seen(found[name], value, 1)
    assert set(found) == {str(site) for site in sites}


def test_channels_that_stand_last() -> None:
    model = Tokens()
    with torch.no_grad():
        model.norm1.weight.copy_(torch.tensor([1.0, 2.0, 0.5, 3.0]))
    sites = surgery.find_sites(model, Tokens.example)
    found = {site.path: seen for site, seen in seen_at(model, sites, sites.example).items()}
    noted = entered(model, {"act1": "norm1", "act3": "norm3", "act4": "fc"}, Tokens.example)
    for name, value in noted.items():
        assert_seen(found[name], value, -1)
        assert (found[name].dims, found[name].axis) == (3, 2)
    assert found["act4"].mean.shape == (3,)
    assert (found["act2"].dims, found["act2"].axis) == (2, 1)


def test_what_is_overwritten_is_seen_before() -> None:
    model, x = InPlace(), picture() * 4 - 2
    sites = surgery.find_sites(model, x)
    assert [site.inplace for site in sites] == [True, True]
    first, second = seen_at(model, sites, sites.example).values()
    with torch.no_grad():
        h = model.conv1(x)
        z = model.conv2(h.relu()) + h.relu()
    assert_seen(first, h, 1)
    assert_seen(second, z, 1)
    assert float(first.low.min()) < 0 and float(second.low.min()) < 0


def test_what_is_given_by_keyword_is_seen_too() -> None:
    class Keywords(models.Stated):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 1)
            self.act1, self.act2 = nn.ReLU(), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.act2(input=self.conv2(self.act1(self.conv1(x))))

    model = Keywords()
    sites = surgery.find_sites(model, picture())
    _, second = seen_at(model, sites, sites.example).values()
    with torch.no_grad():
        assert_seen(second, model.conv2(model.conv1(picture()).relu()), 1)


def test_other_examples_show_other_numbers() -> None:
    model = models.TwiceUsed()
    seen = []
    for x in (picture(), picture() * 10):
        sites = surgery.find_sites(model, x)
        seen.append(next(iter(seen_at(model, sites[:1], sites.example).values())))
    assert not torch.allclose(seen[0].high, seen[1].high, atol=0.1)


def test_only_what_is_asked_for_is_seen() -> None:
    model = models.ResidualNet()
    sites = surgery.find_sites(model, picture())
    assert list(seen_at(model, sites[1:3], sites.example)) == list(sites[1:3])
    assert seen_at(model, (), sites.example) == {}


def test_a_call_made_in_training_only_is_seen_there() -> None:
    model = models.TrainOnly()
    sites = surgery.find_sites(model, models.TrainOnly.example)
    assert any(site.modes == ("train",) for site in sites)
    assert set(seen_at(model, sites, sites.example)) == set(sites)


def test_a_model_without_numbers_shows_nothing() -> None:
    with torch.device("meta"):
        model = models.ResidualNet()
    sites = surgery.find_sites(model)
    assert seen_at(model, sites, sites.example) == {}


@pytest.mark.parametrize("given", [True, False])
def test_looking_at_numbers_leaves_no_trace(given: bool) -> None:
    model = models.Stateful()
    sites = surgery.find_sites(model, picture() if given else None)
    with assert_untouched(model):
        seen_at(model, sites, sites.example)


def test_half_precision_is_seen_in_full() -> None:
    model, x = models.TwiceUsed().half(), picture().half()
    sites = surgery.find_sites(model, x)
    first, _ = seen_at(model, sites, sites.example).values()
    assert first.mean.dtype is torch.float32
    with torch.no_grad():
        assert_seen(first, model.conv1(x).float(), 1)  # type: ignore[operator]


class Mapped(nn.Module):
    """A method mapped over the batch, or over batch and places."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.fc, self.times = nn.Linear(8, 4), times

    def one(self, x: Tensor) -> Tensor:
        return torch.relu(self.fc(x))

    def forward(self, x: Tensor) -> Tensor:
        mapped = torch.vmap(self.one) if self.times == 1 else torch.vmap(torch.vmap(self.one), in_dims=1, out_dims=1)
        return mapped(x)


@pytest.mark.slow
@pytest.mark.parametrize(("times", "shape"), [(1, (2, 5, 8)), (1, (2, 8)), (2, (2, 5, 3, 8))])
def test_what_enters_under_vmap_is_seen_whole(times: int, shape: tuple[int, ...]) -> None:
    model, x = Mapped(times), torch.randn(shape, generator=torch.Generator().manual_seed(0))
    sites = surgery.find_sites(model, x)
    (seen,) = seen_at(model, sites, sites.example).values()
    entered = model.fc(x).detach().flatten(0, -2) if len(shape) - times > 1 else model.fc(x).detach().view(-1, 1)
    assert torch.allclose(seen.mean, entered.mean(0), atol=1e-6)
    assert torch.equal(seen.low, entered.amin(0)) and torch.equal(seen.high, entered.amax(0))
    for name, function in (("leaky_relu", nn.functional.leaky_relu), ("prelu", torch.relu)):
        edited, _ = surgery.transform(model, surgery.swap(name), x)
        assert torch.equal(edited(x), function(model.fc(x)))
