"""Which call a frame is at: the classes below know the names of their own calls."""

from __future__ import annotations

import importlib.util
import linecache
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.overrides import TorchFunctionMode

from surgery.code.calls import Call, assigned_name, call_at, read
from surgery.errors import CannotEdit


class Probe:
    """Called like an activation; records the call expression it is called from."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def __call__(self, x: Any, *options: Any, **more: Any) -> Any:
        frame = sys._getframe(1)
        self.calls.append(call_at(frame.f_code, frame.f_lasti))
        return x

    def relu(self, x: Any = None) -> Probe:
        frame = sys._getframe(1)
        self.calls.append(call_at(frame.f_code, frame.f_lasti))
        return self

    def __add__(self, other: Any) -> Any:
        frame = sys._getframe(1)
        self.calls.append(call_at(frame.f_code, frame.f_lasti))
        return self

    def said(self) -> list[tuple[str, int, bool]]:
        calls, self.calls = self.calls, []
        return [(call.callee, call.ordinal, call.looped) for call in calls]


probe = Probe()
F = probe


class Calls:
    """One method for each way to write a call; `act` is always the probe."""

    act = probe
    acts = (probe, probe)

    def plain(self, x: Any) -> Any:
        """A docstring with self.act(x) in it."""
        x = self.act(self.act(x))
        return self.act(x) or probe(x, 0.1, inplace=True)

    def chain(self, x: Any) -> Any:
        return (
            F.relu()
            .relu()
            # between the lines
            .relu()
        )

    def nested(self, x: Any) -> Any:
        return self.act(
            self.act(
                self.act(x),
            )
        )

    def alias(self, x: Any) -> Any:
        layer = self.act
        for layer in self.acts:
            x = layer(x)
        return layer(x) or self.acts[0](x) or getattr(self, "act")(x)  # noqa: B009

    def loops(self, x: Any) -> Any:
        while len(self.act([x, x])) > 3:
            pass
        for _ in self.act([1, 2]):
            x = self.act(x)
        else:
            x = self.act(x)
        return x

    def comprehensions(self, x: Any) -> Any:
        ones = [self.act(y) for y in self.act([1])]
        twos = {self.act(y) for y in [2]} and {y: self.act(y) for y in [3] if self.act(y)}
        return ones, twos, list(self.act(z) for y in [4] for z in self.act([y]))

    def übung(self, x: Any) -> Any:
        return "ä€😀", self.act(x), "é", self.act(x)

    def condensed(self, x: Any) -> Any: return [self.act(y) for y in (x, x)]  # fmt: skip

    def __private(self, x: Any) -> Any:
        return self.act(x)

    def private(self, x: Any) -> Any:
        return self.__private(x)

    def twice(self, x: Any, *, again: Any = probe) -> Any:
        try:
            return self.act(x)
        finally:
            again(x)


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("plain", [("self.act", 1, False), ("self.act", 2, False), ("self.act", 3, False)]),
        ("chain", [("F.relu", 1, False), (".relu", 1, False), (".relu", 2, False)]),
        ("nested", [("self.act", 1, False), ("self.act", 2, False), ("self.act", 3, False)]),
        ("alias", [("layer", 1, True), ("layer", 1, True), ("layer", 2, False)]),
        ("loops", [("self.act", 1, True), ("self.act", 2, False), ("self.act", 3, True), ("self.act", 3, True),
                   ("self.act", 4, False)]),
        ("comprehensions", [("self.act", 2, False), ("self.act", 1, True), ("self.act", 3, True), ("self.act", 5, True),
                            ("self.act", 4, True), ("self.act", 7, True), ("self.act", 6, True)]),
        ("übung", [("self.act", 1, False), ("self.act", 2, False)]),
        ("condensed", [("self.act", 1, True), ("self.act", 1, True)]),
        ("private", [("self.act", 1, False)]),
        ("twice", [("self.act", 1, False), ("again", 1, False)]),
    ],
)  # fmt: skip
def test_every_way_to_write_a_call_is_told(method: str, said: list[tuple[str, int, bool]]) -> None:
    probe.said()
    getattr(Calls(), method)(1)
    assert probe.said() == said


def test_a_falsy_value_reaches_the_other_spellings() -> None:
    probe.said()
    Calls().alias(0)
    assert probe.said()[2:] == [("layer", 2, False), ("self.acts[0]", 1, False), ("getattr(self, 'act')", 1, False)]
    Calls().plain(0)
    assert probe.calls[-1] == Call("plain", "probe", 1, False, None)


def test_what_can_be_evaluated_without_a_call_is_said() -> None:
    plain = {call.callee: call.expression_is_plain for call in read(Calls.alias.__code__).ends.values()}
    assert plain == {"layer": True, "self.acts[0]": True, "getattr": True, "getattr(self, 'act')": False}
    assert {call.expression_is_plain for call in read(Calls.chain.__code__).ends.values()} == {True, False}


def test_a_private_method_has_its_attribute_name() -> None:
    probe.said()
    Calls().private(1)
    assert [call.method for call in probe.calls] == ["_Calls__private"]
    assert hasattr(Calls, probe.calls[0].method)


def test_equal_codes_are_read_once() -> None:
    assert read(Calls.plain.__code__) is read(Calls.plain.__code__)


class Locked:
    act = relu = prelu = probe

    def thrown(self, x: Any) -> None:
        self.act(x)

    def thrown_in_a_list(self, x: Any) -> None:
        [self.act(y) for y in (x,)]

    def thrown_if(self, x: Any) -> None:
        x and self.act(x)

    def by_keyword(self, x: Any) -> Any:
        return self.act(x=x)

    def starred(self, x: Any) -> Any:
        return self.act(*[x])

    def options(self, x: Any) -> Any:
        return self.act(x, **{})

    def no_input(self, x: Any) -> Any:
        return self.relu()

    def of_nothing(self, x: Any) -> Any:
        act = probe.relu
        return act()

    def binding(self, x: Any) -> Any:
        return (found := self.act)(x) or found

    def on_the_spot(self, x: Any) -> Any:
        return (lambda y: y)(x)

    def weighted(self, x: Any) -> Any:
        return x.prelu(x)

    def uncountable(self, x: Any) -> Any:
        return [z for y in (1, 2) for z in self.act([y])]

    def rebound(self, x: Any) -> Any:
        self = Locked()
        return self.act(x)


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ("thrown", "discarded"),
        ("thrown_in_a_list", "discarded"),
        ("thrown_if", "discarded"),
        ("by_keyword", "by keyword"),
        ("starred", "unpacked"),
        ("options", "unpacked"),
        ("no_input", "without an input"),
        ("of_nothing", "without an input"),
        ("binding", "contain an assignment expression"),
        ("on_the_spot", "contain an assignment expression"),
        ("weighted", "cannot be distinguished"),
        ("uncountable", "iterations cannot be counted"),
        ("rebound", "reassigns self"),
    ],
)
def test_what_cannot_be_spliced_is_locked_with_its_reason(method: str, reason: str) -> None:
    last = list(read(getattr(Locked, method).__code__).ends.values())[-1]
    assert last.locked is not None and reason in last.locked


def test_what_can_be_spliced_is_not_locked() -> None:
    for method in ("plain", "chain", "nested", "alias", "loops"):
        locks = [call.locked for call in read(getattr(Calls, method).__code__).ends.values()]
        assert locks and not any(locks), method


class Outside:
    """Frames that are not at a call of a method itself."""

    act = probe

    forward = lambda self, x: self.act(x)  # noqa: E731

    def nested(self, x: Any) -> Any:
        def inner(y: Any) -> Any:
            return self.act(y)

        return inner(x)

    def mapped(self, x: Any) -> Any:
        return list(map(lambda y: self.act(y), [x]))

    def operator(self, x: Any) -> Any:
        return self.act + x

    def formatted(self, x: Any) -> Any:
        return f"ä {self.act(x)} b"


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ("forward", "a lambda"),
        ("nested", "nested function"),
        ("mapped", "a lambda"),
        ("operator", "operator"),
        ("formatted", "f-string"),
    ],
)
def test_frames_outside_the_methods_own_calls_are_refused(method: str, reason: str) -> None:
    with pytest.raises(CannotEdit, match=reason):
        getattr(Outside(), method)(1)


def imported(path: Path, text: str) -> ModuleType:
    path.write_text(text, encoding="utf-8")
    return loaded(path)


def loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TEXT = """
class Small:
    def forward(self, x):
        return self.act(x)
