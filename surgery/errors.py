"""The errors of the library: one family, each says what was asked, what is there, what to try."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from surgery.look.site import Site


class SurgeryError(Exception):
    """Any refusal of this library. A call that raises it has changed nothing.

    The message is one sentence, followed by up to three short lines:
    what was `asked` for, what is `there`, and what to `try_` instead. `sites` are the activation calls that cannot be
    edited, none where the refusal is of something else.
    """

    sites: tuple[Site, ...] = ()

    def __init__(self, problem: str, *, asked: str = "", there: str = "", try_: str = "") -> None:
        facts = [("asked for", asked), ("there is", there), ("try", try_)]
        super().__init__("\n".join([problem] + [f"  {label:<10} {text}" for label, text in facts if text]))


class BadValue(SurgeryError, ValueError):
    """An argument outside its range."""


class UnknownName(SurgeryError, LookupError):
    """A name or a path that does not exist here."""


class NothingPicked(SurgeryError):
    """A rule that picks no site."""


class CountChanged(SurgeryError):
    """A rule that picks another number of sites than it expects."""


class RuleConflict(SurgeryError):
    """Two rules that want the same site."""


class CannotLook(SurgeryError):
    """A model whose calls cannot be observed: it does not run, or it hides them."""


class CannotEdit(SurgeryError):
    """A site that cannot be edited without touching something else."""


class NotProved(SurgeryError):
    """An edit that did not do exactly what it should; it was taken back."""


class NotEdited(SurgeryError):
    """A model that carries no edit of this library."""


class WrongModel(SurgeryError):
    """A saved edit offered to a model it was not made for."""


class BadFile(SurgeryError):
    """A saved folder or a recipe file that is incomplete, altered or not ours."""


@contextmanager
def about(sites: Iterable[Site]) -> Iterator[None]:
    """A refusal raised inside is of these sites, unless it says itself which ones cannot be edited."""
    try:
        yield
    except SurgeryError as refusal:
        refusal.sites = refusal.sites or tuple(sites)
        raise


def nearest(name: str, names: Iterable[str], count: int = 3) -> str:
    """The names most like `name`, best first, joined for a message ("" if none is close)."""
    return ", ".join(get_close_matches(name, sorted(set(names)), n=count, cutoff=0.5))


def cause_of(error: BaseException) -> str:
    """Somebody else's error in one line, for a message: its kind and the first line of what it says."""
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
