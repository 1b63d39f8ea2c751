"""Rewritten owners: the new calls run, everything else is unchanged, and the rest is refused."""

from __future__ import annotations

import copy
import functools
import gc
import importlib
import importlib.util
import inspect
import linecache
import os
import pickle
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

import surgery
from surgery.code.calls import Call, call_at
from surgery.code.subclass import Splice, base_of, check_instance, owns, rewritten, splices_of
from surgery.errors import CannotEdit
from tests.asserts import assert_untouched

# -- watching ---------------------------------------------------------------------------------------------------------

ACTIVATIONS = ("relu", "relu_", "sigmoid", "sigmoid_", "silu", "hardswish", "gelu", "tanh", "leaky_relu", "hardtanh")


class Again(nn.Module):
    """The activation of an observed call, as a module."""

    def __init__(self, func: Callable[..., Any], options: tuple[Any, ...], words: dict[str, Any]) -> None:
        super().__init__()
        self.func, self.options, self.words = func, options, words

    def forward(self, x: Tensor) -> Any:
        return self.func(x, *self.options, **self.words)


class Watch(TorchFunctionMode):
    """Records, for every activation call, the owner, its call expression, its pass, and the activation."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[nn.Module, Call, int, Again]] = []
        self.passes: dict[tuple[FrameType, str, int], int] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__ in ACTIVATIONS:
            self.note(sys._getframe(1), Again(func, args[1:], kwargs or {}))
        return func(*args, **(kwargs or {}))

    def note(self, frame: FrameType | None, act: Again) -> None:
        at: FrameType | None = None
        while frame is not None:
            names = frame.f_code.co_varnames
            owner = frame.f_locals.get(names[0]) if names else None
            if frame.f_code.co_name in ("<listcomp>", "<genexpr>"):
                at = at or frame
            elif isinstance(owner, nn.Module) and not isinstance(owner, Again) and not thin(owner, frame):
                at = at or frame
                call = call_at(at.f_code, at.f_lasti)
                assert owns(type(owner), call.method, frame.f_code)
                key = (frame, call.callee, call.ordinal)
                self.passes[key] = self.passes.get(key, 0) + 1
                number = at.f_locals[call.counter] if call.counter else self.passes[key]
                self.calls.append((owner, call, number if call.looped else 0, act))
                return
            frame = frame.f_back
        raise AssertionError("an activation without an owner")


def thin(owner: nn.Module, frame: FrameType) -> bool:
    """Frames of activation modules and of nn.Module.__call__ are not their owners'."""
    home = type(owner).__module__
    return home.startswith(("torch.nn.modules.activation", "timm.layers.activations")) or frame.f_code.co_filename == (
        nn.Module.__call__.__code__.co_filename
    )


def calls_of(model: nn.Module, *inputs: Any) -> list[tuple[nn.Module, Call, int, Again]]:
    with Watch() as watch:
        model(*copy.deepcopy(inputs))
    return watch.calls


def install(owner: nn.Module, *splices: Splice) -> None:
    check_instance(owner, splices)
    owner.__class__ = rewritten(base_of(type(owner)), splices)


def rerouted(model: nn.Module, *inputs: Any) -> nn.Module:
    """A copy in which every activation call goes to a fresh equal activation."""
    made = copy.deepcopy(model)
    wanted: dict[nn.Module, list[Splice]] = {}
    for number, (owner, call, iteration, act) in enumerate(calls_of(made, *inputs)):
        if isinstance(owner, nn.Sequential):
            continue  # its children can be replaced one by one
        child = f"again_{number}"
        setattr(owner, child, act)
        wanted.setdefault(owner, []).append(Splice(call.method, call.callee, call.ordinal, iteration, child))
    for owner, splices in wanted.items():
        install(owner, *splices)
    return made


def results(model: nn.Module, *inputs: Any, train: bool) -> list[Tensor]:
    """Outputs, and in train mode gradients and buffers too."""
    model = copy.deepcopy(model).train(train)
    torch.manual_seed(0)
    leaves: list[Tensor] = []

    def given(value: Any) -> Any:
        if isinstance(value, list):
            return [given(part) for part in value]
        leaves.append(value.clone().requires_grad_())
        return leaves[-1] * 1  # it may be overwritten

    out = model(*map(given, inputs))
    outs = list(out) if isinstance(out, list | tuple) else [out]
    if not train:
        return outs
    sum(out.square().sum() for out in outs).backward()
    grads = [leaf.grad for leaf in (*leaves, *model.parameters()) if leaf.grad is not None]
    assert len(grads) >= len(leaves)
    return [*outs, *grads, *model.buffers()]


def assert_equal(ours: list[Tensor], theirs: list[Tensor]) -> None:
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.equal(mine, other)


def assert_same_function(model: nn.Module, made: nn.Module, *inputs: Any) -> None:
    for train in (False, True):
        assert_equal(results(made, *inputs, train=train), results(model, *inputs, train=train))


# -- ways to write a call ---------------------------------------------------------------------------------------------


