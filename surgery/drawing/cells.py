"""Cells: the activation calls of a network, what becomes of each, and why. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from surgery.drawing.alignment import aligned
from surgery.look.site import NO_CALL, Site, Sites
from surgery.plan.plan import UNEDITABLE, Edit, Plan, is_within

State = Literal["call", "kept", "refused", "erased", "affine", "swapped", "dropped", "added"]

# What becomes of a block as a whole.
DROPPED, PADDING_MOVED, MERGED = "dropped", "padding moved", "merged into one layer"

# What the states are called, in the order of the legend; network.css has their colours and signs.
WORDS: dict[State, str] = {
    "call": "activation call", "kept": "kept", "erased": "erased", "affine": "erased to an affine map",
    "swapped": "swapped", "dropped": "dropped with the block", "added": "added", "refused": "cannot be edited",
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
        words = [] if self.state == "call" else [WORDS[self.state]]
        words = [f"{WORDS[self.state]} for {self.after}"] if self.state == "swapped" else words
        return ", ".join([self.before or self.after, *words, *(["fading"] if self.fades else [])])


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


def cells_of_pair(before: Sites, after: Sites, notes: Mapping[str, str] = MappingProxyType({})) -> list[Cell]:
    """The calls of two networks, those that correspond in one cell; `notes` say what became of blocks, by path."""
    dropped, merged = ([path for path, note in notes.items() if note == known] for known in (DROPPED, MERGED))
    cells = []
    for old, new in aligned(before, after, merged):
        if old is None:
            assert new is not None
            cells.append(Cell(new, "added", new.activation, "not called before"))
        elif new is None:
            gone: State = "dropped" if any(is_within(old, block) for block in dropped) else "erased"
            cells.append(Cell(old, gone, "", "not called afterwards"))
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
