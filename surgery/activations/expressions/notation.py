"""Notation: expressions as text. `parse` reads what `str` prints, and evaluates nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator

from surgery.activations.expressions.expression import Expression
from surgery.activations.expressions.operators import INPUT
from surgery.errors import BadValue

_TOKEN = re.compile(r"\s*(?:([A-Za-z_]\w*)|([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)|([(),]))")
_LONGEST = 1000  # characters; a function of two cores has about a hundred
_END = ("", "", "")
_Token = tuple[str, str, str]  # a name, a number, or a mark


def parse(text: str) -> Expression:
    """Parse an expression such as "mul(x, sigmoid(x))" or "mix(x, relu(x), 0.3)", whose last number is its beta.

    Raises:
        UnknownName: an operator that does not exist.
        BadValue: it is not an expression, is too long, or an operator has the wrong number of arguments.
    """
    if len(text) > _LONGEST:
        raise BadValue("An expression is too long.", asked=f"{len(text)} characters", try_=f"at most {_LONGEST}")
    tokens = _Tokens(text)
    found = _expression(tokens)
    tokens.take("")
    return found


class _Tokens:
    """The tokens of a text, one of them in sight."""

    def __init__(self, text: str) -> None:
        self._text, self._rest = text, _tokens(text)
        self.next = next(self._rest, _END)

    def advance(self) -> _Token:
        """Take the next token."""
        taken, self.next = self.next, next(self._rest, _END)
        return taken

    def take(self, mark: str) -> None:
        """Take this mark, or the end of the text."""
        if (*self.next[:2], self.next[2]) != ("", "", mark):
            raise self.wrong(repr(mark) if mark else "the end")
        self.advance()

    def wrong(self, expected: str) -> BadValue:
        """The error for a token that is not what is expected here."""
        found = "".join(self.next) or "the end"
        return BadValue(f"Not an expression: {expected} is expected, not {found!r}.", asked=self._text,
                        try_="mul(x, sigmoid(x))")  # fmt: skip


def _tokens(text: str) -> Iterator[_Token]:
    place, end = 0, len(text.rstrip())
    while place < end:
        match = _TOKEN.match(text, place)
        if match is None:
            raise BadValue(f"Not an expression: {text[place:].strip()[0]!r} means nothing in it.", asked=text,
                           try_="mul(x, sigmoid(x))")  # fmt: skip
        place = match.end()
        yield match[1] or "", match[2] or "", match[3] or ""


def _expression(tokens: _Tokens) -> Expression:
    if not tokens.next[0]:
        raise tokens.wrong("an operator or x")
    name = tokens.advance()[0]
    if tokens.next[2] != "(" or name == INPUT:
        return Expression(name)
    tokens.take("(")
    args, beta = list[Expression](), None
    while True:
        if tokens.next[1]:
            beta = float(tokens.advance()[1])
            break
        args.append(_expression(tokens))
        if tokens.next[2] != ",":
            break
        tokens.take(",")
    tokens.take(")")
    return Expression(name, tuple(args), beta)