class Tenfold(nn.Module):
    """Not an activation: its calls are easy to count in the result."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 10


class Owner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(3, 3)
        self.act = nn.ReLU()
        self.acts = nn.ModuleList([nn.ReLU(), nn.ReLU()])
        self.ten = Tenfold()

    def extra_repr(self) -> str:
        return "an owner"


class Twice(Owner):
    def forward(self, x: Tensor) -> Tensor:
        """Twice the same child."""
        return self.act(self.lin(self.act(x))) + F.relu(x, inplace=False) + self.lin(x).sigmoid()


class Chain(Owner):
    def forward(me, x: Tensor) -> Tensor:
        y = (
            me.lin(x)
            # before the first
            .relu()  # after the first
            .mul(2)
            .relu_()
        )
        return(y - 1).relu() + torch.relu(
            x,  # "ä€"
        )  # fmt: skip


class Loop(Owner):
    def forward(self, x: Tensor, count: int = 3) -> Tensor:
        """Loops of every kind."""
        for _ in range(count):
            x = self.act(self.lin(x) - 0.1)
            x = F.leaky_relu(x - 0.1, 0.2) + (self.lin(x) - 0.1).relu()
        while x.sum() < 3:
            x = self.act(x) + 1
        return x


class Comprehension(Owner):
    def forward(self, x: Tensor) -> Tensor:
        parts = [self.act(y - k) for k, y in enumerate(x.unbind(1))]
        return sum(self.act(F.relu(y - 1)) for y in parts) + sum([F.relu(y) for y in parts])  # type: ignore


class OneLine(Owner):
    def forward(self, x: Tensor) -> Tensor: return sum([self.act(y) for y in x.unbind(1)])  # type: ignore  # fmt: skip


class Tied(Owner):
    def forward(self, x: Tensor) -> Tensor:
        """Said."""; x = torch.stack([self.acts[i](x - i) for i in (0, 1)]).sum(0)  # noqa: E702  # fmt: skip
        for layer in self.acts:
            x = layer(x - 0.1)
        return self.__helped(x)

    def __helped(self, x: Tensor) -> Tensor:
        alias = self.act
        return alias(super()._get_name() and x - 0.1)


class FirstInside(Owner):
    def forward(self, x: Tensor) -> Tensor:
        @functools.cache
        def one(k: int) -> int:
            return 1

        for _ in (0, 1):
            x = self.act(x - one(1))
        return x


@pytest.mark.parametrize("kind", [Twice, Chain, Loop, Comprehension, OneLine, Tied, FirstInside])
def test_a_rewrite_of_nothing_changes_nothing(kind: type[Owner]) -> None:
    torch.manual_seed(1)
    model, x = kind(), torch.randn(2, 3) * 3
    made = rerouted(model, x)
    assert type(made) is not kind and isinstance(made, kind)
    assert_same_function(model, made, x)
    before = [(call.callee, call.ordinal, k) for _, call, k, _ in calls_of(model, x)]
    after = [(call.callee, call.ordinal, k) for _, call, k, _ in calls_of(made, x)]
    assert before == after
    assert all(call.child is not None for _, call, _, _ in calls_of(made, x))


def test_only_the_asked_call_is_another() -> None:
    model, x = Twice(), torch.randn(2, 3)
    install(model, Splice("forward", "self.act", 2, 0, "ten"))
    hidden = model.act(x)
    expected = model.lin(hidden) * 10 + F.relu(x) + model.lin(x).sigmoid()
    assert torch.equal(model(x), expected)


def test_functions_and_tensor_methods_lose_their_options() -> None:
    model, x = Twice(), torch.randn(2, 3)
    install(model, Splice("forward", "F.relu", 1, 0, "ten"), Splice("forward", ".sigmoid", 1, 0, "ten"))
    expected = model.act(model.lin(model.act(x))) + x * 10 + model.lin(x) * 10
    assert torch.equal(model(x), expected)


def test_every_link_of_a_chain_over_lines_can_be_edited() -> None:
    x = torch.randn(2, 3)
    for ordinal in (1, 2):
        model = Chain()
        install(model, Splice("forward", ".relu", ordinal, 0, "ten"))
        y = model.lin(x) * 10 if ordinal == 1 else model.lin(x).relu()
        y = (y * 2).relu_() - 1
        assert torch.equal(model(x), (y * 10 if ordinal == 2 else y.relu()) + torch.relu(x))


class Passes(Owner):
    def forward(self, x: Tensor, count: int = 4) -> Tensor:
        for _ in range(count):
            x = self.act(x) + 1
        return x


def test_single_passes_of_a_loop_are_edited() -> None:
    x = torch.ones(1)
    for passes, expected in [((2,), 23), ((1, 3), 122), ((4,), 41), ((9,), 5)]:
        model = Passes()
        install(model, *(Splice("forward", "self.act", 1, k, "ten") for k in passes))
        assert model(x).item() == expected, passes
        assert model(x).item() == expected, "the second run counts from one again"
    install(model, Splice("forward", "self.act", 1, 0, "ten"), Splice("forward", "self.act", 1, 2, "act"))
    assert model(x).item() == 1211
    assert model(x, count=2).item() == 12, "a run of another length"


def test_loops_edit_methods_and_options_too() -> None:
    class Both(Owner):
        def forward(self, x: Tensor) -> Tensor:
            for _ in range(3):
                x = (F.leaky_relu(x - 1, 0.5) + 1).relu() + 1
            return x

    model = Both()
    install(model, Splice("forward", "F.leaky_relu", 1, 2, "ten"), Splice("forward", ".relu", 1, 2, "ten"))
    assert model(torch.zeros(1)).item() == ((0.5 + 1 - 1) * 10 + 1) * 10 + 1 + 1
    said = [(call.callee, k, call.child) for _, call, k, _ in calls_of(model, torch.zeros(1))]
    assert said == [("F.leaky_relu", 1, None), (".relu", 1, None), ("F.leaky_relu", 3, None), (".relu", 3, None)]


def test_two_frames_of_one_method_count_apart() -> None:
    class Deep(Owner):
        def forward(self, x: Tensor, depth: int = 2) -> Tensor:
            for k in range(2):
                x = self.act(x) + 1
                if depth and not k:
                    x = self.forward(x, depth - 1)
            return x

    model = Deep()
    install(model, Splice("forward", "self.act", 1, 2, "ten"))
    # Each of the three frames runs two passes, and in each of them the second is tenfold.
    x = 1
    for _ in range(2):
        x += 1
    x += 1
    for _ in range(3):
        x = x * 10 + 1
    assert model(torch.ones(1)).item() == x


# -- behind a call ----------------------------------------------------------------------------------------------------


class Scores(Owner):
    """Calls whose effect must stay: nested, chained, over several lines."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(
            self.act(x),  # first
            self.lin.weight,
            bias=self.lin.bias,
        )
        return F.linear(y, self.lin.weight).abs() + 1