"""


def test_a_file_changed_after_its_import_is_refused(tmp_path: Path) -> None:
    for number, (old, new) in enumerate([("self.act(x)", "self.act(x + 1)"), ("\nclass", "\n\nclass")]):
        path = tmp_path / f"small{number}.py"
        module = imported(path, TEXT)
        path.write_text(TEXT.replace(old, new), encoding="utf-8")
        os.utime(path, (1, 1))
        with pytest.raises(CannotEdit, match="changed after it was imported"):
            read(module.Small.forward.__code__)


def test_a_change_elsewhere_in_the_file_does_no_harm(tmp_path: Path) -> None:
    module = imported(tmp_path / "small.py", TEXT + "a = 1\n")
    (tmp_path / "small.py").write_text(TEXT + "a = 2\n", encoding="utf-8")
    assert [call.callee for call in read(module.Small.forward.__code__).ends.values()] == ["self.act"]


def test_a_module_imported_again_after_a_change_is_read_again(tmp_path: Path) -> None:
    for text, count in [(TEXT, 1), (TEXT.replace("(x)\n", "(self.act(x))\n"), 2)]:
        module = imported(tmp_path / "small.py", text)
        assert len(read(module.Small.forward.__code__).ends) == count


def test_equal_classes_in_two_files_are_told_apart(tmp_path: Path) -> None:
    first, second = (imported(tmp_path / f"{name}.py", TEXT) for name in ("one", "two"))
    assert first.Small.forward.__code__ == second.Small.forward.__code__
    (tmp_path / "two.py").unlink()
    assert read(first.Small.forward.__code__).name == "forward"
    with pytest.raises(CannotEdit, match="no source"):
        read(second.Small.forward.__code__)


def test_a_class_without_a_file_is_refused() -> None:
    space: dict[str, Any] = {}
    exec(TEXT, space)
    with pytest.raises(CannotEdit, match="no source to read"):
        read(space["Small"].forward.__code__)


def test_a_file_with_a_cookie_a_mark_and_bad_escapes_is_read(tmp_path: Path) -> None:
    text = "# -*- coding: latin-1 -*-\nwords = 'é', '\\d', '''\f\u00a0'''\n" + TEXT.replace("(x)\n", "('é')\n")
    path = tmp_path / "latin.py"
    path.write_bytes(text.encode("latin-1"))
    with pytest.warns(DeprecationWarning if sys.version_info < (3, 12) else SyntaxWarning, match="invalid escape"):
        module = loaded(path)
    module.Small.act = staticmethod(probe)
    probe.said()
    module.Small().forward(1)
    assert probe.said() == [("self.act", 1, False)]


@pytest.mark.slow
def test_code_without_columns_is_refused(tmp_path: Path) -> None:
    script = """
