"""Torch-Pruning, the real library: optimiser, masks and history follow the pruned weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch_pruning as tp
import torchvision
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, weight_norm

import surgery
from pruning.ap.own_loop import ActivateWhilePruning
from pruning.hosts import torch_pruning as host
from pruning.masks.masks import Masks
from surgery.activations import build as activation
from surgery.errors import BadValue, CannotEdit, CannotLook
from tests.asserts import assert_bit_equal, assert_raises, assert_untouched
from tests.pruning.hosts.torch_pruning.marked_net import APART, IMAGES, Net, found, mark, pruner_of, train

# -- what survives ----------------------------------------------------------------------------------------------------


def test_it_removes_what_the_pruner_alone_would(net: Net) -> None:
    other = copy.deepcopy(net)
    pruner_of(other).step()
    host.step(pruner_of(net), example=IMAGES)
    assert_bit_equal(net.state_dict().values(), other.state_dict().values(), "weight")
    assert net.stem.out_channels == 4 and net.head.in_features == 4 * 2 * 2 / 2
    assert_bit_equal([net.eval()(IMAGES)], [other.eval()(IMAGES)])


def test_frozen_parameters_stay_frozen(net: Net) -> None:
    net.body.weight.requires_grad_(False)
    host.step(pruner_of(net), example=IMAGES)
    assert [name for name, param in net.named_parameters() if not param.requires_grad] == ["body.weight"]
    assert net.body.weight.shape == (4, 4, 3, 3)


def test_gradients_are_cut_too(net: Net) -> None:
    net(IMAGES).square().sum().backward()
    before = {name: param.grad for name, param in net.named_parameters() if param.grad is not None}
    survivors = host.step(pruner_of(net), example=IMAGES)
    for name, param in net.named_parameters():
        assert param.grad is not None and torch.equal(survivors.of(name, before[name]), param.grad), name


def test_resnet18() -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 32, 32)
    model = torchvision.models.resnet18(num_classes=10)
    names = (
        "conv1.weight",
        "layer2.0.bn1.weight",
        "layer2.0.downsample.0.weight",
        "layer1.0.conv1.weight",
        "fc.weight",
    )
    marks = mark(model, *names)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    for param in model.parameters():
        optimizer.state[param]["momentum_buffer"] = param.detach().clone()
    survivors = host.step(pruner_of(model, images, "fc", pruning_ratio=0.3), optimizer, images)
    assert len(survivors) == 61  # all of 62 but the bias of the head
    for name, param in model.named_parameters():
        assert torch.equal(optimizer.state[param]["momentum_buffer"], param.detach()), name
    places = found(model, marks)
    assert set(places) == set(names)
    for name in names:
        assert torch.equal(places[name], survivors[name]), name
    model(images).sum().backward()
    optimizer.step()


def test_a_layout_in_memory_is_kept() -> None:
    model = Net().to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    train(model, optimizer)
    host.step(pruner_of(model), optimizer, IMAGES)
    for param, kept in optimizer.state.items():
        assert kept["exp_avg"].stride() == param.stride()
    train(model.train(), optimizer)


# -- masks, and AP on the new parameters ------------------------------------------------------------------------------


def test_structural_step_then_optimiser_then_ap_with_held_masks(net: Net) -> None:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    ap = ActivateWhilePruning(net, share=0.1)
    masks = Masks.full(net)
    for _ in range(2):
        survivors = host.step(pruner_of(net, pruning_ratio=0.25), optimizer, IMAGES)
        masks = survivors.masks(masks)
        ap.begin_round()
        with masks.held(net, optimizer):
            train(net, optimizer)
        alive = masks.alive
        masks = masks & ap.step()
        assert masks.alive == Masks.of(net).alive == alive - int(0.1 * alive + 1e-6)
        with masks.held(net, optimizer):
            for _ in range(5):
                train(net, optimizer, 1)
                for param, mask in masks.pairs(net):
                    assert not param[~mask].any()
    assert masks == Masks.of(net)


# -- what stands in the way -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("put", "call"),
    [
        (lambda at: prune.l1_unstructured(at, "weight", 0.5), "prune.remove(model.get_submodule('body'), 'weight')"),
        (parametrizations.weight_norm, "remove_parametrizations(model.get_submodule('body'), 'weight')"),
        (weight_norm, "torch.nn.utils.remove_weight_norm(model.get_submodule('body'))"),
    ],
    ids=["mask", "parametrisation", "hook"],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning", "ignore:Unwrapped parameters detected")
@pytest.mark.parametrize("verb", ["step", "soft"])
def test_masks_and_parametrisations_are_refused(
    net: Net, put: Callable[[nn.Module], nn.Module], call: str, verb: str
) -> None:
    put(net.body)
    pruner = pruner_of(net)
    with assert_untouched(net):
        assert_raises(CannotEdit, lambda: getattr(host, verb)(pruner), "body", call)
    assert pruner.pruning_history() == []


def test_a_wrapped_model_is_refused(net: Net) -> None:
    wrapped = nn.DataParallel(net)
    pruner = tp.pruner.BasePruner(wrapped, IMAGES, tp.importance.GroupMagnitudeImportance(), ignored_layers=[net.head])
    with assert_untouched(net):
        assert_raises(CannotLook, lambda: host.step(pruner, example=IMAGES), "DataParallel", "model.module")


def test_what_is_no_pruner_is_refused(net: Net) -> None:
    assert_raises(BadValue, lambda: host.step(net), "not a pruner", "Net")


def test_an_importance_that_was_not_called_is_refused(net: Net) -> None:
    kind = tp.importance.GroupMagnitudeImportance
    assert_raises(BadValue, lambda: host.DeadNeuronImportance(net, {}, kind), "call it: GroupMagnitudeImportance()")


def test_an_example_the_model_cannot_take_changes_nothing(net: Net) -> None:
    pruner, other = pruner_of(net), torch.zeros(2, 5, 8, 8)
    with assert_untouched(net):
        assert_raises(CannotLook, lambda: host.step(pruner, example=other), "runs on this example neither in eval nor")
    assert pruner.current_step == 0


def test_tied_weights_are_refused(net: Net) -> None:
    net.deep.bias = net.stem.bias
    pruner = pruner_of(net)
    with assert_untouched(net):
        assert_raises(CannotEdit, lambda: host.step(pruner, example=IMAGES), "stem.bias", "deep.bias")
    assert host.step(pruner_of(net, ignored_layers=[net.stem, net.deep]), example=IMAGES)


def test_a_step_that_fails_before_it_cuts_does_not_count(net: Net) -> None:
    def broken(group: Any) -> Tensor:
        raise ArithmeticError("no score")

    pruner = pruner_of(net, importance=broken)
    with assert_untouched(net):
        assert_raises(ArithmeticError, lambda: host.step(pruner, example=IMAGES))
    assert pruner.current_step == 0 and surgery.history_of(net) == ()


def test_a_step_that_breaks_off_is_followed_as_far_as_it_went(net: Net) -> None:
    class BreaksOff(tp.pruner.BasePruner):
        def step(self, interactive: bool = False) -> Iterator[Any]:
            yield next(super().step(interactive=True))
            raise ArithmeticError("enough")

    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    pruner = BreaksOff(net, IMAGES, tp.importance.GroupMagnitudeImportance(), ignored_layers=[net.head])
    assert_raises(ArithmeticError, lambda: host.step(pruner, optimizer, IMAGES))
    assert [id(param) for param in optimizer.param_groups[0]["params"]] == [id(param) for param in net.parameters()]
    assert len(surgery.history_of(net)[0].data["history"]) == 1
    train(net.train(), optimizer)


# -- activations of ours ----------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Unwrapped parameters detected")
@pytest.mark.parametrize(
    ("to", "per"),
    [("pwlu", "channel"), ("npwlu", "layer"), ("npwlu", "channel"), ("prelu", "layer"), ("prelu", "channel")],
)
def test_learned_activations_are_cut_right(net: Net, to: str, per: str) -> None:
    surgery.transform_(net, surgery.swap(to, per=per, site=APART), IMAGES)
    marks = mark(net)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-4)
    tables = host.ignored(net)
    assert bool(tables) == (per == "layer" and to == "npwlu")
    survivors = host.step(pruner_of(net, ignored_layers=tables), optimizer, IMAGES)
    places = found(net, marks)
    for name in survivors:
        assert torch.equal(survivors[name], places[name]), name
    old = {name for name, _ in Net().named_parameters()}
    assert bool(set(survivors) - old) == (per == "channel")
    train(net.train(), optimizer, 1)


@pytest.mark.filterwarnings("ignore:Unwrapped parameters detected")
@pytest.mark.parametrize("to", ["pwlu", "npwlu"])
def test_a_shared_table_that_is_not_ignored_is_refused(to: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), activation(to, channels=1), nn.Conv2d(8, 4, 3))
    pruner = pruner_of(model, head="2")
    with assert_untouched(model):
        assert_raises(CannotEdit, lambda: host.step(pruner, example=IMAGES), "1.", "ignored(model)")
    host.step(pruner_of(model, head="2", ignored_layers=host.ignored(model)), example=IMAGES)
    assert model[0].out_channels == 4
    assert model(IMAGES).shape == (4, 4, 4, 4)


@pytest.mark.filterwarnings("ignore:Unwrapped parameters detected")
def test_a_shared_table_in_front_of_a_flattening_is_refused(net: Net) -> None:
    surgery.transform_(net, surgery.swap("npwlu", per="layer", site="relu 6/6"), IMAGES)
    pruner = pruner_of(net, ignored_layers=host.ignored(net))
    with assert_untouched(net):
        assert_raises(CannotEdit, lambda: host.step(pruner, example=IMAGES), "relu_5.widths", "flatten", "channel")


@pytest.mark.filterwarnings("ignore:Unwrapped parameters detected")
def test_statistics_of_a_warm_up_are_in_the_way() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), activation("pwlu", channels=8, warmup=0.1), nn.Conv2d(8, 4, 3))
    pruner = pruner_of(model, head="2")
    with assert_untouched(model):
        assert_raises(CannotEdit, lambda: host.step(pruner, example=IMAGES), "running_mean", "settle")
    surgery.settle(model)
    assert host.step(pruner, example=IMAGES)


# -- soft -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"global_pruning": True, "pruning_ratio": 0.4}], ids=str)
def test_soft_masks_zero_what_the_step_would_remove(net: Net, options: dict[str, Any]) -> None:
    train(net, torch.optim.SGD(net.parameters(), lr=0.1), 3)
    hard = copy.deepcopy(net)
    survivors = host.step(pruner_of(hard, **options), example=IMAGES)
    pruner = pruner_of(net, **options)
    with assert_untouched(net):
        masks = host.soft(pruner)
    assert list(masks) == list(Masks.full(net))
    for name, mask in masks.items():
        if name in survivors:
            assert torch.equal(mask.flatten().nonzero().flatten(), survivors[name].flatten()), name
        else:
            assert mask.all(), name
    masks.lay_over(net)
    torch.testing.assert_close(net.eval()(IMAGES), hard.eval()(IMAGES))
    assert pruner.current_step == 1


def test_soft_masks_are_held_and_then_removed(net: Net) -> None:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    masks = host.soft(pruner_of(net))
    with masks.held(net, optimizer):
        train(net, optimizer, 5)
    assert Masks.of(net) == masks
    importance = tp.importance.GroupMagnitudeImportance(target_types=[nn.Conv2d, nn.Linear])
    survivors = host.step(pruner_of(net, importance=importance), optimizer, IMAGES)
    assert survivors.masks(masks).share == 1.0