def test_a_child_behind_a_call_is_given_its_result() -> None:
    model, x = Scores(), torch.randn(2, 3)
    first = F.linear(x.relu(), model.lin.weight, model.lin.bias)
    for splices, expected in (
        ([("F.linear", 1)], F.linear(first * 10, model.lin.weight).abs() + 1),
        ([("F.linear", 2)], (F.linear(first, model.lin.weight) * 10).abs() + 1),
        ([("F.linear", 1), ("F.linear", 2)], (F.linear(first * 10, model.lin.weight) * 10).abs() + 1),
        ([(".abs", 1)], F.linear(first, model.lin.weight).abs() * 10 + 1),
    ):
        install(model, *(Splice("forward", callee, ordinal, 0, "ten", True) for callee, ordinal in splices))
        assert torch.equal(model(x), expected), splices
        model.__class__ = Scores


def test_behind_a_call_and_instead_of_one_inside_it() -> None:
    model, x = Scores(), torch.randn(2, 3)
    install(model, Splice("forward", "F.linear", 1, 0, "ten", True), Splice("forward", "self.act", 1, 0, "ten"))
    first = F.linear(x * 10, model.lin.weight, model.lin.bias) * 10
    assert torch.equal(model(x), F.linear(first, model.lin.weight).abs() + 1)


def test_instead_of_a_call_what_is_in_it_goes_and_behind_it_stays() -> None:
    x = torch.randn(2, 3)
    instead, behind = Twice(), Twice()
    behind.load_state_dict(instead.state_dict())
    install(instead, Splice("forward", ".sigmoid", 1, 0, "ten"))
    install(behind, Splice("forward", ".sigmoid", 1, 0, "ten", True))
    assert torch.allclose(behind(x) - Twice.forward(behind, x), behind.lin(x).sigmoid() * 9, atol=1e-5)
    linear = behind.lin(x)
    assert torch.allclose(instead(x) - Twice.forward(instead, x), linear * 10 - linear.sigmoid(), atol=1e-5)


def test_behind_single_passes_of_a_loop() -> None:
    x = torch.ones(1)
    for passes, expected in [((2,), 23), ((1, 3), 122), ((9,), 5)]:
        model = Passes()
        install(model, *(Splice("forward", "self.act", 1, k, "ten", True) for k in passes))
        assert model(x).item() == expected, passes
    assert torch.equal(Passes()(-x), torch.full((1,), 4.0))
    install(model, Splice("forward", "self.act", 1, 1, "ten", True))
    assert model(-x).item() == 4, "the call itself is still made"


class ByKeyword(Owner):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(input=x) + torch.add(x, 1)


def test_a_call_with_nothing_to_take_out_can_still_have_a_child_behind_it() -> None:
    model, x = ByKeyword(), torch.randn(2, 3)
    with pytest.raises(CannotEdit, match="by keyword"):
        rewritten(ByKeyword, (Splice("forward", "F.relu", 1, 0, "ten"),))
    install(model, Splice("forward", "F.relu", 1, 0, "ten", True))
    assert torch.equal(model(x), x.relu() * 10 + (x + 1))


