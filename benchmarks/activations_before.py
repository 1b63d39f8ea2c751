"""Every activation in every form, layout and type beside another build of this library, such as version 0.1.

git worktree add OTHER 52d8988
GLIBC_TUNABLES=glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=4294967295 \
    python -m benchmarks.activations_before --other OTHER --other-name 52d8988

Processes of both builds take turns. Each measures forward and backward in the processor time of one thread, relative
to the nn.ReLU just before and just after. Only what both builds have in public is used.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks import activations_ratios
from benchmarks.activations_ratios import FORMS, SHAPES
from benchmarks.conditions import (
    RESULTS,
    command_line,
    conditions,
    markdown_table,
    memory_in_words,
    paragraph,
    write_results,
)

HERE = Path(__file__).resolve().parent.parent
SLOWER = 1.05  # from which ratio on, if the intervals of both builds are disjoint, a function is said to be slower


@dataclass(frozen=True)
class Row:
    """A function in one form, relative to ReLU, in both builds."""

    function: str
    form: str
    layout: str
    dtype: str
    before: float
    before_low: float
    before_high: float
    now: float
    now_low: float
    now_high: float

    @property
    def slower(self) -> bool:
        return self.now > SLOWER * self.before and self.now_low > self.before_high


def run(folder: Path, options: argparse.Namespace) -> dict[tuple[str, ...], list[float]]:
    """The ratios of each row, by the build in a folder, in a process of its own."""
    counts = json.dumps(dict.fromkeys(FORMS, options.slow_rounds) | {"default": options.rounds})
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", str(Path(activations_ratios.__file__).resolve()), counts]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder, env=environment)
    return {tuple(key): ratios for *key, ratios in json.loads(done.stdout.splitlines()[-1])}


def quartiles(ratios: list[float]) -> tuple[float, float, float]:
    """The median, and the first and third quartile."""
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return middle, low, high


def cells(row: Row) -> tuple[str, ...]:
    """A row of the table."""
    change = row.now / row.before
    return (
        row.function, row.form, row.layout, row.dtype,
        f"{row.before:.2f} ({row.before_low:.2f} to {row.before_high:.2f})",
        f"{row.now:.2f} ({row.now_low:.2f} to {row.now_high:.2f})", f"**{change:.2f}**", "slower" if row.slower else "",
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", type=Path, required=True, help="folder of the other build")
    parser.add_argument("--other-name", required=True)
    parser.add_argument("--pairs", type=int, default=2, help="processes of each build (default: 2)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--slow-rounds", type=int, default=2, help="of the forms without a kernel; 0 leaves them out")
    parser.add_argument("--name", default="activations_before")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write into")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: tuple[dict[tuple[str, ...], list[float]], ...] = ({}, {})
    for pair in range(options.pairs):
        for folder, into in zip((options.other.resolve(), HERE), found, strict=True):
            for key, ratios in run(folder, options).items():
                into.setdefault(key, []).extend(ratios)
        print(f"pair {pair + 1} of {options.pairs}", flush=True)
    before, now = found
    rows = [
        Row(*key, *quartiles(before[key]), *quartiles(now[key]))  # type: ignore[arg-type]
        for key in now
        if min(len(before.get(key, [])), len(now[key])) >= 3
    ]
    head = ("function", "form", "layout", "dtype", options.other_name, "now", "now / before", "")
    delattr(options, "other")
    text = [
        f"# Speed of activations beside {options.other_name}",
        "",
        paragraph(
            "Forward and backward pass relative to nn.ReLU, run just before and just after, in the processor time of"
            f" one thread, with {memory_in_words()}; median and"
            f" quartiles. Rounds with ReLUs that differ by more than {activations_ratios.APART - 1:.0%} do not count."
            f" Processes of both builds took turns. The shape is {SHAPES['default']} for the default form, a kernel"
            f" where there is one, and {SHAPES['closed']} for the others. A function is said to be slower from {SLOWER}"
            " on, if the quartiles of both builds do not overlap."
        ),
        "",
        *markdown_table(head, [cells(row) for row in rows]),
        "",
        *conditions(command_line(parser, options, "activations_before"), 0),
        "",
    ]  # fmt: skip
    file = write_results(options.results, options.name, text, rows)
    print(file.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
