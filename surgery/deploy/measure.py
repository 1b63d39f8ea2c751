"""Measure: fill the table of functions and targets by running each function on each target that is installed here.

    python -m surgery.deploy.measure [--function NAME ...] [TARGET ...]

What was measured elsewhere stays, so that targets that cannot be installed together are measured one after the other.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from pathlib import Path

import torch
from torch import Tensor

from surgery.activations import build, names, row_of
from surgery.activations.support import FILE, Cell, Support, support
from surgery.deploy.agreement import target_named
from surgery.deploy.int8 import probed_int8
from surgery.deploy.probe import Probed, as_trained, probed
from surgery.deploy.runtimes import TARGETS
from surgery.deploy.target import Target, versions_of
from surgery.files import write_text
from surgery.rng import seeded

CHANNELS = 8
REACH = 30.0  # the functions are tried from minus this to this
LAYOUTS = {"image": ((2, CHANNELS, 8, 8), 1), "tokens": ((2, 6, CHANNELS), 2)}
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16}


def measured(target: Target, functions: Iterable[str]) -> Iterator[Cell]:
    """What each of these functions becomes on a target: learned ones on images and on tokens."""
    for name in functions:
        row = row_of(name)
        if row.role not in ("nonlinearity", "gate"):
            continue
        for layout, (shape, axis) in LAYOUTS.items():
            for precision, dtype in PRECISIONS.items():
                if (precision == "fp16" and not target.half) or (layout == "tokens" and not row.learns):
                    continue
                function = as_trained(build(name, CHANNELS if row.learns else None, axis=axis)).to(dtype)
                yield _cell(name, target, precision, layout, probed(function, _inputs(shape).to(dtype), target))
        if target.quantizes():
            function = as_trained(build(name, CHANNELS if row.learns else None))
            yield _cell(name, target, "int8", "image", probed_int8(function, target, CHANNELS))


def with_cells(before: Support, target: Target, cells: tuple[Cell, ...]) -> Support:
    """The table with these cells measured anew on one target."""
    measured = {_key(cell) for cell in cells}
    used = (*target.distributions, *(target.quantizer if any(cell.precision == "int8" for cell in cells) else ()))
    conditions = f"{versions_of(used)}, torch {torch.__version__.partition('+')[0]}, {date.today().isoformat()}"
    kept = tuple(cell for cell in before.cells if _key(cell) not in measured)
    conditions += "" if target.load else "; converted, not run"
    return Support(tuple(sorted((*kept, *cells), key=_order)), {**before.measured, target.name: conditions})


def main(arguments: Sequence[str]) -> None:
    """Measure these functions on these targets, or all on all that are installed, and write the table after each."""
    parser = ArgumentParser(prog="python -m surgery.deploy.measure", description=__doc__.partition("\n")[0])
    parser.add_argument("--function", action="append", metavar="NAME", choices=names(), help="repeatable")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    asked = parser.parse_args(arguments)
    file = Path(__file__).parent.parent / "activations" / FILE
    found = support()
    for name in asked.targets or [name for name, target in TARGETS.items() if target.installed()]:
        target = target_named(name)
        target.check_installed()
        cells = []
        for cell in measured(target, asked.function or names()):
            cells.append(cell)
            print(f"{name}  {cell.function}  {cell.precision}  {cell.layout}: {cell.details}", flush=True)
        found = with_cells(found, target, tuple(cells))
        write_text(file, found.to_json() + "\n")


def _key(cell: Cell) -> tuple[str, ...]:
    return cell.function, cell.target, cell.precision, cell.layout


def _order(cell: Cell) -> tuple[object, ...]:
    return ("fp32", "fp16", "int8").index(cell.precision), cell.layout, cell.function, list(TARGETS).index(cell.target)


def _inputs(shape: tuple[int, ...]) -> Tensor:
    """Numbers over the whole reach, dense around zero, in random order."""
    count = torch.Size(shape).numel()
    with seeded():
        return (torch.linspace(-1, 1, count) ** 3 * REACH)[torch.randperm(count)].reshape(shape)


def _cell(name: str, target: Target, precision: str, layout: str, found: Probed) -> Cell:
    return Cell(name, target.name, precision, layout, found.verdict, found.operators, found.error, found.problem)


if __name__ == "__main__":
    main(sys.argv[1:])
