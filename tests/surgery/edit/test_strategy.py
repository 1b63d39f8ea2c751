"""Strategies: replace a module, one of its names, or a single call; other cases are refused by name."""

from __future__ import annotations

import functools
import types
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils import parametrizations, parametrize, prune

import surgery
from surgery.edit.strategy import Decision, OwnCall, Slot, decide
from surgery.plan.rules import Rule
from tests import models
from tests.asserts import assert_raises, assert_untouched
from tests.models import picture


def decisions(model: nn.Module, rule: Rule, example: Any) -> tuple[Decision, ...]:
    return decide(model, surgery.make_plan(surgery.find_sites(model, example), rule))


def refused(model: nn.Module, rule: Rule, *words: str, example: Any = None) -> None:
    """`transform` and `transform_` raise CannotEdit with these words and leave the model unchanged."""
    example = picture() if example is None else example
    for verb in (surgery.transform, surgery.transform_):
        with assert_untouched(model):
            assert_raises(surgery.CannotEdit, functools.partial(verb, model, rule, example), *words)


# Ways of editing


def test_a_module_called_once_gives_up_its_slot() -> None:
    (decision,) = decisions(models.BottleneckNet(), surgery.erase(site="body.1.act3"), picture())
    assert isinstance(decision, Slot)
    assert (decision.paths, decision.alone) == (("body.1.act3",), False)


def test_a_module_under_two_names_is_told_apart() -> None:
    model = models.TwoNames()
    (decision,) = decisions(model, surgery.swap("gelu", site="second"), picture())
    assert isinstance(decision, Slot)
    assert (decision.paths, decision.alone) == (("second",), True)
    both = decisions(model, surgery.swap("gelu"), picture())
    assert [decision.paths for decision in both if isinstance(decision, Slot)] == [("first",), ("second",)]


def test_a_shared_module_gets_a_call_of_its_own() -> None:
    (decision,) = decisions(models.TwiceUsed(), surgery.erase(site="act 2/2"), picture())
    assert isinstance(decision, OwnCall)
    assert (decision.splice.method, decision.splice.callee, decision.splice.ordinal) == ("forward", "self.act", 2)
    assert decision.splice.child == "act_1"


def test_erasing_all_calls_of_a_shared_module_erases_the_module() -> None:
    (decision,) = decisions(models.TwiceUsed(), surgery.erase(), picture())
    assert isinstance(decision, Slot)


class Numbered(nn.Module):
    """Registers its layers by numbers and calls them in a loop, one of them twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.Linear(4, 4), act := nn.ReLU(), nn.Linear(4, 4), act]
        for number, layer in enumerate(self.layers):
            self.add_module(str(number), layer)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def test_new_children_in_the_place_of_a_number_have_a_name_that_can_be_written() -> None:
    model, x = Numbered(), torch.randn(2, 4)
    edited, _ = surgery.transform(model, surgery.swap("gelu"), x)
    wanted = F.gelu(model.layers[2](F.gelu(model.layers[0](x))))
    assert torch.equal(edited(x), wanted)
    assert [name for name, module in edited.named_children() if isinstance(module, nn.GELU)] == ["relu_1", "relu_1_1"]


def test_new_children_have_names_nobody_uses() -> None:
    class Taken(models.TwiceUsed):
        act_1: int = 3

    (decision,) = decisions(Taken(), surgery.erase(site="act 2/2"), picture())
    assert isinstance(decision, OwnCall)
    assert decision.splice.child == "act_1_"


def test_runs_of_the_same_code_are_edited_together_or_not_at_all() -> None:
    for kind, site, name in (
        (models.HeadOnLevels, "head.act run 2/3", "head.act"),
        (models.HelperMethod, "act 1/2 run 1/2", "act"),
    ):
        model = kind()
        sites = surgery.find_sites(model, kind.example)
        run = next(place for place in sites if place.run == 1 + (kind is models.HeadOnLevels))
        assert run.path == name, site
        refused(model, surgery.erase(site=str(run)), name, "all of its runs", example=kind.example)
        edited, _ = surgery.transform(model, surgery.erase(site=name), kind.example)
        assert len(surgery.find_sites(edited, kind.example)) == 0


# What cannot be edited


class Shared(nn.Module):
    """A block whose one ReLU serves twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.act = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv2(self.act(self.conv1(x))))


