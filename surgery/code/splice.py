"""Splice: replace the callee of chosen calls in the source of a method, in chosen iterations of a loop."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import replace
from types import CodeType

from surgery.code.calls import Call, End, Method, Place, compiled, publish
from surgery.errors import CannotEdit


def splice(
    method: Method,
    children: Mapping[tuple[str, int], Mapping[int, str]],
    filename: str,
    behind: Container[tuple[str, int]] = (),
) -> CodeType:
    """The code of `method` with other callees: `children` maps callee, ordinal and iteration to the child to call.

    Iteration 0 means every iteration that is not named. Only the input of the call is kept: `F.relu(x, inplace=True)`
    and `x.relu()` become `self.child(x)`; a call that stays, with the child `behind` it, becomes
    `self.child(F.linear(x, w))`. The whole file is compiled, so private names, free variables, future
    statements and the first line come out right; none of it is run. The new source can be read under `filename`.

    Raises:
        CannotEdit: a call does not exist, is locked, or lies inside code that another edit removes.
    """
    loom = _SourceWriter(method, children, behind)
    text, ends = loom.woven()
    lost = sorted(set(children) - loom.used)
    if lost:
        found = ", ".join(f"{place.call.callee} ({place.call.ordinal})" for place in method.places)
        raise CannotEdit(
            f"{method.name}() does not call {lost[0][0]} ({lost[0][1]}), or only in code that another edit removes.",
            there=found or "no calls",
        )
    for code in codes_in(compiled(text, filename)):
        if (code.co_qualname, code.co_firstlineno) == (method.code.co_qualname, method.code.co_firstlineno):
            publish(filename, text, ends)
            return code
    raise CannotEdit(f"{method.name}() was not found again in its rewritten file.")


def codes_in(code: CodeType) -> Iterator[CodeType]:
    """A code object and those of all functions and classes defined inside it."""
    yield code
    for value in code.co_consts:
        if isinstance(value, CodeType):
            yield from codes_in(value)


class _SourceWriter:
    """Writes the source of a file in which one method calls other children, and records where each call ends."""

    def __init__(
        self,
        method: Method,
        children: Mapping[tuple[str, int], Mapping[int, str]],
        behind: Container[tuple[str, int]],
    ) -> None:
        self.method = method
        self.children = children
        self.behind = behind
        self.used: set[tuple[str, int]] = set()
        self.counters: dict[tuple[str, int], str] = {}
        self.stem = "_pass"
        while self.stem.encode() in method.file:
            self.stem += "_"

    def woven(self) -> tuple[str, dict[End, Call]]:
        """The new source, and where its calls now end."""
        file, body = self.method.file, self.method.body
        pieces = list(self._between(body, len(file)))
        begun = file.rfind(b"\n", 0, body) + 1
        # A body on the same line as `def ...:` or as its docstring has no indentation.
        alone = not file[begun:body].strip()
        gap = b"\n" + file[begun:body] if alone else b"; "
        zeros = b"".join(name.encode() + b" = 0" + gap for name in self.counters.values())
        text, ends, line, column = bytearray(), dict[End, Call](), 1, 0
        for piece in (file[:body], zeros, *pieces):
            if isinstance(piece, Call):
                ends[line, column] = piece
                continue
            text += piece
            line += piece.count(b"\n")
            column = len(piece) - piece.rfind(b"\n") - 1 if b"\n" in piece else column + len(piece)
        return text.decode(), ends

    def _between(self, start: int, stop: int, outside: Place | None = None) -> Iterator[bytes | Call]:
        """The source from `start` to `stop`, with the calls in it (except `outside`) rewritten."""
        for place in self.method.places:
            if start <= place.start and place.stop <= stop and place is not outside:
                yield self.method.file[start : place.start]
                yield from self._call(place)
                start = place.stop
        yield self.method.file[start:stop]

    def _call(self, place: Place) -> Iterator[bytes | Call]:
        key = (place.call.callee, place.call.ordinal)
        by_pass = dict(self.children.get(key, {}))
        if not by_pass:
            yield from self._as_is(place, place.call)
            return
        self._check(place, by_pass)
        self.used.add(key)
        if self.method.file[place.start - 1 : place.start].isalnum():
            yield b" "  # return(x + y).relu()
        every, said = by_pass.pop(0, None), place.call
        if by_pass:
            # A conditional over whole calls, not callees: each has its own arguments, and only one is evaluated.
            counter = self.counters.setdefault(key, f"{self.stem}{len(self.counters) + 1}")
            now, said = f"({counter} := {counter} + 1)", replace(said, counter=counter)
            yield b"("
            for number, child in sorted(by_pass.items()):
                yield from self._to_child(place, child, said)
                yield f" if {now} == {number} else ".encode()
                now = counter
        yield from self._as_is(place, said) if every is None else self._to_child(place, every, said)
        if by_pass:
            yield b")"

    def _as_is(self, place: Place, said: Call) -> Iterator[bytes | Call]:
        yield from self._between(place.start, place.stop, outside=place)
        yield said

    def _to_child(self, place: Place, child: str, said: Call) -> Iterator[bytes | Call]:
        yield f"{self.method.me}.{child}(".encode()
        if (place.call.callee, place.call.ordinal) in self.behind:
            yield from self._as_is(place, place.call)
        else:
            assert place.given is not None
            yield from self._between(*place.given)
        yield b")"
        yield replace(said, child=child)

    def _check(self, place: Place, by_pass: Mapping[int, str]) -> None:
        call = place.call
        if call.locked is not None and (call.callee, call.ordinal) not in self.behind:
            raise CannotEdit(f"{call} cannot be edited: {call.locked}.")
        if any(by_pass) and not call.looped:
            raise CannotEdit(
                f"{call} is not in a loop: it does not have an iteration {max(by_pass)}.", try_="iteration 0"
            )
        for child in by_pass.values():
            if not child.isidentifier() or child.startswith("__"):
                raise CannotEdit(f"{child!r} is not a valid name for a child of {self.method.me}.")
