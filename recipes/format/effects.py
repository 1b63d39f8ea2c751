"""Effects: what each ready-made recipe did to a trained network, as measured; read from a file of the package."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources

FILE = "effects.json"
FEW = 0.005  # ratios that differ less from 1 are told as equal


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What a recipe did to a trained network, beside the same network untouched and trained as long.

    Accuracies are fractions in [0, 1] of the same test images: of the network `before`, right `after_surgery` (None:
    the recipe has no surgery), of the result (`accuracy`), and of the `control`. `difference` is that of the last two,
    with its paired standard `error`. `seconds` are those of a processor for the whole run. Parameters, multiply-adds
    and computed activations (`relus`) are counted per image, before and after; `density` is that of the weights. `ms`
    are the milliseconds per image before, in eager mode on one thread, `time` is the time after as a ratio to it, and
    `merged_time` the same ratio if linear layers are merged in both networks (None: nothing was erased or dropped).
    """

    recipe: str
    network: str
    before: float
    after_surgery: float | None
    accuracy: float
    control: float
    difference: float
    error: float
    seconds: float
    parameters_before: int
    parameters: int
    macs_before: int
    macs: int
    relus_before: int
    relus: int
    density: float | None
    ms: float
    time: float
    merged_time: float | None

    @property
    def best_time(self) -> float:
        """The smaller ratio of the time as it is and merged."""
        return self.time if self.merged_time is None else min(self.time, self.merged_time)

    @property
    def relu_ratio(self) -> float:
        """The computed activations after, as a ratio to those before."""
        return self.relus / self.relus_before if self.relus_before else 1.0

    @property
    def points(self) -> str:
        """The difference to the control in points, with its standard error: "-1.2 ± 0.4"."""
        return f"{100 * self.difference:+.1f} ± {100 * self.error:.1f}"

    @property
    def harms(self) -> bool:
        """Whether it costs accuracy beyond the noise of the test images: by more than two standard errors."""
        return self.difference < -2 * self.error

    @property
    def cost(self) -> str:
        """What it costs and saves besides accuracy: "0.79x the time, 50% fewer activations"."""
        facts = [f"{self.time:.2f}x the time"]
        if self.merged_time is not None and self.merged_time < self.time - FEW:
            facts.append(f"{self.merged_time:.2f}x merged")
        for things, before, after in (
            ("activations", self.relus_before, self.relus), ("multiply-adds", self.macs_before, self.macs),
            ("parameters", self.parameters_before, self.parameters),
        ):  # fmt: skip
            if abs(change := after / before - 1 if before else 0.0) >= FEW:
                facts.append(f"{abs(change):.0%} {'more' if change > 0 else 'fewer'} {things}")
        if self.density is not None and self.density < 1:
            facts.append(f"{self.density:.0%} of the weights")
        return ", ".join(facts)

    def __str__(self) -> str:
        surgery = "" if self.after_surgery is None else f", {percent(self.after_surgery)} after surgery"
        return (
            f"{self.network}: {percent(self.before)} %{surgery}, {percent(self.accuracy)} trained,"
            f" {percent(self.control)} untouched ({self.points} points); {self.cost}"
        )


@dataclass(frozen=True, slots=True)
class Effects:
    """All that were measured, and how: a sentence that belongs under every table of them."""

    conditions: str
    rows: tuple[Effect, ...]

    def of(self, recipe: str) -> tuple[Effect, ...]:
        """The effects of a recipe, one for each network it was measured on; none if it was not measured."""
        return tuple(row for row in self.rows if row.recipe == recipe)

    def to_json(self) -> str:
        """The same as JSON text, an effect in a line."""
        rows = ",\n".join(json.dumps(asdict(row)) for row in self.rows)
        return f'{{"conditions": {json.dumps(self.conditions)},\n"effects": [\n{rows}\n]}}\n'


@cache
def all_effects() -> Effects:
    """The effects of all ready-made recipes that were measured."""
    return effects_from(resources.files("recipes").joinpath(FILE).read_text(encoding="utf-8"))


def effects(recipe: str) -> tuple[Effect, ...]:
    """What a ready-made recipe did to a trained network, one effect for each network it was measured on.

    Empty if it was not measured. What is measured, and how, is said in benchmarks/README.md.

    Raises:
        UnknownName: not a ready-made recipe; the hint has the nearest names.
    """
    from recipes.format.library import text_of

    text_of(recipe)
    return all_effects().of(recipe)


def effects_from(text: str) -> Effects:
    """The effects that `Effects.to_json` wrote."""
    given = json.loads(text)
    return Effects(given["conditions"], tuple(Effect(**row) for row in given["effects"]))


def percent(value: float | None) -> str:
    """An accuracy for a table; "-" if there is none."""
    return "-" if value is None else f"{100 * value:.1f}"
