"""Splicing: the source of a method in which chosen calls go to children, as text and as code."""

from __future__ import annotations

import linecache
from collections.abc import Mapping
from types import CodeType
from typing import Any

import pytest
from torch.nn import functional as F

from surgery.code.calls import forget, read
from surgery.code.splice import codes_in, splice
from surgery.errors import CannotEdit
from tests.asserts import assert_raises


class Owner:
    """Calls that are replaced; `F` is not run."""

    def plain(self, x: Any) -> Any:
        return F.relu(x, inplace=True)

    def chained(self, x: Any) -> Any:
        return (x + 1).relu().relu()

    def looped(self, x: Any) -> Any:
        for _ in range(3):
            x = F.relu(x)
        return x


class Children:
    """Each child notes its name."""

    def __getattr__(self, name: str) -> Any:
        return lambda x: f"{name}({x})"


Asked = Mapping[tuple[str, int], Mapping[int, str]]


def spliced(name: str, children: Asked) -> tuple[CodeType, str]:
    """The new code of a method, and the line of its `return` or assignment that calls a child."""
    code = splice(read(getattr(Owner, name).__code__), children, "<spliced>")
    lines = linecache.getlines("<spliced>")
    forget("<spliced>")
    first = code.co_firstlineno
    return code, next(line.strip() for line in lines[first:] if "self." in line)


def run(code: CodeType, x: Any) -> Any:
    function = type(run)(code, {"F": F, "range": range})
    return function(Children(), x)


def test_a_call_goes_to_a_child_with_its_input_alone() -> None:
    code, line = spliced("plain", {("F.relu", 1): {0: "act"}})
    assert line == "return self.act(x)"
    assert run(code, "x") == "act(x)"


def test_links_of_a_chain_are_told_apart() -> None:
    relus = [place.call.callee for place in read(Owner.chained.__code__).places]
    code, line = spliced("chained", {(relus[-1], 1): {0: "act"}, (relus[-1], 2): {0: "last"}})
    assert line == "return self.last(self.act(x + 1))"
    assert run(code, 1) == "last(act(2))"


def test_iterations_of_a_loop_have_children_of_their_own() -> None:
    code, _ = spliced("looped", {("F.relu", 1): {0: "rest", 2: "second"}})
    assert run(code, "x") == "rest(second(rest(x)))"


@pytest.mark.parametrize(
    ("name", "children", "words"),
    [
        ("plain", {("F.gelu", 1): {0: "act"}}, ("does not call F.gelu (1)", "F.relu (1)")),
        ("plain", {("F.relu", 2): {0: "act"}}, ("does not call F.relu (2)",)),
        ("plain", {("F.relu", 1): {2: "act"}}, ("not in a loop", "iteration 0")),
        ("plain", {("F.relu", 1): {0: "not a name"}}, ("not a valid name",)),
        ("plain", {("F.relu", 1): {0: "__hidden"}}, ("not a valid name",)),
    ],
)
def test_what_cannot_be_spliced_is_refused(name: str, children: Asked, words: tuple[str, ...]) -> None:
    assert_raises(CannotEdit, lambda: spliced(name, children), *words)


def test_codes_of_functions_inside_are_found() -> None:
    def outer() -> Any:
        def inner() -> Any:
            return lambda: 1

        return inner

    assert [code.co_name for code in codes_in(outer.__code__)] == ["outer", "inner", "<lambda>"]
