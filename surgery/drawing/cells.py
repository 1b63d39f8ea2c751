"""Cells: the activation calls of a network, what becomes of each, and why. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

from surgery.look.site import NO_CALL, Site, Sites
from surgery.model import is_inside
from surgery.plan.plan import UNEDITABLE, Edit, Plan, is_within

State = Literal["call", "kept", "refused", "erased", "affine", "swapped", "dropped", "added"]

# What a drawing says of each state, behind the name of the function.
WORDS: dict[State, str] = {
    "call": "", "kept": "kept", "refused": "cannot be edited", "erased": "erased", "affine": "erased to an affine map",
    "swapped": "swapped for", "dropped": "dropped with the block", "added": "added",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cell:
    """One activation call: what becomes of it, the function afterwards ("" if none is left), and why.

    `fades` says that the change is gradual. In the state "call" nothing is asked for, in "added" none is called
    before.
    """

    site: Site
    state: State
    after: str
    why: str = ""
    fades: bool = False

    @property
    def before(self) -> str:
        """The function that is called before the edit, "" if none is."""
        return "" if self.state == "added" else self.site.activation

    @property
    def what(self) -> str:
        """What becomes of it, in words: "relu, swapped for pwlu"."""
        words = f"{WORDS[self.state]} {self.after}" if self.state == "swapped" else WORDS[self.state]
        parts = (self.before or self.after, words, "fading" if self.fades else "")
        return ", ".join(part for part in parts if part)


def cells_of_sites(sites: Sites) -> list[Cell]:
    """The calls of a network that is not edited; those that cannot be, with the reason."""
    return [_untouched(site) for site in sites]


def cells_of_plan(plan: Plan) -> list[Cell]:
    """The calls of a network and what a plan makes of them."""
    edits, reasons = {edit.site: edit for edit in plan.edits}, dict(plan.kept)
    drops = [edit for edit in plan.edits if edit.make == "dropped"]
    cells = []
    for site in plan.sites:
        drop = next((edit for edit in drops if is_within(site, str(edit.site))), None)
        if site in edits:
            cells.append(_edited(edits[site]))
        elif drop is not None:
            cells.append(Cell(site, "dropped", "", f"rule {drop.because}"))
        else:
            reason = reasons.get(site, "")
            state: State = "refused" if reason.startswith(UNEDITABLE) else "kept"
            cells.append(Cell(site, state, site.activation, reason.removeprefix(UNEDITABLE)))
    behind = [edit for edit in plan.edits if edit.site.activation == NO_CALL]
    return cells + [Cell(edit.site, "added", edit.make, f"rule {edit.because}") for edit in behind]


def cells_of_pair(before: Sites, after: Sites) -> list[Cell]:
    """The calls of two networks, those that correspond in one cell.

    Calls correspond if they are made in the same module, fed by the same of its weights, in the same order.
    """
    cells = []
    for old, new in _aligned(before, after):
        if old is None:
            assert new is not None
            cells.append(Cell(new, "added", new.activation, "only in the second network"))
        elif new is None:
            cells.append(Cell(old, "erased", "", "not in the second network"))
        elif (old.activation, old.options) == (new.activation, new.options):
            cells.append(Cell(old, "kept", new.activation))
        elif new.activation == "affine":
            cells.append(Cell(old, "affine", new.activation))
        else:
            cells.append(Cell(old, "swapped", new.activation))
    return cells


def _untouched(site: Site) -> Cell:
    return Cell(site, "refused" if site.locked else "call", site.activation, site.locked or "")


def _edited(edit: Edit) -> Cell:
    states: dict[str, State] = {"identity": "erased", "affine": "affine"}
    state = states.get(edit.make, "swapped")
    after = "" if state == "erased" and not edit.fade else edit.make
    return Cell(edit.site, state, after, f"rule {edit.because}", bool(edit.fade))


def _aligned(before: Sites, after: Sites) -> Iterator[tuple[Site | None, Site | None]]:
    """Pairs of corresponding calls, in order; None where one network does not have it."""
    old, new = (list(map(_place, sites)) for sites in (before, after))
    for what, start, end, begin, stop in SequenceMatcher(a=old, b=new, autojunk=False).get_opcodes():
        if what == "equal":
            yield from zip(before[start:end], after[begin:stop], strict=True)
        else:
            yield from ((site, None) for site in before[start:end])
            yield from ((None, site) for site in after[begin:stop])


def _place(site: Site) -> tuple[object, ...]:
    """Where a call is made, as far as edits elsewhere in the network leave it as it is."""
    own = tuple(name for name in site.weights if is_inside(name, site.owner)) if site.owner else site.weights
    return (site.owner, own, site.run)
