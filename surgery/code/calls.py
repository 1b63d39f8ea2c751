"""Calls: the call expressions in the source of a method, and which of them a running frame is at."""

from __future__ import annotations

import ast
import gc
import io
import itertools
import linecache
import opcode
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from inspect import CO_OPTIMIZED
from types import CodeType
from typing import Any

from surgery.errors import CannotEdit

End = tuple[int, int]  # line from 1 and UTF-8 column from 0, right after the closing parenthesis of a call

COMPREHENSIONS = ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>")
# Their calls run in other frames; and before 3.12 the parser has no positions for the parts of an f-string.
_ELSEWHERE = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef, ast.JoinedStr)
_LASTING = (ast.NamedExpr, ast.Lambda, ast.Await, ast.Yield, ast.YieldFrom)


@dataclass(frozen=True, slots=True)
class Call:
    """One call expression of a method, named as in the author's source.

    `method` is the attribute under which the class has the function. `callee` is the called expression: "self.relu",
    "F.relu", "self.acts[i]"; an attribute of anything but a dotted name is ".relu". The call is the `ordinal`-th
    (from 1) of that callee in the method, by the END of the call. `looped` calls can run several times in one run of
    the method. `locked` says why the call cannot be spliced. `expression_is_plain`: evaluating `callee` calls nothing.

    In a rewritten method all this still refers to the author's source; `child` is the new callee, and `counter` the
    local variable with the number of the current iteration, where iterations are counted.
    """

    method: str
    callee: str
    ordinal: int
    looped: bool
    locked: str | None
    expression_is_plain: bool = True
    child: str | None = None
    counter: str | None = None

    def __str__(self) -> str:
        return f"{self.callee} ({self.ordinal}) in {self.method}()"


@dataclass(frozen=True, slots=True)
class Place:
    """The position of a call in the file, as byte offsets; `given` is the text of its input."""

    call: Call
    start: int
    stop: int
    given: tuple[int, int] | None


@dataclass(frozen=True, slots=True, eq=False)
class Method:
    """One method as its author wrote it: its code, its file, its calls (outer before inner)."""

    code: CodeType
    name: str
    me: str  # the name of its first argument
    file: bytes
    tree: ast.FunctionDef
    body: int  # start of its first statement after the docstring
    places: tuple[Place, ...]
    ends: Mapping[End, Call]


_turn = threading.RLock()
_rewritten: dict[str, Mapping[End, Call]] = {}  # file name -> the calls in published rewritten sources


def call_at(code: CodeType, lasti: int) -> Call:
    """The call expression that a frame is at: `call_at(frame.f_code, frame.f_lasti)`.

    The frame runs a method of a class, or a comprehension inside one. The source is read and compared with the code.

    Raises:
        CannotEdit: the source is missing or not what runs, or the frame is not at a call in a method's own code.
    """
    published = _rewritten.get(code.co_filename)
    ends = read(code).ends if published is None else published
    end = _end(code, lasti)
    if end not in ends:
        raise CannotEdit(
            f"line {end[0]} of {code.co_filename} is not at an identifiable call.",
            asked="an operator, an f-string or a nested function",
        )
    return ends[end]


def assigned_name(code: CodeType, lasti: int) -> str | None:
    """The name in `name = callee(...)` if the frame is at that call, else None; graphs name their nodes this way.

    Raises:
        CannotEdit: as for `call_at`.
    """
    end = _end(code, lasti)
    for node in ast.walk(read(code).tree):
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Call):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if len(targets) == 1 and isinstance(targets[0], ast.Name) and _node_end(node.value) == end:
                return targets[0].id
    return None


def read(code: CodeType) -> Method:
    """The method that `code` belongs to, itself or as a comprehension in it, read from its file.

    Raises:
        CannotEdit: the source is missing or not what runs, or it is not a method.
    """
    return _read(code, code.co_filename)


def publish(filename: str, text: str, ends: Mapping[End, Call]) -> None:
    """Make rewritten source readable under this name for inspect, tracebacks and `call_at`; `ends` maps its calls."""
    # Without a modification time linecache.checkcache keeps the entry, as for a module read by its loader.
    linecache.cache[filename] = (len(text), None, io.StringIO(text).readlines(), filename)
    _rewritten[filename] = ends


def forget(filename: str) -> None:
    """Drop the source published under this name."""
    linecache.cache.pop(filename, None)
    _rewritten.pop(filename, None)