class Around(nn.Module):
    """A model around a block."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block, self.last = block, nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.block(x))


def own_forward(self: Shared, x: Tensor) -> Tensor:
    return self.act(self.conv2(self.act(self.conv1(x))))


class LambdaForward(Shared):
    forward = lambda self, x: self.act(self.conv2(self.act(self.conv1(x))))  # noqa: E731


class SuperForward(Shared):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0


def unwrapped(function: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    def around(self: Any, x: Tensor) -> Tensor:
        return function(self, x)

    return around


class Decorated(Shared):
    @unwrapped
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv2(self.act(self.conv1(x))))


class Mapped(Shared):
    def forward(self, x: Tensor) -> Tensor:
        first, second = list(map(self.act, (self.conv1(x), self.conv2(x))))
        return first + second


class ThrownAway(Shared):
    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        F.relu_(x)
        return self.conv2(x)


class Keyword(Shared):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(F.relu(input=self.conv1(x)))


class Starred(Shared):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(F.leaky_relu(self.conv1(x), *(0.2,)))


class Container(nn.Sequential):
    def forward(self, input: Tensor) -> Tensor:
        for module in self:
            input = F.relu(module(input))
        return input


class Walker(Shared):
    def forward(self, x: Tensor) -> Tensor:
        for child in self.children():
            x = child(x)
        return F.relu(x)


class Wrapped(Shared):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(free(self.conv1(x)))


def free(x: Tensor) -> Tensor:
    return F.relu(x) + 1


class Anonymous(Shared):
    def __init__(self) -> None:
        super().__init__()
        self.function = Shifted()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.function(self.conv1(x)))


class Shifted:
    """Callable, but not a module."""

    def __call__(self, x: Tensor) -> Tensor:
        return torch.sigmoid(F.relu(x) + 1)


def no_source() -> nn.Module:
    space: dict[str, Any] = {"Shared": Shared}
    exec(
        "class Written(Shared):\n"
        "    def forward(self, x):\n"
        "        return self.act(self.conv2(self.act(self.conv1(x))))\n",
        space,
    )
    made: nn.Module = space["Written"]()
    return made


@pytest.mark.parametrize(
    ("make", "rule", "words"),
    [
        (LambdaForward, surgery.erase(site="block.act 2/2"), ("lambda",)),
        (SuperForward, surgery.erase(site="block.act 2/2"), ("super()",)),
        (Decorated, surgery.erase(site="block.act 2/2"), ("forward()",)),
        (Mapped, surgery.erase(site="block.act 2/2"), ("list(...) does more",)),
        (ThrownAway, surgery.erase(), ("discarded",)),
        (Keyword, surgery.erase(), ("keyword",)),
        (Starred, surgery.swap("gelu"), ("star",)),
        (lambda: Container(nn.Conv2d(3, 3, 1)), surgery.erase(), ("Container is a container",)),
        (Walker, surgery.swap("gelu", site="block.relu*"), ("self.children",)),
        (Wrapped, surgery.erase(), ("free()",)),
        (Anonymous, surgery.erase(activation="relu"), ("__call__()",)),
        (no_source, surgery.erase(site="block.act 2/2"), ("no source",)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_cannot_be_edited_is_refused_by_name(
    make: Callable[[], nn.Module], rule: Rule, words: tuple[str, ...]
) -> None:
    refused(Around(make()), rule, "block", *words)


def test_a_forward_of_the_object_itself_is_refused() -> None:
    block = Shared()
    block.forward = types.MethodType(own_forward, block)  # type: ignore[method-assign]
    refused(Around(block), surgery.erase(site="block.act 2/2"), "block", "forward()")
    whole, _ = surgery.transform(Around(block), surgery.erase(), picture())
    assert len(surgery.find_sites(whole, picture())) == 0


def test_a_forward_without_source_still_has_slots() -> None:
    edited, _ = surgery.transform(Around(no_source()), surgery.erase(), picture())
    assert len(surgery.find_sites(edited, picture())) == 0


def test_decorators_that_say_what_they_wrap_work() -> None:
    def counted(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        @functools.wraps(function)
        def around(*args: Any, **kwargs: Any) -> Tensor:
            return function(*args, **kwargs)

        return around

    class Counted(Shared):
        @counted
        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.conv2(self.act(self.conv1(x))))

    model = Around(Counted())
    edited, _ = surgery.transform(model, surgery.erase(site="block.act 2/2"), picture())
    block = model.block
    expected = model.last(block.conv2(block.act(block.conv1(picture()))))  # type: ignore[operator, union-attr]
    assert torch.equal(edited(picture()), expected)


def test_quantizable_blocks_are_refused_where_fusing_would_pass_them_over() -> None:
    class Fusable(Shared):
        def fuse_model(self) -> None:
            """As torchvision's quantizable blocks have it."""

    refused(Around(Fusable()), surgery.erase(site="block.act 2/2"), "fuse_model()", "undo, fuse")


def test_the_relu_of_an_add_relu_can_be_erased() -> None:
    model = models.AddReluNet()
    edited, _ = surgery.transform(model, surgery.erase_relu(), picture())
    x = model.stem(picture())
    y = model.block.conv2(model.block.relu(model.block.conv1(x)))
    assert torch.equal(edited(picture()), model.last(y + x))


# Overwriting


def test_swapping_where_the_overwritten_input_is_read_again_is_refused() -> None:
    refused(models.Overwritten(), surgery.swap("gelu", callee="torch.relu_"), "relu", "overwrites its input")
    refused(models.Overwritten(), surgery.erase(callee="torch.relu_", fade=True), "relu", "overwrites its input")


def test_erasing_there_leaves_the_input_as_it_is() -> None:
    model = models.Overwritten()
    edited, _ = surgery.transform(model, surgery.erase(callee="torch.relu_"), picture())
    x = model.conv1(picture())
    assert torch.equal(edited(picture()), torch.relu(model.conv2(x) + x))


# Masks and parametrizations


