"""Suggestions: which ready-made recipes fit a model, those that did most for a goal first."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import surgery
from recipes.check.check import check, sites_of
from recipes.format.effects import Effect, all_effects
from recipes.format.library import load, names, tables_of
from recipes.format.recipe import Recipe
from recipes.models.names import family_of, full_name
from surgery.activations import row_of
from surgery.activations.support import Support, support
from surgery.deploy.advice import is_well_off, layout_of
from surgery.deploy.runtimes import TARGETS
from surgery.errors import BadValue, NothingPicked, UnknownName, nearest
from surgery.look.site import Sites
from surgery.plan.plan import gone_with
from surgery.text import html_table, table

GOALS = ("accuracy", "speed", "relu-count")
DEPLOY = "deploy"
_PRECISIONS = ("fp32", "fp16", "int8")


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A recipe that fits a model: how many sites its rules pick there, and its measured effect, None if there is none.

    `lacking` counts the activation calls after it that the target of the goal has no good operators for, of `calls`;
    None with another goal.
    """

    recipe: str
    about: str
    picks: int
    named: bool
    effect: Effect | None
    lacking: int | None = None
    calls: int = 0

    def cells(self) -> tuple[str, ...]:
        """The cells of its row, as `Suggestions` prints it."""
        effect = self.effect
        sites = str(self.picks or "-")
        lacking = () if self.lacking is None else (f"{self.lacking} of {self.calls}",)
        if effect is None:
            return (self.recipe, sites, *lacking, "not measured", "", "", "", "")
        merged = "" if effect.merged_time is None else f"{effect.merged_time:.2f}x"
        measured = (effect.points, f"{effect.time:.2f}x", merged, f"{effect.relu_ratio:.0%}", effect.network)
        return (self.recipe, sites, *lacking, *measured)

    def facts(self) -> dict[str, Any]:
        """The same as JSON-compatible values."""
        effect = None if self.effect is None else {name: getattr(self.effect, name) for name in Effect.__slots__}
        facts = {"recipe": self.recipe, "about": self.about, "picks": self.picks, "named": self.named}
        return facts | {"lacking": self.lacking, "calls": self.calls, "effect": effect}


@dataclass(frozen=True, eq=False, repr=False)
class Suggestions(Sequence[Suggestion]):
    """The recipes that fit a model, in the order of their measured effect for a goal; prints as a table.

    `lacking` counts the calls of the model as it is that the target of the goal has no good operators for, of `calls`.
    """

    model: str
    goal: str
    rows: tuple[Suggestion, ...]
    conditions: str
    lacking: int | None = None
    calls: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: Any) -> Any:
        return self.rows[place]

    def __iter__(self) -> Iterator[Suggestion]:
        return iter(self.rows)

    def __repr__(self) -> str:
        return f"<Suggestions: {len(self)} recipes for the {self.goal} of {self.model}>"

    def __str__(self) -> str:
        return "\n".join([self._title(), *table(self._head(), self._cells()), *self._notes()])

    def _repr_html_(self) -> str:
        return html_table(self._head(), self._cells(), above=[self._title()], below=self._notes())

    def facts(self) -> dict[str, Any]:
        """The same as JSON-compatible values."""
        facts = {"model": self.model, "goal": self.goal, "lacking": self.lacking, "calls": self.calls}
        return facts | {"recipes": [row.facts() for row in self.rows], "conditions": self.conditions}

    def _title(self) -> str:
        order = _WORDS[self.goal.partition(":")[0]]
        title = f"{len(self)} recipe{'s' * (len(self) != 1)} for {self.model}, {order}"
        return title if self.lacking is None else f"{title}: {self.lacking} of {self.calls} do as it is"

    def _head(self) -> tuple[str, ...]:
        lacking = () if self.lacking is None else ("lacking there",)
        return ("recipe", "sites", *lacking, "points", "time", "merged", "activations", "measured on")

    def _cells(self) -> list[tuple[str, ...]]:
        return [row.cells() for row in self.rows]

    def _notes(self) -> list[str]:
        return [
            "points of accuracy with their standard error, beside the same network untouched and trained as long;"
            " time and activations are ratios to it",
            *textwrap.wrap(self.conditions, 118),
        ]


_WORDS = {
    "accuracy": "the most accurate first", "speed": "the fastest first", "relu-count": "the fewest activations first",
    DEPLOY: "the fewest calls that lack good operators first",
}  # fmt: skip