import sys
from surgery.code.calls import call_at
from surgery.errors import CannotEdit
class Small:
    def act(self, x):
        frame = sys._getframe(1)
        call_at(frame.f_code, frame.f_lasti)
    def forward(self, x):
        return self.act(x)
try:
    Small().forward(1)
except CannotEdit as error:
    print(error)
"""
    path = tmp_path / "script.py"
    path.write_text(script, encoding="utf-8")
    command = [sys.executable, "-X", "no_debug_ranges", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "compiled without columns" in done.stdout


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(torch.relu(x).relu()) + torch.tanh(x)


class Named(TorchFunctionMode):
    """Records the name that generated code gives the result of each activation."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[tuple[str, str | None]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        frame = sys._getframe(1)
        while not frame.f_code.co_filename.startswith("<eval_with_key>"):
            assert frame.f_back is not None
            frame = frame.f_back
        if func.__name__ in ("relu", "tanh"):
            callee = call_at(frame.f_code, frame.f_lasti).callee
            self.names.append((callee, assigned_name(frame.f_code, frame.f_lasti)))
        return func(*args, **(kwargs or {}))


def test_generated_code_says_which_node_runs() -> None:
    graph = fx.symbolic_trace(Branches())
    x = torch.ones(2)
    with Named() as named:
        graph(x)
    assert named.names == [("torch.relu", "relu"), ("relu.relu", "relu_1"), ("self.act", "act"), ("torch.tanh", "tanh")]
    assert {name for _, name in named.names} <= {node.name for node in graph.graph.nodes}


def test_only_a_plain_assignment_has_a_name() -> None:
    class Assigning:
        names: list[str | None] = []  # noqa: RUF012

        def act(self, x: Any) -> Any:
            frame = sys._getframe(1)
            self.names.append(assigned_name(frame.f_code, frame.f_lasti))
            return x

        def forward(self, x: Any) -> Any:
            one = self.act(x)
            two: int = self.act(one)
            three = four = self.act(two)
            self.five = self.act(three + four)
            return self.act(x)

    Assigning().forward(1)
    assert Assigning.names == ["one", "two", None, None, None]


def test_a_cleared_line_cache_is_read_again() -> None:
    linecache.clearcache()
    probe.said()
    Calls().nested(1)
    assert len(probe.said()) == 3
