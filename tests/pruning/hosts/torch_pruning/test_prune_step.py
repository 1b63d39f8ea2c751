"""Torch-Pruning, the real library: optimiser, masks and history follow the pruned weights."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torch_pruning as tp
import torchvision
from timm.optim import Lookahead
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, weight_norm

import surgery
from pruning.hosts import torch_pruning as host
from pruning.hosts.pipeline import ActivateWhilePruning
from pruning.masks.masks import Masks
from surgery.activations import build as activation
from surgery.errors import BadFile, BadValue, CannotEdit, CannotLook, WrongModel
from surgery.history.history import steps_of
from tests.asserts import assert_bit_equal, assert_raises, assert_untouched

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A residual addition, a depthwise convolution, a concatenation of two widths, and a flattened image."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.relu = nn.ReLU()
        self.body = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.left, self.right = nn.Conv2d(8, 6, 1), nn.Conv2d(8, 10, 1)
        self.last = nn.Conv2d(16, 4, 3, stride=4, padding=1)
        self.head = nn.Linear(4 * 2 * 2, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.stem(x)))
        x = self.relu(x + self.body(x))
        x = self.relu(self.deep(x))
        x = torch.cat([self.relu(self.left(x)), self.relu(self.right(x))], 1)
        return self.head(self.relu(self.last(x)).flatten(1))  # type: ignore[no-any-return]


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


def pruner_of(model: nn.Module, images: Tensor = IMAGES, head: str = "head", **options: Any) -> Any:
    ignored = [model.get_submodule(head), *options.pop("ignored_layers", [])]
    importance = options.pop("importance", tp.importance.GroupMagnitudeImportance())
    made = tp.pruner.BasePruner(
        model, images, importance, **{"pruning_ratio": 0.5} | options, ignored_layers=ignored
    )  # fmt: skip
    model.train()
    return made


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 2, images: Tensor = IMAGES) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()


def mark(model: nn.Module, *names: str) -> dict[str, dict[float, int]]:
    """Make every entry of every weight, or of those named, another number; returns where which number stands."""
    marks = {}
    with torch.no_grad():
        for name, param in model.named_parameters():
            if names and name not in names:
                continue
            order = torch.randperm(param.numel(), generator=torch.Generator().manual_seed(len(name)))
            param.copy_((order + 1.0).reshape(param.shape) / 1024)
            marks[name] = {number: place for place, number in enumerate(param.flatten().tolist())}
            assert len(marks[name]) == param.numel()
    return marks


def found(model: nn.Module, marks: dict[str, dict[float, int]]) -> dict[str, Tensor]:
    """Where the entries of each weight stood, told by their numbers."""
    return {
        name: torch.tensor([marks[name][number] for number in param.flatten().tolist()]).reshape(param.shape)
        for name, param in model.named_parameters()
        if name in marks
    }


# Sites that a layer follows: behind a table shared by all channels, Torch-Pruning cannot count these.
APART = ["relu 1/6", "relu 2/6", "relu 3/6"]

OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda params: torch.optim.SGD(params, lr=1e-3, momentum=0.9, nesterov=True, foreach=False),
    "sgd foreach": lambda params: torch.optim.SGD(params, lr=1e-3, momentum=0.9, weight_decay=0.1, foreach=True),
    "sgd fused": lambda params: torch.optim.SGD(params, lr=1e-3, momentum=0.9, fused=True),
    "adam": lambda params: torch.optim.Adam(params, lr=1e-3, amsgrad=True, foreach=False),
    "adamw foreach": lambda params: torch.optim.AdamW(params, lr=1e-3, foreach=True),
    "adamw fused": lambda params: torch.optim.AdamW(params, lr=1e-3, amsgrad=True, fused=True),
    "lookahead": lambda params: Lookahead(torch.optim.SGD(params, lr=1e-3, momentum=0.9), k=1),
}


# -- what survives ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"global_pruning": True}, {"round_to": 2, "pruning_ratio": 0.3}], ids=str)
def test_survivors_are_where_marked_weights_went(net: Net, options: dict[str, Any]) -> None:
    marks = mark(net)
    pruner = pruner_of(net, **options)
    before = dict(net.named_parameters())
    survivors = host.step(pruner, example=IMAGES)
    places = found(net, marks)
    cut = [name for name, param in net.named_parameters() if param is not before[name]]
    assert list(survivors) == cut and len(cut) >= 6
    for name in cut:
        assert torch.equal(survivors[name], places[name]), name
        assert torch.equal(survivors.of(name, before[name]), dict(net.named_parameters())[name]), name


def test_it_removes_what_the_pruner_alone_would(net: Net) -> None:
    other = copy.deepcopy(net)
    pruner_of(other).step()
    host.step(pruner_of(net), example=IMAGES)
    assert_bit_equal(net.state_dict().values(), other.state_dict().values(), "weight")
    assert net.stem.out_channels == 4 and net.head.in_features == 4 * 2 * 2 / 2
    assert_bit_equal([net.eval()(IMAGES)], [other.eval()(IMAGES)])


def test_places_are_exact_beyond_what_float32_can_count() -> None:
    side = 4100
    assert side * side > 2**24
    model = nn.Sequential(nn.Linear(2, side), nn.Linear(side, side), nn.Linear(side, 2))
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].weight[1::2] = 1  # the even ones go
        model[0].bias.zero_()
    # Only the first group is measured, by its first layer; the second layer loses every other column.
    importance = tp.importance.GroupMagnitudeImportance(group_reduction="first")
    pruner = pruner_of(model, torch.ones(1, 2), "2", importance=importance, ignored_layers=[model[1]])
    survivors = host.step(pruner, example=torch.ones(1, 2))
    rows, columns = torch.arange(side)[:, None], torch.arange(1, side, 2)[None]
    assert torch.equal(survivors["1.weight"], rows * side + columns)
    assert int(survivors["1.weight"][-1, -1]) == side * side - 1


def test_an_optimiser_inside_a_wrapper_follows(net: Net) -> None:
    class Prepared:
        """No torch optimiser, but one inside, as Accelerate and apex have it."""

        def __init__(self, optimizer: torch.optim.Optimizer) -> None:
            self.optimizer = optimizer

        def step(self) -> None:
            self.optimizer.step()

        def zero_grad(self) -> None:
            self.optimizer.zero_grad()

    inner = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    optimizer: Any = Prepared(inner)
    train(net, optimizer)
    pruner = pruner_of(net)
    host.step(pruner, optimizer, IMAGES)
    assert {id(param) for param in inner.param_groups[0]["params"]} == {id(param) for param in net.parameters()}
    assert inner.state[net.body.weight]["momentum_buffer"].shape == net.body.weight.shape == (4, 4, 3, 3)
    before = net.body.weight.detach().clone()
    train(net, optimizer)
    assert not torch.equal(net.body.weight, before)


class Slopes(nn.Module):
    """Learned slopes behind two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.slopes = nn.Conv2d(3, 8, 3, padding=1), nn.PReLU(8)
        self.second, self.norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.second(self.slopes(self.first(x)))).mean((2, 3)))  # type: ignore[no-any-return]


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
        """As quantised and distributed tensors: a tensor of its own class."""

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


