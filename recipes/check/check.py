"""Check: what the rules of a recipe would pick on a model, found without its weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import surgery
from recipes.format.recipe import Recipe
from recipes.format.write import rule_line, rule_table
from surgery.errors import CannotLook, SurgeryError
from surgery.look.site import Site, Sites
from surgery.plan.plan import kept_lines

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, eq=False)
class Picked:
    """What one rule picks; `problem` says why that is not valid, "" if it is.

    `expect` is the number it must pick, None if the recipe has none for this model.
    """

    rule: surgery.Rule
    sites: tuple[Site, ...]
    problem: str = ""

    @property
    def expect(self) -> int | None:
        """How many sites it must pick; None if unspecified."""
        return self.rule.expect

    def __str__(self) -> str:
        if self.problem:
            return f"{rule_line(self.rule)}\n    {self.problem}"
        kinds = Counter((site.activation, site.owner_kind) for site in self.sites)
        what = ", ".join(f"{count} x {name} in {owner}" for (name, owner), count in kinds.most_common())
        said = "" if self.expect is None else ", as expected"
        few = ", ".join(map(str, self.sites[:4])) + (", ..." if len(self.sites) > 4 else "")
        return f"{rule_line(self.rule)}\n    picks {len(self.sites)} sites{said}" + (
            f": {what}\n    {few}" if what else ""
        )


@dataclass(frozen=True, eq=False)
class Check:
    """What a recipe would do to a model. Prints rule by rule; `holds` if it could be applied as it is.

    `problem` concerns all rules together, such as two that pick the same site. `left` are the sites that the rules pick
    and a recipe with `skip_uneditable` leaves alone, each with its reason, as far as known before the edit.
    """

    recipe: Recipe
    model: str
    sites: Sites
    picked: tuple[Picked, ...]
    problem: str = ""
    left: tuple[tuple[Site, str], ...] = ()

    @property
    def holds(self) -> bool:
        """Whether every rule picks what it must, and no two pick the same."""
        return not self.problem and not any(picked.problem for picked in self.picked)

    def facts(self) -> dict[str, Any]:
        """The same as JSON-compatible values."""
        rules = [
            {
                "rule": rule_table(pick.rule),
                "picks": [str(site) for site in pick.sites],
                "problem": pick.problem or None,
            }
            for pick in self.picked
        ]
        facts = {"recipe": self.recipe.name, "model": self.model, "named": self.model in self.recipe.models}
        left = [{"site": str(site), "reason": reason} for site, reason in self.left]
        facts |= {"calls": len(self.sites), "rules": rules, "left": left}
        return facts | {"problem": self.problem or None, "ok": self.holds}

    def __str__(self) -> str:
        named = "named in the recipe" if self.model in self.recipe.models else "not among those the recipe names"
        lines = [f"{self.recipe.name} on {self.model} ({named}): {len(self.sites)} activation calls"]
        lines += [f"  rule {number}: {pick}" for number, pick in enumerate(self.picked, 1)]
        lines += [f"  {line}" for line in kept_lines(self.left)]
        lines += [f"  {self.problem}"] if self.problem else []
        if not self.picked:
            lines.append("  no rule: the model stays as it is")
        lines.append("it can be applied" if self.holds else "it cannot be applied as it is")
        return "\n".join(lines)


def check(recipe: Recipe, model: str, sites: Sites | None = None) -> Check:
    """Check what each rule of a recipe would pick on the model called `model`, and whether that is as expected.

    The model is built without weights to find its sites, unless `sites`, the result of `sites_of(model)`, is given.

    Raises:
        UnknownName, BadValue: an unknown model, or a name in several catalogues.
        CannotLook: the model does not run on its default example.
    """
    from recipes.models.names import full_name

    model = full_name(model)
    found = sites_of(model) if sites is None else sites
    rules = recipe.rules_for(model)
    picked: list[Picked] = []
    for number, rule in enumerate(rules):
        before = {site for pick in picked for site in pick.sites}
        picked.append(_picked(rule, found, before if rule.remaining else set(), number + 1))
    problem = ""
    left: tuple[tuple[Site, str], ...] = ()
    if rules and not any(pick.problem for pick in picked):
        try:
            plan = surgery.make_plan(found, list(rules), skip_uneditable=recipe.skip_uneditable)
            chosen = {site for pick in picked for site in pick.sites}
            left = tuple((site, reason) for site, reason in plan.kept if site in chosen)
        except SurgeryError as error:
            problem = _line_of(error)
    return Check(recipe, model, found, tuple(picked), problem, left)


def sites_of(model: str) -> Sites:
    """The sites of the model called `model`, built without memory for its weights if possible.

    Raises:
        UnknownName, BadValue, CannotLook: as `check`.
    """
    bare = without_weights(model)
    try:
        return surgery.find_sites(bare)
    except CannotLook:
        if not any(param.is_meta for param in bare.parameters()):
            raise
    from recipes.models.build import build

    return surgery.find_sites(build(model))  # some builders compute with their weights


def without_weights(model: str) -> nn.Module:
    """Build the model called `model` on the meta device, or normally if its builder needs values.

    Raises:
        UnknownName, BadValue: as `check`.
    """
    import torch

    from recipes.models.build import build

    try:
        with torch.device("meta"):
            return build(model)
    except (RuntimeError, NotImplementedError):
        return build(model)


def _picked(rule: surgery.Rule, sites: Sites, taken: set[Site], number: int) -> Picked:
    """What one rule picks on its own, without the sites that it leaves to earlier ones."""
    alone: Sequence[surgery.Rule] = [replace(rule, expect=None, optional=True, remaining=False)]
    try:
        chosen = [edit.site for edit in surgery.make_plan(sites, alone).edits]
        if not chosen and rule.expect is None:
            surgery.make_plan(sites, replace(rule, remaining=False))  # raises with the reason, unless it may pick none
    except SurgeryError as error:
        return Picked(rule, (), _line_of(error))
    kept = tuple(site for site in chosen if site not in taken)
    if rule.expect is not None and len(kept) != rule.expect:
        return Picked(rule, kept, f"picks {len(kept)} sites, not the {rule.expect} that rule {number} expects")
    if not kept and rule.expect is None and not rule.optional:
        return Picked(rule, kept, "earlier rules picked all its sites")
    return Picked(rule, kept)


def _line_of(error: SurgeryError) -> str:
    return str(error).replace("\n", "\n    ")