def compiled(text: str, filename: str, flags: int = 0) -> Any:
    """The code of a whole file, or its tree with ast.PyCF_ONLY_AST; none of it is run.

    Raises:
        CannotEdit: it does not compile.
    """
    try:
        # Warning filters belong to the process, so threads take turns. Warnings were already shown at import.
        with _turn, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return compile(text, filename, "exec", flags, dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        raise CannotEdit(f"{filename} does not compile: {error}.") from error


@lru_cache(maxsize=1024)
def _read(code: CodeType, filename: str) -> Method:
    """Like `read`. Equal code may be in different files, so the file name is part of the cache key."""
    linecache.checkcache(filename)
    text = "".join(linecache.getlines(filename))
    if not text:
        raise CannotEdit(
            f"{code.co_qualname}() has no source to read: {filename} does not exist.",
            try_="define the class in a file that stays where it is",
        )
    module, tree = _file(text, filename)
    path = _path(module, code)
    if path is None:
        raise CannotEdit(
            f"the source of {code.co_qualname}() is outdated: {filename} was changed after it was imported.",
            try_="start a new process",
        )
    *outer, owner = path
    while owner.co_name in COMPREHENSIONS:
        owner = outer.pop()
    parent = outer[-1] if outer else module
    if owner.co_name == "<lambda>" or parent.co_flags & CO_OPTIMIZED or not owner.co_flags & CO_OPTIMIZED:
        kind = "a lambda" if owner.co_name == "<lambda>" else "not a method but a nested function or a class body"
        raise CannotEdit(f"{owner.co_qualname}() is {kind}: only methods can be rewritten.")
    definitions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == owner.co_name)
    node = next((node for node in definitions if _first_line(node) == owner.co_firstlineno), None)
    if node is None or not owner.co_argcount:
        raise CannotEdit(f"{owner.co_qualname}() is not a plain method: it is asynchronous or has no first argument.")
    name = _mangled(owner.co_name, parent.co_name if parent is not module else "")
    return _method(owner, name, text.encode(), node)


@lru_cache(maxsize=8)
def _file(text: str, filename: str) -> tuple[CodeType, ast.Module]:
    collecting = gc.isenabled()
    gc.disable()  # repeated collections while the tree grows make parsing of a long file five times slower
    try:
        return compiled(text, filename), compiled(text, filename, ast.PyCF_ONLY_AST)
    finally:
        if collecting:
            gc.enable()


def _method(code: CodeType, name: str, file: bytes, node: ast.FunctionDef) -> Method:
    first = [*node.args.posonlyargs, *node.args.args][0].arg
    own = list(_own(node.body))
    rebound = any(isinstance(n, ast.Name) and n.id == first and not isinstance(n.ctx, ast.Load) for n in own)
    looped = {id(inner) for node in own for part in _repeated(node) for inner in ast.walk(part)}
    sources = {id(inner) for node in own if isinstance(node, ast.comprehension) for inner in ast.walk(node.iter)}
    uncountable = looped & sources  # Python does not allow `:=` in the iterable of a comprehension
    thrown = set(map(id, _discarded(own)))
    starts = [0, *itertools.accumulate(len(line) for line in file.splitlines(keepends=True))]
    places, ends, counts = [], dict[End, Call](), dict[str, int]()
    for call in sorted((n for n in own if isinstance(n, ast.Call)), key=_node_end):
        callee, given = _callee(call.func), _given(call)
        counts[callee] = counts.get(callee, 0) + 1
        reason = _reason(call, given, first, id(call) in thrown, id(call) in uncountable)
        locked = f"{name}() reassigns {first}" if rebound else reason
        plain = isinstance(call.func, ast.Name | ast.Attribute | ast.Subscript) and not _has(call.func, ast.Call)
        said = Call(name, callee, counts[callee], id(call) in looped, locked, plain and not callee.startswith("."))
        ends[_node_end(call)] = said
        places.append(Place(said, *_span(call, starts), _span(given, starts) if given is not None else None))
    body = node.body[1 if ast.get_docstring(node, clean=False) is not None and len(node.body) > 1 else 0]
    head = starts[_first_line(body) - 1] + body.col_offset
    places.sort(key=lambda place: (place.start, -place.stop))
    return Method(code, name, first, file, node, head, tuple(places), ends)


def _reason(call: ast.Call, given: ast.expr | None, me: str, thrown: bool, uncountable: bool) -> str | None:
    """Why this call cannot be rewritten; None if it can."""
    if thrown:
        return "its result is discarded: it works by overwriting its input"
    if any(isinstance(arg, ast.Starred) for arg in call.args) or any(word.arg is None for word in call.keywords):
        return "its arguments are unpacked with a star"
    if given is None and call.keywords:
        return "its input is passed by keyword"
    if _callee(call.func).endswith(".prelu") and len(call.args) == 1 and _root(call.func) != me:
        return "x.prelu(weight) and module.prelu(x) cannot be distinguished"
    if given is None or (not call.args and isinstance(given, ast.Name) and given.id == me):
        return "it is called without an input"
    dropped = [call.func if call.args else None, *call.args[1:], *(word.value for word in call.keywords)]
    if any(_has(part, *_LASTING) for part in dropped if part is not None):
        return "its callee or its options contain an assignment expression"
    if uncountable:
        return "it is in the iterable of a comprehension inside a loop, where iterations cannot be counted"
    return None


