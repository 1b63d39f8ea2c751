"""The errors of the library: one family; each says what it got, what is available, and gives a hint."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from surgery.look.site import Site

_LONGEST = 300  # characters of a cause
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class SurgeryError(Exception):
    """Any error of this library. A call that raises it has changed nothing.

    The message is one sentence, followed by up to three short lines: "got" what was passed or found (`asked`), what is
    "available" or expected instead (`there`), and a "hint" (`try_`). `sites` are the activation calls that cannot be
    edited; empty if the error is about something else.
    """

    sites: tuple[Site, ...] = ()

    def __init__(self, problem: str, *, asked: str = "", there: str = "", try_: str = "") -> None:
        facts = [("got:", asked), ("available:", there), ("hint:", try_)]
        super().__init__("\n".join([problem] + [f"  {label:<10} {text}" for label, text in facts if text]))


class BadValue(SurgeryError, ValueError):
    """An argument outside its range."""


class UnknownName(SurgeryError, LookupError):
    """A name or a path that does not exist."""


class NothingPicked(SurgeryError):
    """A rule that matches no site."""


class CountChanged(SurgeryError):
    """A rule that matches a different number of sites than it expects."""


class RuleConflict(SurgeryError):
    """Two rules that match the same site."""


class CannotLook(SurgeryError):
    """A model whose calls cannot be observed: it does not run, or it hides its calls."""


class CannotEdit(SurgeryError):
    """A site that cannot be edited without touching something else."""


class NotProved(SurgeryError):
    """An edit that failed its proof: it changed something else, or not what it should. It was reverted."""


class NotEdited(SurgeryError):
    """A model that was not edited by this library."""


class WrongModel(SurgeryError):
    """A saved edit applied to a model it was not made for."""


class BadFile(SurgeryError):
    """A saved folder or a recipe file that is incomplete, damaged, or in an unknown format."""


class NoExample(CannotLook):
    """No example was given for a model, and none can be derived from it."""


class NotInstalled(SurgeryError):
    """A deployment target whose runtime is not installed."""


class NotConvertible(SurgeryError):
    """A network that a deployment target cannot convert.

    `sites` are the activation calls that it has no operators for; empty if the reason is something else in the network.
    """


class DynamicShapes(SurgeryError):
    """A network that cannot be exported because its shapes or its branches depend on the values of its input."""


class NotEqual(SurgeryError):
    """An exported network whose outputs on its target are not those of torch."""


@contextmanager
def about(sites: Iterable[Site]) -> Iterator[None]:
    """Errors raised inside are about these sites, unless they name their own."""
    try:
        yield
    except SurgeryError as error:
        error.sites = error.sites or tuple(sites)
        raise


def nearest(name: str, names: Iterable[str], count: int = 3) -> str:
    """The names closest to `name`, best first, joined for a message ("" if none is close)."""
    return ", ".join(get_close_matches(name, sorted(set(names)), n=count, cutoff=0.5))


def one_line(error: SurgeryError) -> str:
    """An error of this library in one line, without a full stop and without what was given: the caller shows that."""
    sentence, *facts = str(error).splitlines()
    rest = [" ".join(fact.split()) for fact in facts if not fact.startswith("  got:")]
    return "; ".join([sentence.rstrip("."), *rest])


def first_line(error: BaseException) -> str:
    """The sentence of an error of this library, or the cause, if it is of another one."""
    return str(error).splitlines()[0] if isinstance(error, SurgeryError) else cause_of(error)


def in_full(error: BaseException) -> str:
    """Any error in one line with all that it says; of another library's, what caused it."""
    if not isinstance(error, SurgeryError):
        return root_cause_of(error)
    sentence, *facts = str(error).splitlines()
    return ": ".join([sentence.rstrip(".") if facts else sentence, *(fact.split(maxsplit=1)[1] for fact in facts)])


def cause_of(error: BaseException) -> str:
    """An error of another library in one line: its type and the first line of its message."""
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"


def root_cause_of(error: BaseException) -> str:
    """The error that caused the others in one line: its type and the first paragraph of its message, not too long."""
    while error.__cause__ is not None:
        error = error.__cause__
    paragraph = _COLOURS.sub("", str(error)).strip().partition("\n\n")[0]
    text = " ".join(paragraph.split()) or "no message"
    return f"{type(error).__name__}: {text if len(text) <= _LONGEST else text[:_LONGEST] + ' ...'}"