def test_a_frozen_model_is_cut_again_as_the_saved_one_was(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Slopes()
    fresh = copy.deepcopy(model).requires_grad_(False)
    host.step(pruner_of(model), example=IMAGES)
    surgery.save(model, tmp_path)
    loaded = surgery.load(tmp_path, model=fresh)
    assert_bit_equal([loaded.eval()(IMAGES)], [model.eval()(IMAGES)])
    assert not any(param.requires_grad for param in loaded.parameters())


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


# -- the optimiser follows --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", OPTIMISERS)
def test_the_optimiser_follows(net: Net, kind: str) -> None:
    weights, others = list(net.parameters())[:4], list(net.parameters())[4:]
    optimizer = OPTIMISERS[kind]([{"params": weights, "lr": 0.01}, {"params": others, "weight_decay": 0.0}])
    train(net, optimizer)
    inner = getattr(optimizer, "_base_optimizer", optimizer)
    names = {id(param): name for name, param in net.named_parameters()}
    groups = [[names[id(param)] for param in group["params"]] for group in optimizer.param_groups]
    options = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    state = {names[id(param)]: dict(kept) for param, kept in inner.state.items()}
    schedule = torch.optim.lr_scheduler.StepLR(inner, 1, 0.5)
    marks = mark(net)
    host.step(pruner_of(net), optimizer, IMAGES)
    places = found(net, marks)

    names = {id(param): name for name, param in net.named_parameters()}
    assert [[names.get(id(param)) for param in group["params"]] for group in optimizer.param_groups] == groups
    assert [{key: value for key, value in g.items() if key in options[0]} for g in optimizer.param_groups] == options
    assert {names.get(id(param)) for param in inner.state} == set(state)
    for param, kept in inner.state.items():
        name = names[id(param)]
        assert list(kept) == list(state[name])
        for key, now in kept.items():
            was = state[name][key]
            if key == "step":
                assert now is was
            else:
                assert now.stride() == param.stride() and now.dtype == was.dtype
                assert torch.equal(now, was.flatten()[places[name]]), (name, key)
    before = {name: param.detach().clone() for name, param in net.named_parameters()}
    net.train()
    train(net, optimizer, 1)
    schedule.step()
    assert [group["lr"] for group in inner.param_groups] == [0.005, 0.0005]
    moved = [name for name, param in net.named_parameters() if not torch.equal(param, before[name])]
    assert set(moved) >= {"stem.weight", "body.weight", "left.weight", "head.weight"}


def test_training_goes_on_as_if_the_channels_had_never_been(net: Net) -> None:
    """Momentum of the survivors kept: the next step is the one of a small network that always had this momentum."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    train(net, optimizer, 3)
    kept = {name: optimizer.state[param]["momentum_buffer"] for name, param in net.named_parameters()}
    survivors = host.step(pruner_of(net), optimizer, IMAGES)
    small = copy.deepcopy(net)
    new = torch.optim.SGD(small.parameters(), lr=0.1, momentum=0.9)
    for name, param in small.named_parameters():
        new.state[param]["momentum_buffer"] = survivors.of(name, kept[name]).clone()
    train(net.train(), optimizer, 2)
    train(small.train(), new, 2)
    assert_bit_equal(net.state_dict().values(), small.state_dict().values())


def test_a_layout_in_memory_is_kept() -> None:
    model = Net().to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    train(model, optimizer)
    host.step(pruner_of(model), optimizer, IMAGES)
    for param, kept in optimizer.state.items():
        assert kept["exp_avg"].stride() == param.stride()
    train(model.train(), optimizer)


def test_several_optimisers_follow(net: Net) -> None:
    both = [torch.optim.SGD(net.stem.parameters(), lr=0.1), torch.optim.Adam(net.body.parameters())]
    host.step(pruner_of(net), both, IMAGES)
    assert both[0].param_groups[0]["params"][0] is net.stem.weight
    assert both[1].param_groups[0]["params"][0] is net.body.weight


@pytest.mark.parametrize("none", [(), []])
def test_a_step_without_an_optimiser(net: Net, none: Any) -> None:
    assert host.step(pruner_of(net), none, IMAGES)
    assert net.stem.weight.shape == (4, 3, 3, 3)


def test_an_optimiser_that_cannot_follow_is_refused(net: Net) -> None:
    other = torch.optim.SGD(Net().parameters(), lr=0.1)
    factored = torch.optim.Adafactor(net.parameters())
    train(net, factored)
    pruner = pruner_of(net)
    with assert_untouched(net):
        assert_raises(BadValue, lambda: host.step(pruner, other, IMAGES), "not have parameters of", "SGD")
        assert_raises(BadValue, lambda: host.step(pruner, factored, IMAGES), "Adafactor", "row_var", "stem.weight")
    assert pruner.current_step == 0
    assert host.step(pruner, example=IMAGES)


# -- masks, and AP on the new parameters ------------------------------------------------------------------------------


def test_masks_are_cut_with_the_weights(net: Net) -> None:
    torch.manual_seed(1)
    masks = Masks({name: torch.rand_like(mask.float()) > 0.4 for name, mask in Masks.full(net).items()})
    masks.lay_over(net)
    survivors = host.step(pruner_of(net), example=IMAGES)
    smaller = survivors.masks(masks)
    assert smaller == Masks.of(net) and smaller.size < masks.size
    assert_raises(WrongModel, lambda: survivors.masks(smaller), "once")


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


def test_an_optimiser_inside_held_is_refused(net: Net) -> None:
    optimizer = Lookahead(torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9))
    pruner = pruner_of(net)
    with Masks.full(net).held(net, optimizer), assert_untouched(net):
        assert_raises(BadValue, lambda: host.step(pruner, optimizer, IMAGES), "leave `held` first, then step, then")
    assert len(host.step(pruner, optimizer, IMAGES)) > 0
    with Masks.of(net).held(net, optimizer):
        train(net, optimizer)


# -- saved and loaded -------------------------------------------------------------------------------------------------


def cut_then_edit(model: nn.Module) -> None:
    host.step(pruner_of(model), example=IMAGES)
    surgery.transform_(model, surgery.swap("prelu"), IMAGES)


def edit_then_cut(model: nn.Module) -> None:
    surgery.transform_(model, [surgery.erase(site="relu 2/6"), surgery.swap("npwlu", remaining=True)], IMAGES)
    host.step(pruner_of(model), example=IMAGES)


def edit_cut_cut(model: nn.Module) -> None:
    surgery.transform_(model, surgery.swap("prelu", site="relu 5/6"), IMAGES)
    pruner = pruner_of(model, iterative_steps=2, pruning_ratio=0.6)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        host.step(pruner, optimizer, IMAGES)
        train(model.train(), optimizer)


def cut_twice_with_shared_tables(model: nn.Module) -> None:
    surgery.transform_(model, surgery.swap("npwlu", per="layer", site=APART), IMAGES)
    for _ in range(2):
        host.step(pruner_of(model, ignored_layers=host.ignored(model), pruning_ratio=0.3), example=IMAGES)


@pytest.mark.filterwarnings("ignore:Unwrapped parameters detected")
@pytest.mark.parametrize("make", [cut_then_edit, edit_then_cut, edit_cut_cut, cut_twice_with_shared_tables])
def test_a_pruned_model_is_saved_and_loaded(net: Net, make: Callable[[nn.Module], None], tmp_path: Path) -> None:
    make(net)
    surgery.save(net, tmp_path)
    fresh = Net()
    random = torch.get_rng_state()
    loaded = surgery.load(tmp_path, fresh)
    assert loaded is fresh and all(module.training for module in fresh.modules())
    assert torch.equal(torch.get_rng_state(), random)
    assert list(fresh.state_dict()) == list(net.state_dict())
    assert_bit_equal(fresh.state_dict().values(), net.state_dict().values())
    assert_bit_equal([fresh.eval()(IMAGES)], [net.eval()(IMAGES)])
    assert [(step.kind, step.data) for step in surgery.history_of(fresh)] == [
        (step.kind, step.data) for step in surgery.history_of(net)
    ]
    surgery.save(fresh, tmp_path / "again")
    assert json.loads((tmp_path / "again" / "surgery.json").read_text()) == json.loads(
        (tmp_path / "surgery.json").read_text()
    )


def test_two_steps_are_two_entries(net: Net) -> None:
    pruner = pruner_of(net, iterative_steps=2)
    for _ in range(2):
        host.step(pruner, example=IMAGES)
    steps = surgery.history_of(net)
    assert [step.kind for step in steps] == ["torch_pruning"] * 2
    assert steps[0].data["history"] + steps[1].data["history"] == json.loads(json.dumps(pruner.pruning_history()))
    assert steps[0].fingerprint != steps[1].fingerprint
    assert_raises(CannotEdit, lambda: surgery.undo(net), "torch_pruning", "fresh model")


def test_a_step_that_removes_nothing_is_no_step(net: Net) -> None:
    assert len(host.step(pruner_of(net, pruning_ratio=0.0), example=IMAGES)) == 0
    assert surgery.history_of(net) == ()


def test_a_saved_step_does_not_fit_another_model(net: Net, tmp_path: Path) -> None:
    host.step(pruner_of(net), example=IMAGES)
    surgery.save(net, tmp_path)
    other = Net()
    other.body = nn.Conv2d(8, 8, 1, bias=False)
    with assert_untouched(other):
        assert_raises(WrongModel, lambda: surgery.load(tmp_path, other), "not the model that was pruned")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda data: data.pop("history"), "'history'"),
        (lambda data: data["history"][0].append(1), "damaged"),
        (lambda data: data["history"][0][2].append("x"), "damaged"),
        (lambda data: data["customised"].append("Mine"), "Mine"),
    ],
    ids=["gone", "longer", "text", "customised"],
)
def test_a_damaged_step_is_refused(net: Net, tmp_path: Path, spoil: Callable[[Any], Any], words: str) -> None:
    host.step(pruner_of(net), example=IMAGES)
    spoil(steps_of(net)[0].data)
    surgery.save(net, tmp_path)
    fresh = Net()
    with assert_untouched(fresh):
        assert_raises(BadFile, lambda: surgery.load(tmp_path, fresh), words)


# -- dead channels first ----------------------------------------------------------------------------------------------


def group_of(model: nn.Module, layer: nn.Module, channels: list[int]) -> Any:
    graph = tp.DependencyGraph().build_dependency(model, IMAGES)
    return graph.get_pruning_group(layer, tp.prune_conv_out_channels, channels)


def units(count: int, *dead: int) -> Tensor:
    return torch.tensor([channel in dead for channel in range(count)])


def test_dead_channels_go_first_and_then_the_smallest(net: Net) -> None:
    dead = {"left.weight": units(6, 4, 1)}
    plain = tp.importance.GroupMagnitudeImportance()(group_of(net, net.left, list(range(6))))
    scores = host.DeadNeuronImportance(net, dead)(group_of(net, net.left, list(range(6))))
    assert scores is not None and scores.shape == (6,)
    wanted = sorted(range(6), key=lambda channel: (channel not in (1, 4), float(plain[channel])))
    assert scores.argsort().tolist() == wanted
    assert (scores < 0).tolist() == dead["left.weight"].tolist()


def test_the_pruner_removes_dead_channels(net: Net) -> None:
    marks = mark(net)
    dead = {"left.weight": units(6, 0, 3, 5), "right.weight": units(10, 2, 4, 6, 8, 9), "last.weight": units(4, 1)}
    importance = host.DeadNeuronImportance(net, dead)
    host.step(pruner_of(net, importance=importance), example=IMAGES)
    places = found(net, marks)
    assert (places["left.weight"][:, 0, 0, 0] // 8).tolist() == [1, 2, 4]
    assert (places["right.weight"][:, 0, 0, 0] // 8).tolist() == [0, 1, 3, 5, 7]
    assert 1 not in (places["last.weight"][:, 0, 0, 0] // (16 * 9)).tolist()
    assert_raises(BadValue, lambda: importance(group_of(net, net.left, [0, 1, 2])), "left.weight", "measure")


def test_across_groups_no_living_channel_goes_before_a_dead_one(net: Net) -> None:
    with torch.no_grad():
        net.left.weight.mul_(100)
    dead = {"left.weight": units(6, 0, 1, 2, 3)}
    importance = host.DeadNeuronImportance(net, dead, tp.importance.GroupMagnitudeImportance(normalizer=None))
    pruner = pruner_of(net, importance=importance, global_pruning=True, pruning_ratio=0.11)
    marks = mark(net)
    with torch.no_grad():
        net.left.weight.mul_(100)
        net.left.weight.div_(100)
    host.step(pruner, example=IMAGES)
    places = found(net, marks)
    assert (places["left.weight"][:, 0, 0, 0] // 8).tolist() == [4, 5]
    assert net.right.out_channels == 10 and net.stem.out_channels == 8


def test_a_residual_channel_is_dead_if_all_that_make_it_say_so(net: Net) -> None:
    group = group_of(net, net.stem, list(range(8)))
    for dead, wanted in (
        ({"stem.weight": units(8, 1, 2)}, [1, 2]),
        ({"stem.weight": units(8, 1, 2), "body.weight": units(8, 2, 3)}, [2]),
        ({"stem.weight": units(8, 1, 2), "body.weight": units(8, 2, 3), "deep.weight": units(8)}, []),
        ({"last.weight": units(4, 0)}, []),  # of another group
        ({}, []),
    ):
        scores = host.DeadNeuronImportance(net, dead)(group)
        assert scores is not None and (scores < 0).nonzero().flatten().tolist() == wanted


class Wide(nn.Module):
    """What two convolutions make, side by side, is added to what a third one makes."""

    def __init__(self) -> None:
        super().__init__()
        self.whole, self.left, self.right = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 5, 1)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.whole(x) + torch.cat([self.left(x), self.right(x)], 1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("order", [list(range(8)), [7, 2, 0, 5, 6, 1, 3, 4]], ids=["in order", "in another order"])
def test_channels_of_a_concatenation_are_told_apart(order: list[int]) -> None:
    torch.manual_seed(0)
    model = Wide()
    dead = {"left.weight": units(3, 1), "right.weight": units(5, 0, 4), "whole.weight": units(8, 1, 2, 3, 7)}
    group = group_of(model, model.whole, order)
    plain = tp.importance.GroupMagnitudeImportance()(group)
    scores = host.DeadNeuronImportance(model, dead)(group)
    assert scores is not None and (scores < 0).nonzero().flatten().tolist() == [1, 3, 7]
    assert scores.argsort().tolist() == sorted(range(8), key=lambda c: (c not in (1, 3, 7), float(plain[c])))


def test_part_of_a_group_is_scored_by_position(net: Net) -> None:
    base = lambda group: torch.tensor([0.3, 0.1, 0.2])  # noqa: E731
    scores = host.DeadNeuronImportance(net, {"left.weight": units(6, 5, 2)}, base)(group_of(net, net.left, [5, 0, 2]))
    assert scores is not None and scores.argsort().tolist() == [2, 0, 1]


def test_scores_of_any_sign_and_none_are_understood(net: Net) -> None:
    group = group_of(net, net.left, list(range(6)))
    numbers = torch.tensor([-2.0, 5e-8, float("nan"), -2.5, 7.0, 6e-8])
    scores = host.DeadNeuronImportance(net, {"left.weight": units(6, 0, 4, 5)}, lambda _: numbers)(group)
    assert scores is not None and scores.argsort().tolist() == [0, 5, 4, 3, 2, 1]
    assert host.DeadNeuronImportance(net, {}, lambda _: None)(group) is None


def test_units_of_another_model_are_refused(net: Net) -> None:
    assert_raises(WrongModel, lambda: host.DeadNeuronImportance(net, {"nowhere.weight": units(3)}), "nowhere.weight")
    assert_raises(BadValue, lambda: host.DeadNeuronImportance(net, {"left.weight": torch.ones(6)}), "left.weight")


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


class Attending(nn.Module):
    """Attention that reads its number of heads off itself, as those of vision transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.num_heads = nn.Conv2d(3, 8, 1), nn.ReLU(), 4
        self.query, self.key, self.value, self.head = (nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8),
                                                       nn.Linear(8, 3))  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.conv(x)).flatten(2).transpose(1, 2)
        query, key, value = (
            layer(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        result: Tensor = self.head(mixed.mean(1))
        return result


@pytest.mark.parametrize("erased", [False, True])
def test_heads_that_were_set_by_hand_after_a_step_come_back(erased: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Attending()
    heads = {model.query: 4, model.key: 4, model.value: 4}
    pruner = tp.pruner.BasePruner(
        model, IMAGES, tp.importance.GroupMagnitudeImportance(p=2), pruning_ratio=0.5, ignored_layers=[model.head],
        num_heads=heads, prune_num_heads=True, head_pruning_ratio=0.5,
    )  # fmt: skip
    host.step(pruner, example=IMAGES)
    model.num_heads = pruner.num_heads[model.query]
    assert model.num_heads == 2 and model.query.out_features == 2
    if erased:
        surgery.transform_(model, surgery.erase(), IMAGES)
    surgery.save(model, tmp_path)
    fresh = surgery.load(tmp_path, Attending())
    assert fresh.num_heads == 2
    assert_bit_equal([fresh.eval()(IMAGES)], [model.eval()(IMAGES)])
    surgery.save(fresh, tmp_path / "again")
    assert surgery.load(tmp_path / "again", Attending()).num_heads == 2


def test_a_new_head_after_a_step_comes_back(net: Net, tmp_path: Path) -> None:
    host.step(pruner_of(net), example=IMAGES)
    net.head = nn.Linear(net.head.in_features, 7)
    surgery.save(net, tmp_path)
    fresh = Net()
    with assert_untouched(fresh):
        assert_raises(WrongModel, lambda: surgery.load(tmp_path, fresh))
    fresh.head = nn.Linear(16, 7)
    assert_bit_equal([surgery.load(tmp_path, fresh).eval()(IMAGES)], [net.eval()(IMAGES)])
