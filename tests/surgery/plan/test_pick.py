"""Picking: which sites a rule picks, on models small enough to list them all, and on the zoos."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise
from math import floor
from typing import Any

import pytest
import timm
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import surgery
from surgery.look.site import Sites
from surgery.plan.pick import form_of, pick, spread
from surgery.plan.rules import Rule
from tests import models
from tests.asserts import assert_raises


def picked(kind: type[models.Stated], rule: Rule) -> list[str]:
    """The sites a rule picks in a model, as they print."""
    return [str(edit.site) for edit in surgery.make_plan(surgery.find_sites(kind(), kind.example), rule).edits]


def erased(kind: type[models.Stated], *args: Any, **options: Any) -> list[str]:
    """What `erase_relu` picks with these arguments."""
    return picked(kind, surgery.erase_relu(*args, **options))


class Gated(models.Stated):
    """A residual block with squeeze and excitation between its convolutions and the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 4, 1), GatedBlock(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.stem(x))


class GatedBlock(nn.Module):
    """The ReLU inside the gate is not a nonlinearity of the block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.act1 = nn.Conv2d(width, width, 1), nn.ReLU()
        self.conv2, self.act2 = nn.Conv2d(width, width, 1), nn.ReLU()
        self.down, self.inner, self.up = nn.Conv2d(width, 2, 1), nn.ReLU(), nn.Conv2d(2, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.act1(self.conv1(x)))
        gate = torch.sigmoid(self.up(self.inner(self.down(y.mean((2, 3), keepdim=True)))))
        return self.act2(y * gate + x)


class Row(models.Stated):
    """Eight bottlenecks in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
        self.body = nn.Sequential(*(models.Bottleneck(4) for _ in range(8)))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.stem(x))


class Mixture(models.Stated):
    """A bottleneck whose middle function is not a ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 4, 1), models.Bottleneck(4)
        self.block.act2 = nn.GELU()  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.stem(x))


class DownFirst(models.Stated):
    """A pre-activation block whose shortcut has a convolution and reads the activated input."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.last = nn.Conv2d(3, 4, 1), DownFirstBlock(4), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.block(self.stem(x)))


