"""Report: the rows of the jobs as a page, and as the effects that the package recipes carries."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.conditions import markdown_table, paragraph
from benchmarks.recipes_measured.measuring import Arm
from benchmarks.recipes_measured.networks import NETWORKS
from benchmarks.recipes_measured.protocol import Protocol
from benchmarks.studies.jobs import Jobs, Row
from recipes.format.effects import Effect, Effects, percent

COUNTS = ("parameters_before", "macs_before", "relus_before")
AFTER = {"parameters": "parameters_after", "macs": "macs_after", "relus": "relus_after"}


def effects_of(protocol: Protocol, arms: Mapping[str, Arm], rows: Mapping[str, Mapping[int, Sequence[Row]]]) -> Effects:
    """The effects in the rows of finished jobs, in the order of the names of the recipes."""
    measured = sorted((name for name in arms if name in rows), key=lambda name: (arms[name].recipe, name))
    found = [_effect(arms[name], row) for name in measured for seed in rows[name].values() for row in seed]
    every = [row for seeds in rows.values() for seed in seeds.values() for row in seed]
    where, torch = (", ".join(sorted({getattr(row, part) for row in every})) for part in ("processor", "torch"))
    conditions = f"One seed: {protocol.in_words()}. {where}, one thread, torch {torch}."
    return Effects(conditions, tuple(found))


def page(protocol: Protocol, found: Effects, jobs: Jobs) -> list[str]:
    """The lines of the page."""
    head = (
        "recipe", "network", "before", "after surgery", "trained", "untouched", "difference", "time", "merged",
        "parameters", "MACs", "activations", "density", "ms", "seconds",
    )  # fmt: skip
    days = ", ".join(sorted({row.date for seeds in jobs.rows().values() for seed in seeds.values() for row in seed}))
    return [
        "# Every recipe on a small trained network",
        "",
        paragraph(
            f"{found.conditions} Accuracy in percent on {protocol.test_images:,} test images: before, right after the"
            " surgery (gradual changes made at once), after the recipe, and of the untouched network after the same"
            " training. The difference of the last two in points, with its paired standard error: what the images leave"
            " open, not what another seed would. Time per image is that of one thread in eager mode, in batches of 16,"
            " warm, in turns, as a ratio to the time before; merged: linear layers merged in both networks, which is"
            " told where something was erased or dropped. Parameters, MACs and computed activations are ratios, ms is"
            " the time of the network before, seconds are those of the processor for the whole run."
        ),
        "",
        *markdown_table(head, [_cells(effect) for effect in found.rows]),
        "",
        f"- command: `python -m benchmarks.recipes_measured --protocol {protocol.name} --work FOLDER`",
        f"- measured: {days}; a processor thread",
        f"- versions: {', '.join(f'{name} {version(name)}' for name in ('torch', 'torchvision', 'timm'))}",
        f"- rows: [{jobs.file.name}]({jobs.file.name})",
        "",
    ]


def write(protocol: Protocol, arms: Mapping[str, Arm], jobs: Jobs, packaged: Path | None) -> Path:
    """Write the page beside the rows and, if it has a place, the file that the package carries."""
    found = effects_of(protocol, arms, jobs.rows())
    file = jobs.file.with_suffix(".md")
    file.write_text("\n".join(page(protocol, found, jobs)), encoding="utf-8")
    if packaged is not None:
        packaged.write_text(found.to_json(), encoding="utf-8")
    return file


def _effect(arm: Arm, row: Row) -> Effect:
    figures: dict[str, Any] = {name: None if math.isnan(value) else value for name, value in row.figures.items()}
    figures |= {name: figures.pop(written) for name, written in AFTER.items()}
    figures |= {name: round(figures[name]) for name in (*COUNTS, *AFTER)}
    return Effect(recipe=arm.recipe, network=NETWORKS[arm.network].about, **figures)


def _cells(effect: Effect) -> tuple[str, ...]:
    ratios = (
        effect.time, effect.merged_time, effect.parameters / effect.parameters_before,
        effect.macs / effect.macs_before, effect.relu_ratio, effect.density,
    )  # fmt: skip
    return (
        effect.recipe, effect.network,
        *map(percent, (effect.before, effect.after_surgery, effect.accuracy, effect.control)), effect.points,
        *("" if ratio is None else f"{ratio:.2f}" for ratio in ratios), f"{effect.ms:.2f}", f"{effect.seconds:.0f}",
    )  # fmt: skip
