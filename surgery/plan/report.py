"""Report: what an edit did, found by looking at the edited model again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from surgery.activations import row_of
from surgery.errors import NotProved, about
from surgery.look.layout import Layout, same_code, widths_in_words
from surgery.look.site import BLOCK, NO_CALL, Site, Sites
from surgery.plan.plan import EDIT_COLUMNS, Plan, blocks_in_words, gone_with, kept_lines, left_out_line
from surgery.text import drawn_by, html_table, number_of, table


@dataclass(frozen=True, eq=False, repr=False)
class Report:
    """The plan, the sites before, and the sites found after by looking again. Prints what changed and what did not.

    `added` are the names of new parameters, which must be added to the optimiser; `removed` those of the replaced
    modules. A parameter that keeps its name is in both. `far` is, per site, the initial maximum error of the new
    function against the replaced one, on the inputs that were recorded; 0 if it is within rounding. `idle` are
    parameters that stay but get no gradient: all calls were replaced, but the code still reads their module.
    """

    plan: Plan
    before: Sites
    after: Sites
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    far: Mapping[Site, float] = field(default_factory=dict)
    idle: tuple[str, ...] = ()

    def to_json(self) -> str:
        """What was done, what was kept and why, and the names of new parameters, as one JSON object."""
        reasons = Counter(reason for _, reason in self.plan.kept)
        edits = [
            {
                "site": str(edit.site), "block": edit.site.block, "was": edit.site.activation, "is": edit.make,
                "params": dict(edit.params), "fade": edit.fade,
            }
            for edit in self.plan.edits
        ]  # fmt: skip
        facts = {
            "model": self.before.model_kind,
            "rules": [str(rule) for rule in self.plan.rules],
            "calls_before": len(self.before),
            "calls_after": len(self.after),
            "edits": edits,
            "kept": [{"reason": reason, "calls": count} for reason, count in reasons.most_common()],
            "new_parameters": list(self.added),
        }
        return json.dumps(facts, indent=1)

    def __repr__(self) -> str:
        return f"<Report: {', '.join(self._done())}>"

    def __str__(self) -> str:
        rows = table(EDIT_COLUMNS, [edit.row for edit in self.plan.edits]) if self.plan.edits else []
        return "\n".join([*self._done(), *(f"  {line}" for line in (*rows, *self._remarks()))])

    def _repr_html_(self) -> str:
        rows = [edit.row for edit in self.plan.edits]
        return html_table(EDIT_COLUMNS, rows, above=self._done(), below=[*self._remarks(), drawn_by("report")])

    def _done(self) -> list[str]:
        """What was done to how many calls, one line for each kind of edit."""
        calls = [edit for edit in self.plan.edits if edit.site.activation != BLOCK]
        kinds = Counter((edit.site.activation, edit.make, edit.fade) for edit in calls)
        counts = Counter(site.activation for site in self.before)
        lines = []
        for (old, new, fade), count in kinds.items():
            if old == NO_CALL:
                lines.append(f"{new} added behind the classifier")
                continue
            stand_in = {"identity": "erased", "affine": "erased, with an affine stand-in"}
            done = stand_in.get(new, f"replaced by {new}")
            lines.append(f"{count} of {counts[old]} {old} calls {'being ' if fade else ''}{done}")
            lines[-1] += " as progress goes to 1" if fade else ""
        lines += blocks_in_words(self.plan.edits)
        *first, last = lines or ["no edits"]
        kept = len(self.plan.kept)
        return [*first, f"{last}; {kept} call{'s' if kept != 1 else ''} kept"]

    def _remarks(self) -> list[str]:
        """What was kept, how new functions are initialised, and which parameters came and went, a line each."""
        named = (("new parameter", self.added), ("removed parameter", self.removed), ("unused parameter", self.idle))
        changed = [number_of(what, names) for what, names in named if names] or ["parameters unchanged"]
        notes = [*self._beginnings(), *self._without_norm(), *self._shared(), *changed]
        return [*kept_lines(self.plan.kept), *notes, *left_out_line(self.plan.left_out)]

    def _without_norm(self) -> list[str]:
        """How many affine stand-ins start as the identity, because no norm in front gives their input statistics."""
        lines = [edit for edit in self.plan.edits if edit.make == "affine"]
        unknown = [edit for edit in lines if edit.site.norm is None]
        if not unknown:
            return []
        which = f"{len(unknown)} of {len(lines)} affine stand-ins"
        return [f"{which} have no norm in front: they start as the identity, see fit_affine"]

    def _shared(self) -> list[str]:
        """Which functions share parameters across channels, because they are or may be called at several widths."""
        alike = {edit.site.path: (edit, same_code(edit.site, self.plan.sites)) for edit in self.plan.edits}
        return [
            f"{path} is called at {widths_in_words(calls)}: its {edit.make} shares its parameters across channels"
            for path, (edit, calls) in alike.items()
            if edit.site.is_call and row_of(edit.make).learns and Layout.of(calls).channels is None
        ]

    def _beginnings(self) -> list[str]:
        """How the new functions are initialised, one line for each pair of old and new."""
        pairs: dict[tuple[str, str], list[tuple[float, Site]]] = {}
        for edit in self.plan.edits:
            if edit.site in self.far:
                pairs.setdefault((edit.site.activation, edit.make), []).append((self.far[edit.site], edit.site))
        lines = []
        put_in = [edit for edit in self.plan.edits if not edit.erases and edit.make != "identity"]
        unknown = Counter(edit.make for edit in put_in if edit.site not in self.far and edit.site.is_call)
        for (old, new), found in pairs.items():
            most, site = max(found, key=lambda pair: pair[0])
            error = f"maximum error {most:.2g} ({site})" if most else "exact"
            lines.append(f"{new} initialised to match {old}: {error}")
        return lines + [
            f"{count} {new} with default initial values: the inputs are not known" for new, count in unknown.items()
        ]


def check_outcome(plan: Plan, after: Sites) -> None:
    """Check that the calls found after an edit are, in order of execution, those before with the edits applied.

    Raises:
        NotProved: something else changed, or an edit had no effect.
    """
    edits, gone = {edit.site: edit for edit in plan.edits}, gone_with(plan)
    for mode in ("eval", "train"):
        wanted = []
        for site in plan.sites:
            edit = edits.get(site)
            if mode in site.modes and site not in gone and not (edit and edit.erases):
                made = ("fade" if edit.fade else edit.make) if edit else site.activation
                wanted.append((site.owner, made))
        wanted += [(edit.site.owner, edit.make) for edit in plan.edits if edit.site.activation == NO_CALL]
        found = [(site.owner, site.activation) for site in after if mode in site.modes]
        if wanted != found:
            same = min(len(wanted), len(found))
            first = next((k for k in range(same) if wanted[k] != found[k]), same)
            owners = {owner for owner, _ in (*wanted[first : first + 1], *found[first : first + 1])}
            with about(edit.site for edit in plan.edits if edit.site.owner in owners):
                raise NotProved(
                    f"After the edit, the activation calls in {mode} mode are not those of the plan; "
                    "everything was undone.",
                    asked=f"{len(found)} calls, number {first + 1} {found[first] if first < len(found) else 'none'}",
                    there=f"{len(wanted)} calls, number {first + 1} {wanted[first] if first < len(wanted) else 'none'}",
                    try_="make the plan on the current sites of this model",
                )  # fmt: skip