@pytest.mark.parametrize("kind", [nn.Linear, nn.Conv2d])
def test_a_layer_of_torch_gets_a_child_behind_it(kind: type[nn.Module]) -> None:
    layer: nn.Module = nn.Linear(3, 2) if kind is nn.Linear else nn.Conv2d(3, 2, 1)
    x = torch.randn(4, 3) if kind is nn.Linear else torch.randn(1, 3, 4, 4)
    wanted = layer(x) * 10
    callee = "F.linear" if kind is nn.Linear else "self._conv_forward"
    layer.ten = Tenfold()
    install(layer, Splice("forward", callee, 1, 0, "ten", True))
    assert torch.equal(layer(x), wanted) and isinstance(layer, kind)
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(copied(x), wanted) and splices_of(type(copied)) == splices_of(type(layer))
    assert list(layer.state_dict()) == ["weight", "bias"]


def test_behind_and_instead_are_two_specifications() -> None:
    first, other = (rewritten(Twice, (Splice("forward", "F.relu", 1, 0, "ten", behind),)) for behind in (False, True))
    assert first is not other
    assert splices_of(other) == (Splice("forward", "F.relu", 1, 0, "ten", behind=True),)


# -- what the new class is --------------------------------------------------------------------------------------------


def test_the_class_keeps_its_names_and_is_made_once() -> None:
    splices = (Splice("forward", "self.act", 2, 0, "ten"), Splice("forward", "self.act", 1, 0, "ten"))
    kind = rewritten(Twice, splices)
    assert kind is rewritten(Twice, splices[::-1])
    assert (kind.__name__, kind.__qualname__, kind.__module__, kind.__doc__) == (
        Twice.__name__, Twice.__qualname__, Twice.__module__, Twice.__doc__,
    )  # fmt: skip
    assert kind.forward.__doc__ == "Twice the same child."
    assert inspect.signature(kind.forward) == inspect.signature(Twice.forward)
    assert (base_of(kind), splices_of(kind)) == (Twice, tuple(sorted(splices)))
    assert (base_of(Twice), splices_of(Twice), rewritten(Twice, ())) == (Twice, (), Twice)
    assert repr(kind()) == repr(Twice())


def test_a_class_nobody_uses_is_forgotten() -> None:
    kind = rewritten(Twice, (Splice("forward", "F.relu", 1, 0, "gone"),))
    filename = kind.forward.__code__.co_filename
    assert filename in linecache.cache
    del kind
    gc.collect()
    assert filename not in linecache.cache


def test_readers_see_the_new_text() -> None:
    kind = rewritten(Twice, (Splice("forward", "self.act", 1, 0, "act_2"),))
    linecache.checkcache()
    assert "self.act(self.lin(self.act_2(x)))" in inspect.getsource(kind.forward)
    assert inspect.getsourcelines(kind.forward)[1] == inspect.getsourcelines(Twice.forward)[1]
    try:
        kind()(torch.ones(1, 3))
    except AttributeError as error:
        assert "self.act_2(x)" in "".join(traceback.format_exception(error))
    else:
        raise AssertionError("act_2 does not exist")


