"""Traced layers: what Torch-Pruning did not see as it was made is refused, by name."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pruning.hosts import torch_pruning as host
from surgery.activations import build as activation
from surgery.errors import CannotEdit
from tests.asserts import assert_raises, assert_untouched
from tests.pruning.hosts.torch_pruning.marked_net import IMAGES, Net, Slopes, pruner_of


@pytest.mark.parametrize(
    ("frozen", "named"),
    [
        (["first"], "first"), (["first", "second", "norm"], "got:       first\n"),
        (["first", "slopes"], "first, slopes"),
        (["first", "slopes", "second", "norm", "head"], "first, slopes"),
    ],
    ids=["in front of slopes", "all but slopes and head", "the stem", "everything"],
)  # fmt: skip
def test_layers_that_were_frozen_as_the_pruner_was_made_are_refused(frozen: list[str], named: str) -> None:
    model = Slopes()
    for name in frozen:
        model.get_submodule(name).requires_grad_(False)
    pruner = pruner_of(model)
    with assert_untouched(model):
        words = (named, "frozen", "new pruner", "ignored_layers")
        assert_raises(CannotEdit, lambda: host.step(pruner, example=IMAGES), *words)
        assert_raises(CannotEdit, lambda: host.soft(pruner), "frozen")
        model.requires_grad_(True)  # too late for this one
        assert_raises(CannotEdit, lambda: host.step(pruner, example=IMAGES), *words)
        for name in frozen:
            model.get_submodule(name).requires_grad_(False)
    model.requires_grad_(True)
    pruner = pruner_of(model)  # as the message says
    for name in frozen:
        model.get_submodule(name).requires_grad_(False)
    host.step(pruner, example=IMAGES)
    assert model(IMAGES).shape == (4, 5)
    assert [model.first.out_channels, model.slopes.num_parameters, model.second.out_channels] == [4, 4, 4]
    assert {name.partition(".")[0] for name, param in model.named_parameters() if not param.requires_grad} == set(
        frozen
    )


def test_a_layer_that_no_forward_calls_may_be_frozen(net: Net) -> None:
    net.spare = nn.Conv2d(3, 8, 3).requires_grad_(False)
    host.step(pruner_of(net), example=IMAGES)
    assert net(IMAGES).shape == (4, 5) and net.stem.out_channels == 4 and net.spare.out_channels == 8


@pytest.mark.filterwarnings("ignore:Unwrapped parameters detected")
def test_a_frozen_table_of_an_activation_is_refused(net: Net) -> None:
    table = activation("pwlu", channels=8).requires_grad_(False)
    model = nn.Sequential(net.stem, table, net.body, nn.Flatten(), nn.Linear(8 * 64, 5))
    pruner = pruner_of(model, head="4")
    with assert_untouched(model):
        assert_raises(CannotEdit, lambda: host.step(pruner, example=IMAGES), "1.", "frozen")


def test_parameters_that_are_no_plain_numbers_are_refused_by_name(net: Net) -> None:
    class Wrapped(Tensor):
        """A tensor subclass, like quantised and distributed tensors."""

    pruner = pruner_of(net)
    net.body.weight = nn.Parameter(net.body.weight.detach().as_subclass(Wrapped))
    for verb in (lambda: host.step(pruner, example=IMAGES), lambda: host.soft(pruner)):
        assert_raises(CannotEdit, verb, "body.weight", "Wrapped")
    net.body.weight = nn.Parameter(torch.ones(8, 8, 3, 3, dtype=torch.int8), requires_grad=False)
    assert_raises(CannotEdit, lambda: host.step(pruner, example=IMAGES), "body.weight", "int8")
    assert pruner.pruning_history() == [] and net.stem.out_channels == 8


@pytest.mark.filterwarnings("ignore:Unwrapped parameters detected")
def test_whole_numbers_that_no_cut_reaches_may_stay(net: Net) -> None:
    net.order = nn.Parameter(torch.arange(3), requires_grad=False)
    host.step(pruner_of(net, ignored_layers=[net.order]), example=IMAGES)
    assert net.stem.weight.shape == (4, 3, 3, 3) and net.order.tolist() == [0, 1, 2]


class Guided(nn.Module):
    """A branch without gradients, which reads the images or a pruned layer, and is added or concatenated."""

    def __init__(self, reads: str, joined: str) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1)
        self.guide, self.norm = nn.Conv2d(3 if reads == "images" else 8, 6, 1), nn.BatchNorm2d(6)
        self.reader, self.head = nn.Conv2d(6, 8, 1), nn.Linear(8, 5)
        self.reads, self.joined = reads, joined

    def forward(self, x: Tensor) -> Tensor:
        first = self.stem(x).relu()
        with torch.no_grad():
            guide = self.norm(self.guide(x if self.reads == "images" else first))
        if self.joined == "added":
            return self.head(self.reader((self.body(first) + guide).relu()).mean((2, 3)))  # type: ignore[no-any-return]
        return self.head((self.reader(guide) + first).mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("reads", "joined", "kept", "fits"),
    [
        ("images", "apart", [], True), ("images", "added", ["body"], True), ("images", "added", [], False),
        ("stem", "apart", [], False), ("stem", "apart", ["stem"], True),
    ],
)  # fmt: skip
def test_a_detached_branch_may_stay_as_it_is(reads: str, joined: str, kept: list[str], fits: bool) -> None:
    model = Guided(reads, joined)
    layers = [model.get_submodule(name) for name in ("guide", "norm", *kept)]
    pruner = pruner_of(model, ignored_layers=layers)
    if fits:
        host.step(pruner, example=IMAGES)
        assert model(IMAGES).shape == (4, 5) and model.guide.out_channels == 6
        assert model.reader.out_channels == (8 if "stem" in kept else 4)
    else:
        with assert_untouched(model):
            assert_raises(CannotEdit, lambda: host.step(pruner, example=IMAGES), "guide", "and all layers that share")
    without = pruner_of(Guided(reads, joined))
    assert_raises(CannotEdit, lambda: host.step(without, example=IMAGES), "guide, norm")