class DownFirstBlock(nn.Module):
    """Norm and ReLU once for both paths."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(width), nn.Conv2d(width, width, 1)
        self.bn2, self.conv2, self.short = nn.BatchNorm2d(width), nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(x))
        return self.conv2(self.relu(self.bn2(self.conv1(x)))) + self.short(x)


# What a basic module is


@pytest.mark.parametrize(
    ("kind", "block", "form"),
    [
        (models.ResidualNet, "layer1.0", "post-add"),
        (models.ResidualNet, "layer1.1", "post-add"),
        (models.BottleneckNet, "body.1", "post-add"),
        (Gated, "block", "post-add"),
        (models.PreActNet, "body.0", "pre-activation"),
        (models.PreActNet, "body.1", "pre-activation"),
        (DownFirst, "block", "pre-activation"),
        (models.DenseNet, "layers.0", "pre-activation"),
        (models.DenseNet, "layers.1", "pre-activation"),
        (models.InceptionNet, "mixed", "concat"),
        (models.FireNet, "fire", "concat"),
        (models.ShuffleNet, "unit", "concat"),
        (models.MobileNet, "block", "linear"),
        (models.PlainNet, "features#1", "plain"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_the_form_of_a_block_is_seen_from_its_structure(kind: type[models.Stated], block: str, form: str) -> None:
    sites = surgery.find_sites(kind(), kind.example)
    assert form_of([site for site in sites if site.block == block and site.position is not None]) == form


@pytest.mark.parametrize(
    ("kind", "sites"),
    [
        (models.ResidualNet, ["layer1.0.relu 2/2", "layer1.1.relu 2/2"]),
        (models.BottleneckNet, ["body.0.act3", "body.1.act3"]),
        (Gated, ["block.act2"]),
        (models.PreActNet, ["body.0.relu 2/2", "body.1.relu 2/2"]),
        (DownFirst, ["block.relu 2/2"]),
        (models.DenseNet, ["layers.0.relu2", "layers.1.relu2"]),
        (models.InceptionNet, [f"mixed.{name}.relu" for name in ("direct", "wide", "left", "right", "pooled")]),
        (models.FireNet, ["fire.expand1_act", "fire.expand3_act"]),
        (models.ShuffleNet, ["unit.branch.5"]),
        (models.PlainNet, ["features.3", "features.8"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_last_relu_of_every_basic_module(kind: type[models.Stated], sites: list[str]) -> None:
    assert erased(kind) == sites


# Location


@pytest.mark.parametrize(
    ("location", "names"),
    [("first", ["act1"]), ("middle", ["act2"]), ("last", ["act3"]), (1, ["act1"]), (2, ["act2"]), (3, ["act3"]),
     (-1, ["act3"]), (-2, ["act2"]), (-3, ["act1"])],
)  # fmt: skip
def test_location_counts_the_relus_of_a_module(location: str | int, names: list[str]) -> None:
    assert erased(models.BottleneckNet, location) == [f"body.{k}.{name}" for k in (0, 1) for name in names]


def test_the_middle_of_two_is_the_first() -> None:
    assert erased(models.ResidualNet, "middle") == ["layer1.0.relu 1/2", "layer1.1.relu 1/2"]


@pytest.mark.parametrize("location", [4, -4])
def test_a_place_no_module_has_picks_nothing(location: int) -> None:
    assert_raises(surgery.NothingPicked, lambda: erased(models.BottleneckNet, location), f"not the {location} of")


def test_location_counts_within_each_branch() -> None:
    assert erased(models.FireNet, "first") == ["fire.expand1_act", "fire.expand3_act"]
    first = erased(models.InceptionNet, "first")
    assert "mixed.reduce.relu" in first
    assert "mixed.direct.relu" in first
    assert "mixed.wide.relu" not in first
    assert erased(models.ShuffleNet, "first") == ["unit.branch.1"]
    assert erased(models.ShuffleNet, 2) == ["unit.branch.5"]


def test_location_counts_relus_only() -> None:
    assert erased(Mixture, 2) == ["block.act3"]
    assert_raises(surgery.NothingPicked, lambda: erased(Mixture, 3))


def test_what_counts_as_a_relu_is_a_pattern() -> None:
    assert erased(Mixture, "middle", activation="*elu") == ["block.act2"]
    assert erased(models.MobileNet, "first") == ["block.conv.2"]
    assert_raises(surgery.NothingPicked, lambda: erased(models.MobileNet, "first", activation="relu"))


def test_a_block_that_ends_linear_has_no_last_relu() -> None:
    for location in ("last", -1):
        error = assert_raises(surgery.NothingPicked, lambda place=location: erased(models.MobileNet, place))
        assert "2 (module already has a linear output)" in str(error)
    assert erased(models.MobileNet, 2) == ["block.conv.5"]


# Share and order


@given(st.integers(0, 300), st.floats(0, 1), st.sampled_from(["spread", "front", "back"]))
def test_a_share_takes_as_many_as_it_says(count: int, share: float, order: str) -> None:
    taken = spread(count, share, order)
    assert taken == sorted(set(taken))
    assert all(0 <= index < count for index in taken)
    assert len(taken) == (min(count, max(1, floor(share * count + 0.5))) if share > 0 else 0)
    if order == "front":
        assert taken == list(range(len(taken)))
    if order == "back":
        assert taken == list(range(count - len(taken), count))


@given(st.integers(1, 300), st.floats(0, 1, exclude_min=True))
def test_a_spread_share_is_even(count: int, share: float) -> None:
    taken = spread(count, share, "spread")
    steps = [later - earlier for earlier, later in pairwise(taken)]
    assert not steps or max(steps) - min(steps) <= 1
    assert abs(taken[0] - (count - 1 - taken[-1])) <= 1


@pytest.mark.parametrize(
    ("count", "share", "taken"),
    [(8, 0.5, [1, 3, 5, 7]), (8, 0.25, [2, 6]), (16, 0.25, [2, 6, 10, 14]), (3, 0.5, [0, 2]), (4, 0.01, [2]),
     (5, 1.0, [0, 1, 2, 3, 4]), (5, 0.0, []), (0, 1.0, [])],
)  # fmt: skip
def test_known_spreads(count: int, share: float, taken: list[int]) -> None:
    assert spread(count, share, "spread") == taken


@pytest.mark.parametrize(
    ("options", "blocks"),
    [({"share": 0.5}, [1, 3, 5, 7]), ({"share": 0.5, "order": "front"}, [0, 1, 2, 3]),
     ({"share": 0.25, "order": "back"}, [6, 7]), ({"share": 0.3}, [2, 6]), ({"share": 1e-9}, [4]),
     ({"share": 0.5, "order": "back", "keep_final": True}, [3, 4, 5, 6])],
    ids=str,
)  # fmt: skip
def test_a_share_is_of_the_modules(options: dict[str, Any], blocks: list[int]) -> None:
    assert erased(Row, **options) == [f"body.{block}.act3" for block in blocks]


def test_a_share_of_branched_modules_takes_whole_modules() -> None:
    assert len(erased(models.InceptionNet, share=0.1)) == len(erased(models.InceptionNet))


# The other arguments


def test_the_stem_is_erased_when_asked_for() -> None:
    assert erased(models.ResidualNet, stem=True) == ["relu", *erased(models.ResidualNet)]
    assert erased(models.InceptionNet, stem=True)[0] == "stem.relu"
    assert erased(Row, stem=True, share=0.0) == ["stem.1"]
    assert erased(models.PreActNet, stem=True) == erased(models.PreActNet)


def test_a_share_of_nothing_picks_nothing() -> None:
    assert_raises(surgery.NothingPicked, lambda: erased(Row, share=0.0), "8 (module not in the selected 0 %)")


def test_the_final_module_is_kept_when_asked_for() -> None:
    assert erased(models.ResidualNet, keep_final=True) == ["layer1.0.relu 2/2"]
    sites = surgery.find_sites(models.ResidualNet(), models.ResidualNet.example)
    plan = surgery.make_plan(sites, surgery.erase_relu(keep_final=True))
    assert dict(plan.kept)[sites[-1]] == "in the final module, which keep_final keeps"


def test_the_last_of_a_preactivation_block_is_an_argument() -> None:
    assert erased(models.PreActNet, preactivation="first") == ["body.0.relu 1/2", "body.1.relu 1/2"]
    assert erased(models.DenseNet, preactivation="first") == ["layers.0.relu1", "layers.1.relu1"]
    assert erased(models.ResidualNet, preactivation="first") == erased(models.ResidualNet)
    assert erased(models.PreActNet, "first", preactivation="last") == ["body.0.relu 1/2", "body.1.relu 1/2"]


def test_the_odd_convolution_of_a_plain_stage_is_an_argument() -> None:
    assert erased(models.PlainNet, vgg_odd="erase") == ["features.3", "features.8", "features.10"]
    assert erased(models.PlainNet, "first") == ["features.1", "features.6"]
    assert erased(models.PlainNet, 2, vgg_odd="erase") == ["features.3", "features.8"]


def test_a_model_without_modules_has_no_stem_either() -> None:
    error = assert_raises(surgery.NothingPicked, lambda: erased(models.ThriceInPlace, stem=True))
    assert "3 (outside any basic module)" in str(error)


def test_every_run_of_a_shared_head_is_picked_with_the_first() -> None:
    class Levels(models.Stated):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.down, self.head = nn.Conv2d(3, 4, 1), nn.MaxPool2d(2), models.Bottleneck(4)

        def forward(self, x: Tensor) -> list[Tensor]:
            x = self.stem(x)
            return [self.head(x), self.head(self.down(x))]

    assert erased(Levels) == ["head.act3 run 1/2", "head.act3 run 2/2"]
    assert erased(Levels, "first") == ["head.act1 run 1/2", "head.act1 run 2/2"]


# By facts


def test_swap_picks_by_facts() -> None:
    everything = [str(site) for site in surgery.find_sites(models.ResidualNet(), models.ResidualNet.example)]
    assert picked(models.ResidualNet, surgery.swap("gelu")) == everything
    assert picked(models.ResidualNet, surgery.swap("gelu", block="layer1.1")) == everything[3:]
    assert picked(models.ResidualNet, surgery.swap("gelu", block="*", position=1)) == [everything[1], everything[3]]
    assert picked(models.ResidualNet, surgery.swap("gelu", site="layer1.0.relu")) == everything[1:3]
    assert picked(models.ResidualNet, surgery.swap("gelu", site="layer1.0.relu 2/2")) == everything[2:3]
    assert picked(models.ResidualNet, surgery.swap("gelu", site="re:.*1/2")) == [everything[1], everything[3]]
    assert picked(models.ResidualNet, surgery.swap("gelu", feeds="pool")) == [everything[0], everything[4]]
    assert picked(models.ResidualNet, surgery.swap("gelu", channels=6)) == everything[3:]
    both = surgery.swap("gelu", activation=("relu", "relu6"))
    assert picked(models.MobileNet, both) == ["block.conv.2", "block.conv.5"]


def test_gates_and_heads_are_left_alone_unless_asked_for() -> None:
    gates = picked(Gated, surgery.swap("hardsigmoid", role="gate", activation="sigmoid"))
    assert gates == ["block.sigmoid"]
    assert picked(Gated, surgery.swap("gelu")) == ["block.act1", "block.act2"]
    assert picked(Gated, surgery.swap("gelu", site="block.inner")) == ["block.inner"]
    sites = surgery.find_sites(Gated(), Gated.example)
    plan = surgery.make_plan(sites, surgery.erase_relu())
    assert {reason for site, reason in plan.kept if site.role == "gate"} == {"a gate"}
    assert picked(models.SigmoidHead, surgery.swap("identity", role="head")) == ["sigmoid"]


def test_a_pattern_that_fits_no_path_names_near_ones() -> None:
    assert_raises(
        surgery.UnknownName, lambda: picked(models.ResidualNet, surgery.swap("gelu", block="layr1.0")), "layer1.0"
    )


# Known answers


KNOWN = {
    "resnet18": 8, "resnet50": 16, "resnext50_32x4d": 16, "wide_resnet50_2": 16, "regnet_x_400mf": 22, "googlenet": 36,
    "squeezenet1_1": 16, "shufflenet_v2_x1_0": 19, "vgg16_bn": 5, "vgg11": 3,
}  # fmt: skip
KNOWN_SLOW = {"inception_v3": 44, "densenet121": 58}
KNOWN_TIMM = {"resnet18": 8, "resnet50": 16, "seresnet50": 16, "resnetv2_50": 16, "regnetx_002": 13}
KNOWN_TIMM_SLOW = {"inception_v3": 44, "densenet121": 58}


def _sites(zoo: str, name: str) -> Sites:
    """The sites of a zoo model on the meta device."""
    # torchvision's RegNet computes its widths with tensors.
    with nullcontext() if name.startswith("regnet_x") else torch.device("meta"):
        if zoo == "timm":
            return surgery.find_sites(timm.create_model(name))
        options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        return surgery.find_sites(torchvision.models.get_model(name, weights=None, **options))


@pytest.mark.parametrize(
    ("zoo", "name", "count"),
    [("torchvision", name, count) for name, count in KNOWN.items()]
    + [("timm", name, count) for name, count in KNOWN_TIMM.items()]
    + [pytest.param("torchvision", name, count, marks=pytest.mark.slow) for name, count in KNOWN_SLOW.items()]
    + [pytest.param("timm", name, count, marks=pytest.mark.slow) for name, count in KNOWN_TIMM_SLOW.items()],
)
def test_known_answers(zoo: str, name: str, count: int) -> None:
    plan = surgery.make_plan(_sites(zoo, name), surgery.erase_relu(expect=count))
    assert len(plan.edits) == count
    assert len(plan.edits) + len(plan.kept) == len(plan.sites)


@pytest.mark.parametrize("name", ["mobilenet_v2", "mnasnet0_5"])
def test_mobile_networks_end_linear(name: str) -> None:
    sites = _sites("torchvision", name)
    assert_raises(surgery.NothingPicked, lambda: surgery.make_plan(sites, surgery.erase_relu()), "has a linear output")
    assert not surgery.make_plan(sites, surgery.erase_relu(expect=0)).edits
    assert not surgery.make_plan(sites, surgery.erase_relu(optional=True)).edits


def test_timm_writes_the_head_of_vgg_as_convolutions_and_it_is_left_alone() -> None:
    names = [str(edit.site) for edit in surgery.make_plan(_sites("timm", "vgg16_bn"), surgery.erase_relu()).edits]
    assert len(names) == KNOWN["vgg16_bn"]
    assert all(name.startswith("features.") for name in names)


def test_a_path_of_blocks_takes_the_blocks_in_it_and_no_gates() -> None:
    assert picked(Row, surgery.swap("silu", block="body")) == picked(Row, surgery.swap("silu", block="body.*"))
    assert len(picked(Row, surgery.swap("silu", block="body"))) == 3 * 8
    assert picked(Gated, surgery.swap("silu", owner="block")) == ["block.act1", "block.act2"]


def test_a_call_that_may_be_a_gate_is_not_named_by_what_it_is_in() -> None:
    sites = surgery.find_sites(Row(), Row.example)
    unknown = [replace(site, role="unknown") for site in sites]
    named = Sites(tuple(unknown), sites.example, sites.model_kind)
    assert pick(surgery.swap("silu", module="body"), named)[0] == []
    assert pick(surgery.swap("silu", module=unknown[1].module), named)[0] == [unknown[1]]
