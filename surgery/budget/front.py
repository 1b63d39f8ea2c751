"""Front: what can be saved for how much damage, point by point, and the plan of each budget."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

from surgery.budget.picture import drawn
from surgery.cost.action import Action, rules_of
from surgery.errors import BadFile, BadValue
from surgery.files import write_text
from surgery.look.site import Sites
from surgery.plan.plan import Plan, make_plan
from surgery.plan.rules import Rule
from surgery.predictions.damage import Damage
from surgery.predictions.intervals import SURE
from surgery.text import html_table, table

Cost = Literal["latency", "relu_count", "sites", "macs"]
UNITS: dict[Cost, str] = {"latency": "ms", "relu_count": "ReLUs", "sites": "sites", "macs": "MACs"}

FORMAT = 1
_CLEAR = 0.02  # of the total: smaller savings are noise, and no ratio of them means anything
_BUDGETS: dict[str, Cost] = {"ms": "latency", "relu_count": "relu_count", "sites": "sites", "macs": "macs"}


@dataclass(frozen=True, slots=True)
class Candidate:
    """An action that was considered, what it does alone, and how much of the cost it saves."""

    action: Action
    damage: Damage
    saved: float


@dataclass(frozen=True, slots=True)
class Point:
    """Actions that are done together: what they cost then, and the damage that they do.

    The predictions are sums over single actions. `damage` was measured on the batches that the choice was made on,
    `reported` on others, `cost` of the edited network; None where it was not measured. `by` is how it was found.
    """

    actions: tuple[Action, ...]
    predicted_cost: float
    predicted_damage: float
    damage: Damage
    cost: float | None = None
    reported: Damage | None = None
    by: str = "greedy"

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules that carry it out."""
        return rules_of(self.actions)

    @property
    def costs(self) -> float:
        """The cost, as measured or else as predicted."""
        return self.predicted_cost if self.cost is None else self.cost

    def __str__(self) -> str:
        return ", ".join(map(str, self.actions)) or "nothing"

    def to_data(self) -> dict[str, Any]:
        """As plain data, for a file."""
        return {
            "actions": [action.to_data() for action in self.actions],
            "cost": self.cost, "predicted_cost": self.predicted_cost,
            "damage": self.damage.to_data(), "predicted_damage": self.predicted_damage,
            "reported": None if self.reported is None else self.reported.to_data(), "by": self.by,
        }  # fmt: skip

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Point:
        """The point that `to_data` described."""
        damage, reported = Damage.from_data(data["damage"]), data["reported"]
        return cls(
            tuple(map(Action.from_data, data["actions"])), data["predicted_cost"], data["predicted_damage"], damage,
            data["cost"], None if reported is None else Damage.from_data(reported), data["by"],
        )  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class Front:
    """The points of a choice, from the cheapest to the dearest, the candidates, and how it was chosen.

    `total` is the cost of the unedited network, of kind `kind`: milliseconds ("latency"), activation elements per image
    ("relu_count"), activation calls ("sites") or multiply-adds per image ("macs"). `conditions` says how it was chosen;
    `left_out` why something was not considered. Prints as a table, of points that no other dominates.
    """

    sites: Sites
    kind: Cost
    total: float
    points: tuple[Point, ...]
    candidates: tuple[Candidate, ...] = ()
    conditions: tuple[tuple[str, str], ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def best(self) -> tuple[Point, ...]:
        """The points that no other dominates, by cost and by the damage on the batches chosen on."""
        kept: list[Point] = []
        for point in sorted(self.points, key=lambda point: (point.damage.kl, point.costs)):
            if not kept or point.costs < kept[-1].costs:
                kept.append(point)
        return tuple(reversed(kept))

    def point(
        self, *, speedup: float | None = None, damage: float | None = None, ms: float | None = None,
        relu_count: float | None = None, sites: float | None = None, macs: float | None = None,
    ) -> Point:  # fmt: skip
        """The point within a budget: of those cheap enough the one with the least damage, else the cheapest.

        `speedup` is how many times faster than the unedited network it must be, `damage` the largest KL on the batches
        that were chosen on, `ms`, `relu_count`, `sites` and `macs` the most that may be left.

        Raises:
            BadValue: no budget, one that is not above 0 or of another cost than was chosen by, or one that no point
                reaches; it names the nearest point.
        """
        given = {"ms": ms, "relu_count": relu_count, "sites": sites, "macs": macs}
        limits = {name: value for name, value in given.items() if value is not None}
        asked = _checked({"speedup": speedup, "damage": damage} | limits)
        for name in limits:
            if _BUDGETS[name] != self.kind:
                raise BadValue(f"The front was chosen by {self.kind}.", asked=asked, try_=f"cost={_BUDGETS[name]!r}")
        if speedup is not None and self.kind != "latency":
            raise BadValue(f"The front was chosen by {self.kind}.", asked=asked, try_="cost='latency'")
        most = min([*limits.values(), *([] if speedup is None else [self.total / speedup])], default=None)
        fits = [point for point in self.best if damage is None or point.damage.kl <= damage]
        if most is not None:
            cheap = [point for point in fits if point.costs <= most]
            found = min(cheap, key=lambda point: point.damage.kl, default=None)
        else:
            found = min(fits, key=lambda point: point.costs, default=None)
        if found is None or not found.actions:
            raise BadValue("No point of the front is within this budget." if found is None else
                           "Only the unedited network is within this budget.", asked=asked,
                           there=self._nearest(most, damage))  # fmt: skip
        return found

    def within(self, **budget: float | None) -> Plan:
        """The plan of the point within a budget, on the sites of the model in its trainable form; see `point`.

        Raises:
            BadValue: as `point`.
        """
        return make_plan(self.sites, self.point(**budget).rules)

    def to_json(self) -> str:
        """All but the sites as one JSON object."""
        data = {
            "format": FORMAT, "model": self.sites.model_kind, "cost": self.kind, "total": self.total,
            "conditions": dict(self.conditions), "left_out": list(self.left_out),
            "points": [point.to_data() for point in self.points],
            "candidates": [
                {"action": one.action.to_data(), "damage": one.damage.to_data(), "saved": one.saved}
                for one in self.candidates
            ],
        }  # fmt: skip
        return json.dumps(data, indent=1)

    def save(self, path: str | Path) -> None:
        """Write it as JSON."""
        write_text(Path(path), self.to_json() + "\n")

    @classmethod
    def from_json(cls, text: str, sites: Sites) -> Front:
        """The front of `to_json`, on the sites of the same model.

        Raises:
            BadFile: the text is none, or of another model.
        """
        try:
            data = json.loads(text)
            if data["format"] != FORMAT:
                raise ValueError(f"format {data['format']!r}, not {FORMAT}")
            found = cls(
                sites, data["cost"], float(data["total"]), tuple(map(Point.from_data, data["points"])),
                tuple(
                    Candidate(Action.from_data(one["action"]), Damage.from_data(one["damage"]), float(one["saved"]))
                    for one in data["candidates"]
                ),
                tuple(data["conditions"].items()), tuple(data["left_out"]),
            )  # fmt: skip
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BadFile("This is not a front.", asked=f"{type(error).__name__}: {error}"[:100]) from error
        named = {name for one in found.candidates for name in one.action.sites}
        if data["model"] != sites.model_kind or not named <= set(map(str, sites)):
            raise BadFile("The front is one of another model.", asked=sites.model_kind, there=str(data["model"]))
        return found

    def site_values(self) -> tuple[str, dict[str, float]]:
        """The damage of the mildest edit of each call and each block alone, which `draw` shows as bars."""
        least: dict[str, float] = {}
        for one in self.candidates:
            for name in (one.action.place,) if one.action.extent else one.action.sites:
                least[name] = min(one.damage.kl, least.get(name, math.inf))
        return "KL of the mildest edit, nats", least

    def plot(self, path: str | Path) -> Path:
        """Draw damage over cost as an SVG file; returns its path.

        Raises:
            BadValue: the name does not end in .svg.
        """
        made = Path(path)
        if made.suffix.lower() != ".svg":
            raise BadValue("A front is drawn as SVG.", asked=str(path), try_=str(made.with_suffix(".svg")))
        best = set(map(id, self.best))
        dots = [(point.costs, point.damage.kl, point.damage.interval, id(point) in best) for point in self.points]
        title = f"{self.sites.model_kind}: damage for {UNITS[self.kind]}"
        write_text(made, drawn(dots, title, UNITS[self.kind], "KL(before || after), nats per image"))
        return made

    @property
    def additivity(self) -> str:
        """How well damages and savings of single actions add up: measured over predicted, where several act."""
        several = [point for point in self.points if len(point.actions) > 1]
        damages = [p.damage.kl / p.predicted_damage for p in several if p.predicted_damage > 0]
        times = [
            (self.total - p.cost) / (self.total - p.predicted_cost)
            for p in several if p.cost is not None and self.total - p.predicted_cost > _CLEAR * self.total
        ]  # fmt: skip
        named = (("damage", damages), ("savings", times if self.kind == "latency" else []))
        lines = [
            f"{name} {min(ratios):.2f} to {max(ratios):.2f} times the sum of single actions"
            f" (median {median(ratios):.2f})"
            for name, ratios in named if ratios
        ]  # fmt: skip
        return "; ".join(lines)

    def __repr__(self) -> str:
        return f"<Front: {self._head()}>"

    def __str__(self) -> str:
        lines = [*table(self._columns(), self._rows()), *self._notes()]
        return "\n".join([self._head(), *(f"  {line}" for line in lines)])

    def _repr_html_(self) -> str:
        return html_table(self._columns(), self._rows(), above=[self._head()], below=self._notes())

    def _head(self) -> str:
        return (
            f"{len(self.best)} points of {self.sites.model_kind}, {_figure(self.total)} {UNITS[self.kind]} unedited,"
            f" chosen among {len(self.candidates)} actions"
        )

    def _notes(self) -> list[str]:
        notes = [f"{name}: {value}" for name, value in self.conditions]
        return [*([f"together: {self.additivity}"] if self.additivity else []), *notes,
                *(f"left out: {reason}" for reason in self.left_out)]  # fmt: skip

    def _columns(self) -> tuple[str, ...]:
        ratio = "speedup" if self.kind == "latency" else "fewer"
        return UNITS[self.kind], "predicted", ratio, "KL", "predicted", "KL reported", "points", "actions", "by"

    def _rows(self) -> list[tuple[str, ...]]:
        return [self._row(point) for point in self.best]

    def _row(self, point: Point) -> tuple[str, ...]:
        shown = point.reported or point.damage
        change = "-"
        if shown.accuracy is not None:
            change = f"{100 * shown.accuracy:+.2f} ± {100 * SURE * (shown.accuracy_error or 0):.2f}"
        speedup = f"{self.total / point.costs:.2f}x" if point.costs else "-"
        return (
            _figure(point.costs), _figure(point.predicted_cost), speedup, _divergence(point.damage),
            f"{point.predicted_damage:.4f}", "-" if point.reported is None else _divergence(point.reported), change,
            _in_words(point.actions), point.by,
        )  # fmt: skip

    def _nearest(self, most: float | None, damage: float | None) -> str:
        edited = [point for point in self.best if point.actions]
        if not edited:
            return "no point but the unedited network"
        if damage is not None:
            near = min(edited, key=lambda point: (abs(point.damage.kl - damage), point.costs))
        else:
            near = min(edited, key=lambda point: abs(point.costs - (most or 0.0)))
        speed = f", {self.total / near.costs:.2f}x" if self.kind == "latency" and near.costs else ""
        return f"nearest: {_figure(near.costs)} {UNITS[self.kind]}{speed} at damage {near.damage.kl:.4g}"


def merged(greedy: Sequence[Point], exact: Sequence[Point]) -> tuple[Point, ...]:
    """The points of both, each set of actions once, from the cheapest to the dearest."""
    found: dict[frozenset[Action], Point] = {}
    for point in (*greedy, *exact):
        key = frozenset(point.actions)
        same = found.get(key)
        found[key] = point if same is None or same.by == point.by else replace(same, by="both")
    return tuple(sorted(found.values(), key=lambda point: (point.costs, point.damage.kl)))


def _checked(budget: Mapping[str, float | None]) -> str:
    """A budget in words.

    Raises:
        BadValue: there is none, or it is not a number above 0.
    """
    asked = {name: value for name, value in budget.items() if value is not None}
    for name, value in asked.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise BadValue("A budget is a number above 0.", asked=f"{name}={value!r}")
    if not asked:
        raise BadValue("No budget.", try_="front.within(speedup=1.3), or damage=0.05")
    return ", ".join(f"{name}={value:g}" for name, value in asked.items())


def _in_words(actions: Sequence[Action]) -> str:
    """How many actions there are of each kind: "2 drop, 1 erase"."""
    kinds = list(dict.fromkeys(action.what for action in actions))
    return ", ".join(f"{sum(a.what == kind for a in actions)} {kind}" for kind in sorted(kinds)) or "unedited"


def _divergence(damage: Damage) -> str:
    return f"{damage.kl:.4f} ± {SURE * damage.error:.4f}"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:.4g}"