def test_a_page_break_is_no_line(tmp_path: Path) -> None:
    path = tmp_path / "paged.py"
    path.write_text("\f# one\x1c\u2028 line" + LIBRARY, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("paged", path)
    assert spec is not None and spec.loader is not None
    paged = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(paged)
    kind = rewritten(paged.Small, (Splice("forward", "F.relu", 1, 0, "ten"),))
    assert inspect.getsource(kind.forward).startswith("    def forward") and "self.ten(x)" in inspect.getsource(
        kind.forward
    )


def test_the_frames_of_a_rewritten_class_speak_of_its_base() -> None:
    model, x = Chain(), torch.randn(2, 3)
    before = [call for _, call, _, _ in calls_of(model, x)]
    model.sig = nn.Sigmoid()
    install(model, Splice("forward", ".relu", 1, 0, "sig"))
    after = [call for _, call, _, _ in calls_of(model, x)]
    assert [(c.callee, c.ordinal, c.locked) for c in after] == [(c.callee, c.ordinal, c.locked) for c in before]
    assert [c.child for c in after] == ["sig", None, None, None]


def test_defaults_attributes_and_free_variables_are_kept() -> None:
    shift = torch.tensor(1.0)
    act = F.relu

    class Free(Owner):
        def forward(self, x: Tensor, by: float = 2.0, *, times: float = 3.0) -> Tensor:
            return act(x) * times + by + shift + __class__.extra_repr(self).count("a")  # type: ignore

    Free.forward.note = "kept"  # type: ignore[attr-defined]
    model = Free()
    expected = model(torch.ones(1))
    install(model, Splice("forward", "act", 1, 0, "act"))
    assert torch.equal(model(torch.ones(1)), expected)
    assert model.forward.note == "kept"  # type: ignore[attr-defined]
    assert "act" in Free.forward.__code__.co_freevars
    assert "act" not in type(model).forward.__code__.co_freevars
    shift += 1
    assert torch.equal(model(torch.ones(1)), expected + 1), "the closure is shared, not copied"


def test_an_inherited_method_is_rewritten_for_the_heir_alone() -> None:
    class Heir(Twice):
        pass

    heir, x = Heir(), torch.randn(2, 3)
    install(heir, Splice("forward", "F.relu", 1, 0, "ten"))
    assert "forward" not in vars(Heir) and type(Twice()).forward is Twice.forward
    assert not torch.equal(heir(x), Twice.forward(heir, x))


def test_what_is_reached_through_super_is_not_owned() -> None:
    class Heir(Twice):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + self.act(x)

    heir = Heir()
    assert owns(Heir, "forward", Heir.forward.__code__)
    assert not owns(Heir, "forward", Twice.forward.__code__)
    assert owns(Twice, "forward", Twice.forward.__code__)
    with pytest.raises(AssertionError):
        calls_of(heir, torch.ones(1, 3))
    install(heir, Splice("forward", "self.act", 1, 0, "ten"))
    assert owns(type(heir), "forward", type(heir).forward.__code__)
    x = torch.ones(1, 3)
    assert torch.equal(heir(x), Twice.forward(heir, x) + x * 10)


def louder(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @functools.wraps(function)
    def loud(*args: Any, **kwargs: Any) -> Tensor:
        return function(*args, **kwargs) + 100

    return loud


class Decorated(Owner):
    @louder
    @torch.no_grad()
    @louder
    def forward(self, x: Tensor) -> Tensor:
        """Said."""
        for _ in range(2):
            x = self.act(x)
        return x


def test_decorators_stand_around_the_new_method() -> None:
    model = Decorated()
    install(model, Splice("forward", "self.act", 1, 2, "ten"))
    x = torch.ones(1, requires_grad=True)
    assert model(x).item() == 210 and not model(x).requires_grad
    assert Decorated()(x).item() == 201, "the author's decorators still hold the author's function"
    assert model.forward.__doc__ == "Said." and "self.ten(x)" in inspect.getsource(type(model).forward)
    assert [call.child for _, call, _, _ in calls_of(model, x)] == [None]


# -- what is refused --------------------------------------------------------------------------------------------------


def bare(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def wrapper(self: Any, x: Tensor) -> Tensor:
        return function(self, x)

    return wrapper


class Kept:
    """A decorator that is an object."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        functools.update_wrapper(self, function)
        self.function = function

    def __call__(self, *args: Any) -> Tensor:
        return self.function(*args)


def elsewhere(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    kept = [function]

    @functools.wraps(function)
    def wrapper(*args: Any) -> Tensor:
        return kept[0](*args)

    return wrapper


class Refused(Owner):
    @bare
    def unwrapped(self, x: Tensor) -> Tensor:
        return self.act(x)

    @Kept
    def kept(self, x: Tensor) -> Tensor:
        return self.act(x)

    @elsewhere
    def elsewhere(self, x: Tensor) -> Tensor:
        return self.act(x)

    @staticmethod
    def static(x: Tensor) -> Tensor:
        return F.relu(x)

    @classmethod
    def of_class(cls, x: Tensor) -> Tensor:
        return F.relu(x)

    lambda_ = lambda self, x: self.act(x)  # noqa: E731

    other = Twice.forward

    async def waiting(self, x: Tensor) -> Tensor:
        return self.act(x)

    def thrown(self, x: Tensor) -> Tensor:
        F.relu_(x)
        return x

    def by_keyword(self, x: Tensor) -> Tensor:
        return F.relu(input=x)

    def plain(self, x: Tensor) -> Tensor:
        return self.act(self.act(F.leaky_relu(x, float(F.relu(x).sum()))))


@pytest.mark.parametrize(
    ("method", "callee", "reason"),
    [
        ("unwrapped", "self.act", "not a method but a nested function"),
        ("kept", "self.act", "is not a plain method"),
        ("elsewhere", "self.act", "does not keep it in a closure"),
        ("static", "F.relu", "is not a plain method"),
        ("of_class", "F.relu", "is not a plain method"),
        ("lambda_", "self.act", "is a lambda"),
        ("other", "self.act", "under another name"),
        ("waiting", "self.act", "asynchronous"),
        ("thrown", "F.relu_", "discarded"),
        ("by_keyword", "F.relu", "by keyword"),
        ("nowhere", "self.act", "is not a plain method"),
        ("plain", "self.relu", "does not call self.relu"),
    ],
)
def test_what_cannot_be_spliced_is_refused(method: str, callee: str, reason: str) -> None:
    with pytest.raises(CannotEdit, match=reason):
        rewritten(Refused, (Splice(method, callee, 1, 0, "ten"),))


@pytest.mark.parametrize(
    ("splices", "reason"),
    [
        ([("self.act", 3, 0, "ten")], "not call self.act"),
        ([("self.act", 1, 2, "ten")], "not in a loop"),
        ([("self.act", 1, 0, "ten"), ("self.act", 1, 0, "act")], "two children"),
        ([("F.leaky_relu", 1, 0, "ten"), ("F.relu", 1, 0, "ten")], "in code that another edit removes"),
        ([("self.act", 1, 0, "0")], "is not a valid name"),
        ([("self.act", 1, 0, "if")], "does not compile"),
        ([("self.act", 1, 0, "__ten")], "is not a valid name"),
    ],
)
def test_splices_that_make_no_sense_are_refused(splices: list[tuple[str, int, int, str]], reason: str) -> None:
    with pytest.raises(CannotEdit, match=reason):
        rewritten(Refused, tuple(Splice("plain", *splice) for splice in splices))


def test_a_rewritten_class_is_no_base() -> None:
    kind = rewritten(Twice, (Splice("forward", "F.relu", 1, 0, "ten"),))
    with pytest.raises(CannotEdit, match="already rewritten"):
        rewritten(kind, (Splice("forward", "self.act", 1, 0, "ten"),))


def test_a_class_that_cannot_be_subclassed_is_refused() -> None:
    class Final(Owner):
        def __init_subclass__(cls, *, name: str) -> None: ...

        def forward(self, x: Tensor) -> Tensor:
            return self.act(x)

    with pytest.raises(CannotEdit, match="cannot be subclassed"):
        rewritten(Final, (Splice("forward", "self.act", 1, 0, "ten"),))


def test_a_class_without_source_is_refused() -> None:
    space: dict[str, Any] = {"Owner": Owner}
    exec("class Typed(Owner):\n    def forward(self, x): return self.act(x)", space)
    with pytest.raises(CannotEdit, match="no source to read"):
        rewritten(space["Typed"], (Splice("forward", "self.act", 1, 0, "ten"),))


class Iterating(Owner):
    def forward(self, x: Tensor) -> Tensor:
        return self.helped(self.act(x))

    def helped(self, x: Tensor) -> Tensor:
        return sum(child(x) for child in self.children() if isinstance(child, nn.ReLU))  # type: ignore


class IteratingDicts(Owner):
    def forward(self, x: Tensor) -> Tensor:
        for name in [name for name in self._modules if name == "act"]:
            x = self.act(self._modules[name](x))  # type: ignore
        return x


class NotIterating(Owner):
    def __init__(self) -> None:
        super().__init__()
        assert list(self.modules())

    def forward(self, x: Tensor, children: tuple[()] = ()) -> Tensor:
        for child in self.acts.children():
            x = child(x)
        return self.act(x)


class Constants(Owner):
    """Constants that are tuples: an empty one, and one that ends in the name of the first argument."""

    def forward(self, x: Tensor) -> Tensor:
        gathered: tuple[Tensor, ...] = ()
        for name in ("other", "self"):
            gathered += (self.act(x) * len(name),)
        return sum(gathered)  # type: ignore[return-value]


class Fused(Twice):
    def fuse_model(self) -> None: ...


class Ordered(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x))


FORWARD = (Splice("forward", "self.act", 1, 0, "ten"),)


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (nn.Sequential(nn.ReLU()), "is a container"),
        (nn.ModuleList(), "is a container"),
        (nn.ModuleDict(), "is a container"),
        (Ordered(nn.ReLU()), "is a container"),
        (Iterating(), r"helped\(\) iterates over self.children"),
        (IteratingDicts(), "iterates over self._modules"),
        (Fused(), "undo, fuse"),
        (fx.symbolic_trace(Twice()), "GraphModule"),
    ],
)
def test_owners_a_rewrite_would_not_serve_are_refused(module: nn.Module, reason: str) -> None:
    with pytest.raises(CannotEdit, match=reason):
        check_instance(module, FORWARD)


def test_a_traced_module_is_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        traced = torch.jit.trace(Twice(), torch.ones(1, 3))
    with pytest.raises(CannotEdit, match="scripted or traced"):
        check_instance(traced, FORWARD)


def test_a_forward_set_on_the_instance_is_refused() -> None:
    model = Twice()
    check_instance(model, FORWARD)
    model.forward = functools.partial(Twice.forward, model)  # type: ignore[method-assign]
    with pytest.raises(CannotEdit, match="instance attribute"):
        check_instance(model, FORWARD)


@pytest.mark.parametrize("module", [NotIterating(), Constants()])
def test_looking_at_children_elsewhere_does_no_harm(module: nn.Module) -> None:
    with assert_untouched(module):
        check_instance(module, FORWARD)


# -- copies and pickles -----------------------------------------------------------------------------------------------


class Private(Twice):
    """Reduces itself its own way."""

    made: ClassVar[int] = 0

    def __reduce__(self) -> Any:
        return type(self), (), self.__getstate__()

    def __init__(self) -> None:
        super().__init__()
        Private.made += 1

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state | {"woken": True})


@pytest.mark.parametrize("kind", [Twice, Private])
@pytest.mark.parametrize("protocol", [0, 1, 2, 5])
def test_pickles_and_copies_are_rewritten_too(kind: type[Twice], protocol: int) -> None:
    model, x = kind(), torch.randn(2, 3)
    install(model, Splice("forward", "F.relu", 1, 0, "ten"))
    made = Private.made
    for copied in (pickle.loads(pickle.dumps(model, protocol)), copy.deepcopy(model), copy.copy(model)):
        assert type(copied) is type(model) and copied is not model
        assert torch.equal(copied(x), model(x))
        assert getattr(copied, "woken", False) is (kind is Private)
    assert Private.made - made == (3 if kind is Private else 0)


LIBRARY = """
from torch import nn
import torch.nn.functional as F

class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.ten = nn.Identity()

    def forward(self, x):
        names = {"a", "b", "c"} if x is None else {"d", "e"}
        return F.relu(x) if "a" not in {"a", "f", "g"} else F.relu(x - 1)
"""

LOADER = """
import pickle, sys, torch
from surgery.errors import CannotEdit
from surgery.code.subclass import splices_of
saved, *folders = sys.argv[1:]
for folder in folders:
    sys.path.insert(0, folder)
    try:
        with open(saved, "rb") as file:
            model = pickle.load(file)
        print(*[splice.ordinal for splice in splices_of(type(model))], model(torch.zeros(1)).item())
    except CannotEdit as error:
        print(str(error).splitlines()[0])
    del sys.modules["library_of_small"]
"""


@pytest.mark.slow
def test_a_fresh_process_loads_it_if_the_code_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {
        "same": LIBRARY,
        "moved": "# moved\n\n" + LIBRARY.replace("self, x):", "self, x):  # it runs"),
        "changed": LIBRARY.replace("x - 1", "x - 2"),
    }
    for name, text in texts.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "library_of_small.py").write_text(text, encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(tmp_path / "same"))
        small = importlib.import_module("library_of_small").Small()
        install(small, Splice("forward", "F.relu", 2, 0, "ten"))
        (tmp_path / "small.pickle").write_bytes(pickle.dumps(small))
    del sys.modules["library_of_small"]
    done = subprocess.run(
        [sys.executable, "-B", "-c", LOADER, str(tmp_path / "small.pickle"), *(str(tmp_path / name) for name in texts)],
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": "7"},
    )  # fmt: skip
    same, moved, changed = done.stdout.splitlines()
    assert same == moved == "2 -1.0"
    assert "is not the code that was edited" in changed


# -- what else must work ----------------------------------------------------------------------------------------------


def edited(kind: type[Owner]) -> tuple[Owner, Tensor]:
    torch.manual_seed(1)
    model, x = kind().eval(), torch.randn(2, 3)
    made = rerouted(model, x)
    assert isinstance(made, Owner)
    return made, x


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


# The modules of these tests keep a function, which the compiler of torch 2.11 cannot call.
COMPILED = pytest.mark.skipif(torch.__version__ < (2, 12), reason="torch 2.11 does not compile the modules of the test")


@COMPILED
@pytest.mark.parametrize("kind", [Twice, Chain, Comprehension])
@pytest.mark.usefixtures("fresh_compiler")
def test_it_compiles_whole(kind: type[Owner]) -> None:
    model, x = edited(kind)
    assert torch.equal(torch.compile(model, backend="eager", fullgraph=True)(x), model(x))


@pytest.mark.usefixtures("fresh_compiler")
def test_a_counted_loop_compiles_whole_and_a_compiled_model_sees_the_edit() -> None:
    model, x = Passes(), torch.ones(1)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert compiled(x).item() == 5
    install(model, Splice("forward", "self.act", 1, 2, "ten"))
    assert compiled(x).item() == 23 and compiled(x, 2).item() == 21
    model.__class__ = Passes
    assert compiled(x).item() == 5


@pytest.mark.parametrize("strict", [False, pytest.param(True, marks=COMPILED)])
@pytest.mark.parametrize("kind", [Twice, Comprehension, Passes])
@pytest.mark.usefixtures("fresh_compiler")
def test_it_exports(kind: type[Owner], strict: bool) -> None:
    model, x = edited(kind)
    assert torch.equal(torch.export.export(model, (x,), strict=strict).module()(x), model(x))


def test_activation_checkpointing_gives_the_same_gradients() -> None:
    from torch.utils.checkpoint import checkpoint

    model, x = Passes(), torch.randn(3)
    install(model, Splice("forward", "self.act", 1, 2, "lin"))
    model(x).sum().backward()
    plain = model.lin.weight.grad
    assert plain is not None
    model.zero_grad()
    checkpoint(model, x, use_reentrant=False).sum().backward()
    assert model.lin.weight.grad is not None and torch.equal(model.lin.weight.grad, plain)


class Scripted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()
        self.sig = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(F.relu(x, inplace=False) - 1) + torch.tanh(x)


def test_torchscript_reads_the_new_text() -> None:
    model, x = Scripted(), torch.randn(4)
    install(model, Splice("forward", "F.relu", 1, 0, "sig"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        script = torch.jit.script(model)
    assert torch.equal(script(x), model(x)) and not torch.equal(script(x), Scripted()(x))


# -- real owners ------------------------------------------------------------------------------------------------------


def basic_block() -> nn.Module:
    from torchvision.models.resnet import BasicBlock

    return BasicBlock(4, 4)


def bottleneck() -> nn.Module:
    from torchvision.models.resnet import Bottleneck

    return Bottleneck(8, 2)


def basic_conv() -> nn.Module:
    from torchvision.models.googlenet import BasicConv2d

    return BasicConv2d(4, 4, kernel_size=1)


def dense_net() -> nn.Module:
    from torchvision.models.densenet import DenseNet

    return DenseNet(growth_rate=2, block_config=(1, 1), num_init_features=4, bn_size=1, num_classes=3)


def bottle2neck() -> nn.Module:
    from timm.models.res2net import Bottle2neck

    return Bottle2neck(16, 4, base_width=64, scale=4, norm_layer=nn.BatchNorm2d)


def high_resolution() -> nn.Module:
    from timm.models.hrnet import HighResolutionModule
    from timm.models.resnet import BasicBlock

    return HighResolutionModule(3, BasicBlock, (1, 1, 1), [4, 8, 12], (4, 8, 12), "SUM")


def dla_basic() -> nn.Module:
    from timm.models.dla import DlaBasic

    return DlaBasic(4, 4)


def window_attention() -> nn.Module:
    from timm.models.swin_transformer_v2 import WindowAttention

    return WindowAttention(8, (2, 2), 2)


def lite_mla() -> nn.Module:
    from timm.models.efficientvit_mit import LiteMLA

    return LiteMLA(8, 8)


def gpsa() -> nn.Module:
    from timm.models.convit import GPSA

    return GPSA(8, 2)


def se_bottleneck() -> nn.Module:
    from timm.models.senet import SEResNetBottleneck

    return SEResNetBottleneck(16, 4, 1, 4)


def evo_norm() -> nn.Module:
    from timm.layers import EvoNorm2dS0

    return EvoNorm2dS0(4, groups=2)


def patch_merging() -> nn.Module:
    from timm.models.efficientvit_msra import PatchMerging

    return PatchMerging(4, 8)


IMAGE = ((4, 8, 8),)
OWNERS = {
    basic_block: (IMAGE, 2), bottleneck: (((8, 8, 8),), 3), basic_conv: (IMAGE, 1), dense_net: (((3, 32, 32),), 1),
    bottle2neck: (((16, 8, 8),), 5), high_resolution: (((4, 16, 16), (8, 8, 8), (12, 4, 4)), 3),
    dla_basic: (IMAGE, 2), window_attention: (((4, 8),), 1), lite_mla: (((8, 4, 4),), 2), gpsa: (((16, 8),), 2),
    se_bottleneck: (((16, 8, 8),), 3), evo_norm: (IMAGE, 1), patch_merging: (IMAGE, 2),
}  # fmt: skip


@pytest.mark.parametrize("build", OWNERS)
def test_real_owners_are_rewritten_bit_for_bit(build: Callable[[], nn.Module]) -> None:
    shapes, count = OWNERS[build]
    torch.manual_seed(2)
    model = build().eval()
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.1)  # positive: variances, too; no zero gains
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.sub_(0.6)
    inputs: tuple[Any, ...] = tuple(torch.randn(2, *shape) for shape in shapes)
    if build is high_resolution:
        inputs = (list(inputs),)
    kind = type(model)
    made = rerouted(model, *inputs)
    own = [call for owner, call, _, _ in calls_of(made, *inputs) if owner is made]
    assert type(made) is not kind and base_of(type(made)) is kind
    assert len(own) == count and all(call.child is not None for call in own)
    assert_same_function(model, made, *inputs)
    before = [(call.callee, call.ordinal, k) for _, call, k, _ in calls_of(model, *inputs)]
    after = [(call.callee, call.ordinal, k) for _, call, k, _ in calls_of(made, *inputs)]
    assert before == after


def test_a_subclass_hook_that_tells_nobody_is_no_reason_to_refuse() -> None:
    modeling = pytest.importorskip("transformers.modeling_utils")
    configuration = pytest.importorskip("transformers.configuration_utils")

    class Pretrained(modeling.PreTrainedModel):  # type: ignore[name-defined, misc]
        config_class = configuration.PretrainedConfig

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.fc = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.fc(x))

    model, x = Pretrained(configuration.PretrainedConfig()), torch.rand(2, 8) - 0.5
    edited, _ = surgery.transform(model, surgery.swap("silu"), x)
    assert torch.equal(edited(x), F.silu(model.fc(x)))
    assert isinstance(edited, Pretrained) and type(edited).config_class is Pretrained.config_class
    assert type(surgery.undo(edited)) is Pretrained