def find(model: str, goal: str = "accuracy") -> Suggestions:
    """Find the ready-made recipes that fit a model, those that did most for a goal in measurements first.

    `goal` is "accuracy" (points gained beside the same network untouched), "speed" (time per image, merged where that
    is less), "relu-count" (computed activations) or "deploy:TARGET", which counts the calls that a target of
    `surgery.deploy.targets()` has no good operators for after the recipe, in single precision or, with
    "deploy:TARGET:int8", in int8; the points decide between equal ones. The effects were measured on a small network of
    the family: they are a hint for yours, not its figures. What was not measured comes last.

    Recipes fit if they name a model of the same family, or, where none does, in any case, and if `check` says that they
    can be applied. The model is built without weights.

    Raises:
        UnknownName, BadValue: an unknown goal, target or model, or a precision that was not measured there.
        NothingPicked: no recipe fits.
        CannotLook: the model does not run on its default example.
    """
    target = _target_of(goal)
    model = full_name(model)
    sites = sites_of(model)
    every = names()
    family = [name for name in every if family_of(model) in {family_of(other) for other in tables_of(name)["models"]}]
    found = [row for name in family or every if (row := _suggestion(load(name), model, sites, target)) is not None]
    if not found:
        raise NothingPicked(f"No ready-made recipe fits {model}.", asked=f"{len(sites)} activation calls",
                            there=f"{len(every)} recipes", try_=f"surgery recipes new {model}")  # fmt: skip
    lacking, calls = (None, 0) if target is None else _lacking(_functions(sites, None), *target)
    ordered = sorted(found, key=lambda row: _rank(row, goal))
    return Suggestions(model, goal, tuple(ordered), all_effects().conditions, lacking, calls)


def _target_of(goal: str) -> tuple[str, str] | None:
    """The target and the precision that a goal names; None if it is another goal.

    Raises:
        UnknownName, BadValue: as `find`.
    """
    kind, _, rest = goal.partition(":")
    if goal in GOALS:
        return None
    there = ", ".join([*GOALS, f"{DEPLOY}:TARGET"])
    if kind != DEPLOY:
        raise UnknownName(f"unknown goal {goal!r}.", there=there, try_=nearest(kind, [*GOALS, DEPLOY]))
    target, _, precision = rest.partition(":")
    known = list(TARGETS)
    if target not in known:
        raise UnknownName(f"unknown target {target!r} in the goal {goal!r}.", there=", ".join(known),
                          try_=", ".join(f"{DEPLOY}:{name}" for name in nearest(target, known).split(", ") if name)
                          or f"{DEPLOY}:{known[0]}")  # fmt: skip
    precision = precision or "fp32"
    measured = [name for name in _PRECISIONS if support().matching(target=target, precision=name)]
    if precision not in measured:
        raise BadValue(f"functions were not measured on {target} in {precision!r}.", there=", ".join(measured),
                       try_=f"{DEPLOY}:{target}:{measured[-1]}")  # fmt: skip
    return target, precision


def _suggestion(recipe: Recipe, model: str, sites: Sites, target: tuple[str, str] | None) -> Suggestion | None:
    """The row of a recipe; None if it cannot be applied."""
    checked = check(recipe, model, sites)
    if not checked.holds:
        return None
    effect = next(iter(all_effects().of(recipe.name)), None)
    lacking, calls = (None, 0) if target is None else _lacking(_functions(sites, recipe.rules_for(model)), *target)
    picks = sum(len(pick.sites) for pick in checked.picked)
    return Suggestion(recipe.name, recipe.about, picks, model in recipe.models, effect, lacking, calls)


def _rank(row: Suggestion, goal: str) -> tuple[float, ...]:
    """What a row is ordered by, the least first."""
    effect = row.effect
    points = math.inf if effect is None else -effect.difference
    if row.lacking is not None:
        return (row.lacking, points)
    if effect is None:
        return (math.inf, points)
    first = {"accuracy": points, "speed": effect.best_time, "relu-count": effect.relu_ratio}[goal]
    return (first, points)


def _functions(sites: Sites, rules: Sequence[surgery.Rule] | None) -> list[tuple[str, str]]:
    """The function and the layout of every call that is left after these rules, gates and nonlinearities alone."""
    made: dict[Any, str] = {}
    gone: set[Any] = set()
    if rules:
        plan = surgery.make_plan(sites, list(rules))
        made = {edit.site: edit.make for edit in plan.edits if edit.site.is_call}
        gone = gone_with(plan)
    left = [(made.get(site, site.activation), layout_of(site)) for site in sites if site not in gone]
    return [(name, layout) for name, layout in left if row_of(name).role in ("nonlinearity", "gate")]


def _lacking(functions: Sequence[tuple[str, str]], target: str, precision: str) -> tuple[int, int]:
    """How many of these calls lack good operators on a target, or were not measured there, and of how many."""
    table = support()
    lacking = sum(not _is_good(table, name, target, precision, layout) for name, layout in functions)
    return lacking, len(functions)


def _is_good(table: Support, name: str, target: str, precision: str, layout: str) -> bool:
    cell = table.cell(name, target, precision=precision, layout=layout) or table.cell(name, target, precision=precision)
    return cell is not None and is_well_off(cell.verdict, len(cell.operators))