class Slopes(nn.Module):
    """A PReLU, whose weight can be masked, behind a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 4, 1), nn.PReLU(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))


def test_a_mask_on_the_module_to_be_replaced_is_refused() -> None:
    model = Slopes()
    prune.l1_unstructured(model.act, "weight", 0.5)
    refused(model, surgery.erase(), "act", "prune.remove")
    prune.remove(model.act, "weight")
    assert surgery.transform(model, surgery.erase(), picture())


def test_a_parametrization_of_the_module_to_be_replaced_is_refused() -> None:
    model = Slopes()
    parametrize.register_parametrization(model.act, "weight", nn.Identity())
    refused(model, surgery.erase(), "act", "parametriz")


@pytest.mark.slow
def test_masks_and_parametrizations_elsewhere_stay() -> None:
    model = models.ResidualNet()
    prune.l1_unstructured(model.layer1[0].conv1, "weight", 0.5)
    parametrizations.weight_norm(model.layer1[1].conv1)
    edited, _ = surgery.transform(model, surgery.erase_relu(), picture())
    assert prune.is_pruned(edited.layer1[0].conv1)
    assert parametrize.is_parametrized(edited.layer1[1].conv1)
    assert list(edited.state_dict()) == list(model.state_dict())
    surgery.undo(edited)
    with torch.no_grad():  # what hooks compute cannot be copied by `assert_same_function`
        assert torch.equal(edited.eval()(picture()), model.eval()(picture()))


# Wrapped, scripted, lazy


def scripted(model: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made: nn.Module = torch.jit.script(model)
    return made


def traced(model: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made: nn.Module = torch.jit.trace(model, picture())
    return made


@pytest.mark.parametrize(
    ("wrap", "words"),
    [(nn.DataParallel, ("DataParallel", "model.module")), (torch.compile, ("OptimizedModule", "_orig_mod")),
     (scripted, ("Script", "script or trace")), (traced, ("Module", "script or trace"))],
    ids=["parallel", "compiled", "scripted", "traced"],
)  # fmt: skip
def test_wrapped_models_are_refused_with_what_to_do(wrap: Callable[[nn.Module], nn.Module], words: tuple[str]) -> None:
    model = wrap(models.BottleneckNet().eval())
    for verb in (surgery.transform, surgery.transform_):
        assert_raises(surgery.SurgeryError, functools.partial(verb, model, surgery.erase_relu(), picture()), *words)


@pytest.mark.parametrize("wrap", [torch.compile, scripted], ids=["compiled", "scripted"])
def test_a_wrapped_part_of_a_model_is_refused_by_its_path(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = models.BottleneckNet().eval()
    model.body[1] = wrap(model.body[1])
    for verb in (surgery.transform, surgery.transform_):
        with assert_untouched(model):
            assert_raises(
                surgery.SurgeryError, functools.partial(verb, model, surgery.erase_relu(), picture()), "body.1"
            )


def test_ddp_is_refused_by_its_name() -> None:
    class DistributedDataParallel(nn.Module):
        """A stub of torch's class, which needs a process group."""

        __module__ = "torch.nn.parallel.distributed"

        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

    model = DistributedDataParallel(models.BottleneckNet())
    assert_raises(
        surgery.CannotLook, lambda: surgery.transform(model, surgery.erase_relu()), "DistributedData", "model.module"
    )


def test_lazy_models_are_refused_until_they_have_run() -> None:
    class Lazy(Shared):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.LazyConv2d(3, 1)

    model = Lazy()
    for verb in (surgery.transform, surgery.transform_):
        assert_raises(
            surgery.CannotLook, functools.partial(verb, model, surgery.erase(), picture()), "first batch", "run it once"
        )
    model(picture())
    assert surgery.transform(model, surgery.erase(), picture())


# Graphs


def test_a_graph_with_input_by_keyword_is_refused() -> None:
    model = fx.symbolic_trace(Keyword())
    node = next(node for node in model.graph.nodes if node.name == "relu")
    node.args, node.kwargs = (), {"input": node.args[0]}
    model.recompile()
    refused(model, surgery.erase(), "relu", "first argument")


# Code that cannot be read


def test_calls_in_code_that_cannot_be_read_are_all_found() -> None:
    space: dict[str, Any] = {"Shared": Shared, "nn": nn}
    exec(
        "class Written(Shared):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.other = nn.SiLU()\n"
        "    def forward(self, x):\n"
        "        return self.act(self.other(self.conv2(self.act(self.conv1(x)).sigmoid())).sigmoid())\n",
        space,
    )
    sites = surgery.find_sites(Around(space["Written"]()), picture())
    assert [site.activation for site in sites] == ["relu", "sigmoid", "silu", "sigmoid", "relu"]
    assert len({site.key for site in sites}) == 5
    assert [bool(site.locked) for site in sites] == [True, True, False, True, True]  # `other` has a slot to itself


def test_activations_inside_one_call_of_something_else_are_all_found() -> None:
    sites = surgery.find_sites(Around(Anonymous()), picture())
    assert [site.activation for site in sites] == ["relu", "sigmoid"]
    assert len({site.key for site in sites}) == 2
