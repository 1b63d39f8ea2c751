"""Plan: the edits that rules make, and every site left alone with the reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from surgery.activations import row_of
from surgery.errors import BadValue, CountChanged, NothingPicked, RuleConflict, nearest
from surgery.look.site import BLOCK, Site, Sites
from surgery.model import is_inside
from surgery.plan.pick import pick
from surgery.plan.rules import Fading, Options, Rule, Start
from surgery.text import counted, html_table, table


class HasRules(Protocol):
    """A recipe, or anything else that carries rules."""

    @property
    def rules(self) -> tuple[Rule, ...]: ...


Rules = Rule | Sequence[Rule] | HasRules

EDIT_COLUMNS = ("site", "block", "before", "", "after")
UNEDITABLE = "cannot be edited: "  # what the reason begins with for which a site is kept though a rule picks it


@dataclass(frozen=True, slots=True, repr=False)
class Edit:
    """Replace the activation called at `site` by `make`, because of rule number `because`.

    Where `site` is a block as a whole, `make` is "dropped" or "moved_padding".
    `per_channel` is for models of earlier versions: parameters per channel though their number varies with the input.
    """

    site: Site
    make: str
    params: Options = ()
    fade: Fading = False
    because: int = 1
    start: Start = "same"
    per_channel: bool = False

    @property
    def same(self) -> tuple[str, Options, Fading, str, bool]:
        """What replaces the activation; edits that agree on it may share one module."""
        return (self.make, self.params, self.fade, self.start, self.per_channel)

    @property
    def erases(self) -> bool:
        """True if no activation is left there."""
        return self.site.is_call and row_of(self.make).role == "linear" and not self.fade

    def __repr__(self) -> str:
        return f"<Edit {self}>"

    def __str__(self) -> str:
        return " ".join([f"{self.site}:", *self.row[2:]])

    @property
    def row(self) -> tuple[str, ...]:
        """Where it is and what it does, as cells of a table with the columns of `EDIT_COLUMNS`."""
        before = self.site.activation if self.site.is_call else self.site.block_kind or "-"
        after = f"{self.make} (fading)" if self.fade else self.make
        return str(self.site), self.site.block or "-", before, "->", after


@dataclass(frozen=True, eq=False, repr=False)
class Plan:
    """What will be edited and what will be left alone, on the current sites. Prints as a list.

    `left_out` names the parts of a recipe other than surgery, which a plan does not do. With `skip_uneditable`,
    `apply_plan` leaves alone what it cannot edit; the report holds the plan that was applied.
    """

    sites: Sites
    rules: tuple[Rule, ...]
    edits: tuple[Edit, ...]
    kept: tuple[tuple[Site, str], ...]
    left_out: tuple[str, ...] = ()
    skip_uneditable: bool = False

    def __repr__(self) -> str:
        return f"<Plan: {self._head()}>"

    def __str__(self) -> str:
        rows = table(EDIT_COLUMNS, [edit.row for edit in self.edits]) if self.edits else []
        return "\n".join([self._head(), *(f"  {line}" for line in (*rows, *self._remarks()))])

    def _repr_html_(self) -> str:
        return html_table(EDIT_COLUMNS, [edit.row for edit in self.edits], above=[self._head()], below=self._remarks())

    def _head(self) -> str:
        calls = sum(edit.site.is_call for edit in self.edits)
        head = f"{calls} of {len(self.sites)} activation calls of {self.sites.model_kind} will be edited"
        return ", ".join([head, *blocks_in_words(self.edits)])

    def _remarks(self) -> list[str]:
        return kept_lines(self.kept) + left_out_line(self.left_out)


def kept_lines(kept: Iterable[tuple[Site, str]]) -> list[str]:
    """A line for every reason for which sites are kept, with their number."""
    return [f"kept: {reason}" for reason in counted(reason for _, reason in kept)]


def blocks_in_words(edits: Iterable[Edit]) -> list[str]:
    """What happens to blocks as a whole: how many are dropped, and in how many the padding is moved."""
    makes = Counter(edit.make for edit in edits if edit.site.activation == BLOCK)
    done = {"dropped": "dropped", "moved_padding": "with their padding moved"}
    return [f"{count} block{'s' if count != 1 else ''} {done[make]}" for make, count in makes.items()]


def left_out_line(parts: tuple[str, ...]) -> list[str]:
    """One line that names the parts of a recipe that surgery does not do; empty if it does them all."""
    return [f"left out: {', '.join(parts)} (surgery run does {'it' if len(parts) == 1 else 'them'})"] if parts else []


def make_plan(sites: Sites, rules: Rules, *, skip_uneditable: bool = False) -> Plan:
    """Decide, site by site, what rules change; the model is not needed.

    `rules` is one rule, several, or a recipe. All positions are counted on `sites`, whatever earlier rules do.

    With `skip_uneditable`, or a recipe that sets it, calls that cannot be edited are left alone instead of raising,
    each with its reason in `kept`: those known to be locked here, all others in `apply_plan`.
    Fractions, positions and `expect` still count everything the rules pick.

    Raises:
        NothingPicked: a rule picks no site, and neither is optional nor expects 0; or all it picks is uneditable.
        CountChanged: a rule picks a different number of sites than it expects.
        RuleConflict: two rules pick the same site, and the second is not `remaining=True`.
    """
    listed = as_rules(rules)
    skip_uneditable = skip_uneditable or bool(getattr(rules, "skip_uneditable", False))
    taken: dict[Site, Edit] = {}
    why: dict[Site, str] = {}
    for number, rule in enumerate(listed, 1):
        picked, reasons = pick(rule, sites)
        if rule.remaining:
            picked = [site for site in picked if site not in taken]
        _check_count(rule, number, picked, reasons, sites)
        for site in picked:
            if site in taken:
                raise RuleConflict(
                    f"Two rules pick {site}.",
                    asked=f"rule {taken[site].because}: {listed[taken[site].because - 1]}; rule {number}: {rule}",
                    try_="remaining=True on the later rule, to pick only what is left",
                )
            taken[site] = Edit(site, rule.make, rule.params, rule.fade, number, rule.start)
        why = {site: reason for site, reason in (reasons | why).items()}
    _check_dropped(list(taken.values()), listed)
    blocks = [site for site in sites.blocks if site in why]
    kept = tuple((site, why.get(site, "not asked for")) for site in (*sites, *blocks) if site not in taken)
    edits = tuple(taken[site] for site in sites.places if site in taken)
    plan = Plan(sites, listed, edits, kept, _left_out(rules), skip_uneditable)
    gone = gone_with(plan)
    plan = replace(plan, kept=tuple((site, reason) for site, reason in kept if site not in gone))
    for site in (edit.site for edit in edits if skip_uneditable):
        # A module may be replaced even if its calls are locked; a function cannot.
        if site.locked and (site.module is None or site.by_reference):
            plan = without(plan, [site], f"{site}: {site.locked}")
    return plan


def _check_dropped(edits: Sequence[Edit], rules: Sequence[Rule]) -> None:
    """Check that nothing is edited inside a block that is dropped."""
    dropped = [edit for edit in edits if edit.make == "dropped"]
    for edit in edits:
        around = next((block for block in dropped if is_within(edit.site, str(block.site))), None)
        if around is not None:
            raise RuleConflict(
                f"{edit.site} is in {around.site}, which is dropped.",
                asked=f"rule {edit.because}: {rules[edit.because - 1]}; rule {around.because}: "
                f"{rules[around.because - 1]}",
                try_="rules for the activations of other blocks",
            )


def gone_with(plan: Plan) -> set[Site]:
    """The calls that are gone with the blocks that a plan drops."""
    dropped = [str(edit.site) for edit in plan.edits if edit.make == "dropped"]
    return {site for site in plan.sites if any(is_within(site, block) for block in dropped)}


def is_within(site: Site, block: str) -> bool:
    """Whether a site is in a module, or is a module inside it; not the module itself."""
    return is_inside(site.owner, block)


def without(plan: Plan, sites: Iterable[Site], reason: str) -> Plan:
    """The plan without these sites, and all runs of their code, because they cannot be edited.

    Raises:
        NothingPicked: no site is left of a rule that is not optional.
    """
    places = {site.key[:-1] for site in sites}
    dropped = [edit for edit in plan.edits if edit.site.key[:-1] in places]
    edits = tuple(edit for edit in plan.edits if edit not in dropped)
    kept = (*plan.kept, *((edit.site, f"{UNEDITABLE}{reason}") for edit in dropped))
    for number in {edit.because for edit in dropped} - {edit.because for edit in edits}:
        if not plan.rules[number - 1].optional:
            why = [reason.removeprefix(UNEDITABLE) for site, reason in kept if site.key[:-1] in places]
            raise NothingPicked(
                f"None of the sites that rule {number} picks can be edited: {'; '.join(dict.fromkeys(why))}.",
                asked=str(plan.rules[number - 1]), try_="other sites, or optional=True if this is intended",
            )  # fmt: skip
    order = {site: place for place, site in enumerate(plan.sites.places)}
    return replace(plan, edits=edits, kept=tuple(sorted(kept, key=lambda pair: order[pair[0]])))


def as_rules(rules: Rules) -> tuple[Rule, ...]:
    """The rules of one rule, of several, or of a recipe.

    Raises:
        BadValue: there are none, or `rules` is something else.
    """
    listed: Any = (rules,) if isinstance(rules, Rule) else getattr(rules, "rules", rules)
    if isinstance(listed, str) or not isinstance(listed, Sequence) or not all(isinstance(r, Rule) for r in listed):
        raise BadValue(
            "This is not a rule.",
            asked=repr(rules),
            try_="surgery.erase_relu(), surgery.swap(...), a list, or a recipe",
        )
    if not listed:
        parts = left_out_line(_left_out(rules))
        raise BadValue("No rule to apply.", asked="".join(parts).strip(), try_="at least one rule")
    return tuple(listed)


def _left_out(rules: Rules) -> tuple[str, ...]:
    """The parts of a recipe besides its rules."""
    return tuple(getattr(rules, "left_out", ()))


def _check_count(rule: Rule, number: int, picked: list[Site], reasons: dict[Site, str], sites: Sites) -> None:
    if rule.expect is not None and len(picked) != rule.expect:
        raise CountChanged(
            f"Rule {number} expects {rule.expect} sites and picks {len(picked)}.", asked=str(rule),
            there=inventory(sites), try_=f"expect={len(picked)}, or drop `expect`, to accept this model",
        )  # fmt: skip
    if not picked and rule.expect is None and not rule.optional:
        if rule.use == "rectify_scores" and sites.scores is None:
            raise NothingPicked(
                f"{sites.model_kind} does not return the output of one linear layer or convolution unchanged.",
                asked=str(rule), try_="surgery.activations.RectifiedScores in your own code, or optional=True",
            )  # fmt: skip
        relevant = [reason for site, reason in reasons.items() if site.role in ("nonlinearity", "unknown")]
        because = counted(relevant)[:2]
        hint = nearest(dict(rule.pick).get("activation") or "", {site.activation for site in sites})
        raise NothingPicked(
            f"Rule {number} picks no site"
            + (f": {'; '.join(because)}." if because else "."),
            asked=str(rule), there=inventory(sites),
            try_=hint or "optional=True if this is intended; print(surgery.find_sites(model)) shows every site",
        )  # fmt: skip


def inventory(sites: Sites) -> str:
    """The activation calls of a model in one line: "48 x relu in Bottleneck, 1 x relu in ResNet"."""
    counts = Counter((site.activation, site.owner_kind) for site in sites)
    return ", ".join(f"{n} x {act} in {owner}" for (act, owner), n in counts.most_common(5)) or "no activation calls"