def _own(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """The nodes that run in the method's own frame or in its comprehensions."""
    for node in nodes:
        yield node
        if not isinstance(node, _ELSEWHERE):
            yield from _own(ast.iter_child_nodes(node))


def _repeated(node: ast.AST) -> Iterator[ast.AST]:
    """The parts of a loop that run in every iteration."""
    if isinstance(node, ast.For | ast.AsyncFor):
        yield from node.body
    elif isinstance(node, ast.While):
        yield from (node.test, *node.body)
    elif isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
        first = node.generators[0]  # its iterable is evaluated once, by the method itself
        yield from (part for part in ast.iter_child_nodes(node) if part is not first)
        yield from first.ifs


def _discarded(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """The expressions whose value is discarded."""
    todo: list[ast.AST] = [node.value for node in nodes if isinstance(node, ast.Expr)]
    while todo:
        match todo.pop():
            case ast.Tuple(elts=parts) | ast.List(elts=parts) | ast.Set(elts=parts):
                todo += parts
            case ast.ListComp(elt=part) | ast.SetComp(elt=part) | ast.GeneratorExp(elt=part):
                todo.append(part)
            case ast.IfExp(body=part, orelse=other):
                todo += [part, other]
            case ast.BoolOp(values=[*_, part]):
                todo.append(part)
            case other:
                yield other


def _callee(func: ast.expr) -> str:
    if isinstance(func, ast.Attribute) and _root(func) is None:
        return f".{func.attr}"
    return ast.unparse(func)


def _root(func: ast.expr) -> str | None:
    """The first part of a dotted name; None for any other expression."""
    while isinstance(func, ast.Attribute):
        func = func.value
    return func.id if isinstance(func, ast.Name) else None


def _given(call: ast.Call) -> ast.expr | None:
    """The input of a call: its first argument, or x in `x.relu()`."""
    if call.args:
        return call.args[0]
    return call.func.value if isinstance(call.func, ast.Attribute) and not call.keywords else None


def _has(node: ast.AST, *kinds: type[ast.AST]) -> bool:
    return any(isinstance(inner, kinds) for inner in ast.walk(node))


def _first_line(statement: ast.stmt) -> int:
    """The first line of a statement, including its decorators."""
    return int(min(node.lineno for node in (statement, *getattr(statement, "decorator_list", ()))))


def _mangled(name: str, owner: str) -> str:
    """The attribute that `def name` creates in the body of the class `owner`."""
    private = name.startswith("__") and not name.endswith("__") and owner.strip("_")
    return f"_{owner.lstrip('_')}{name}" if private else name


def _node_end(node: ast.expr) -> End:
    assert node.end_lineno is not None and node.end_col_offset is not None
    return node.end_lineno, node.end_col_offset


def _span(node: ast.expr, starts: list[int]) -> tuple[int, int]:
    line, column = _node_end(node)
    return starts[node.lineno - 1] + node.col_offset, starts[line - 1] + column


def _end(code: CodeType, lasti: int) -> End:
    """The end of the call a frame is at. Only ends agree with the syntax tree: chained calls start elsewhere."""
    unit, cache = lasti // 2, opcode.opmap.get("CACHE", 0)
    while unit and code.co_code[2 * unit] == cache:
        unit -= 1
    if not opcode.opname[code.co_code[2 * unit]].startswith(("CALL", "PRECALL")):
        raise CannotEdit(f"{code.co_qualname}() is not at a call but at an operator or an attribute.")
    _, line, _, column = next(itertools.islice(code.co_positions(), unit, None))
    if line is None or column is None:
        raise CannotEdit(
            f"{code.co_qualname}() was compiled without columns, so its calls cannot be identified.",
            try_="run Python without -X no_debug_ranges (and unset PYTHONNODEBUGRANGES)",
        )
    return line, column


def _path(root: CodeType, code: CodeType) -> list[CodeType] | None:
    """The code objects below `root`, down to the one that equals `code` in instructions, names and lines."""
    for value in root.co_consts:
        if isinstance(value, CodeType):
            below = [] if value == code else _path(value, code)
            if below is not None:
                return [value, *below]
    return None
