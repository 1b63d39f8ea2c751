"""A study: arms that are measured under a protocol, and the page with their results."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Generic, TypeVar

from matplotlib.figure import Figure

from benchmarks.conditions import RESULTS
from benchmarks.studies.jobs import Jobs, Size, Write
from benchmarks.studies.results import AnyArm, Results
from recipes.data import shared_folder

A = TypeVar("A", bound=AnyArm)
P = TypeVar("P", bound=Size)


@dataclass(frozen=True)
class Study(Generic[A, P]):
    """Arms in order of importance, how one of them is measured, and how results become tables and a plot.

    `command` is the module to run with `python -m`. `on_data` says whether it reads the folder of SURGERY_DATA.
    """

    name: str
    title: str
    command: str
    arms: Mapping[str, A]
    protocols: Mapping[str, P]
    measure: Callable[[A, int, P, str, Write], None]
    tables: Callable[[P, Results], list[str]]
    draw: Callable[[Results], Figure]
    on_data: bool = True

    def main(self, about: str | None, words: Sequence[str] | None = None) -> None:
        """Run the study as the command line requests, and write its results."""
        options = self._options(about, words)
        protocol = self.protocols[options.protocol]
        kind = options.device.partition(":")[0]
        name = "_".join([self.name, protocol.name, *([kind] if kind != "cpu" else [])])
        jobs = Jobs(options.results / f"{name}.csv")
        if not options.draw_only:
            seeds = range(protocol.seeds) if options.seeds is None else options.seeds
            do = partial(self._do, protocol, options.device)
            if self.on_data:
                shared_folder()  # fails here if it is missing, instead of in every job
            try:
                jobs.carry_out(options.arms, seeds, do, options.device, options.at_once)
            finally:  # write the results of finished jobs, even if others failed
                if jobs.file.is_file():
                    self.write_page(protocol, jobs)
        else:
            self.write_page(protocol, jobs)

    def write_page(self, protocol: P, jobs: Jobs) -> None:
        """Write tables and plot into the folder of the rows.

        Raises:
            ValueError: there are no rows.
        """
        rows = jobs.rows()
        if not rows:
            raise ValueError(f"There are no rows in {jobs.file}.")
        results = Results({name: dict(sorted(rows[name].items())) for name in self.arms if name in rows}, self.arms)
        picture, page = jobs.file.with_suffix(".png"), jobs.file.with_suffix(".md")
        self.draw(results).savefig(str(picture), dpi=110, metadata={"Software": None})
        versions, days, where = (
            ", ".join(sorted({getattr(row, name) for row in results.all()})) for name in ("torch", "date", "processor")
        )
        some = " --arms " + shlex.join(results) if len(results.rows) < len(self.arms) else ""
        text = [
            f"# {self.title}",
            "",
            *self.tables(protocol, results),
            "",
            *(f"- `{name}`: {self.arms[name].about}" for name in results),
            "",
            f"![{self.title}]({picture.name})",
            "",
            f"- command: `python -m {self.command} --protocol {protocol.name}{some}`",
            f"- measured: {days}; {where}, a processor thread for each job",
            f"- versions: torch {versions}, {', '.join(f'{name} {version(name)}' for name in ('torchvision', 'timm'))}",
            f"- rows: [{jobs.file.name}]({jobs.file.name})",
            "",
        ]
        page.write_text("\n".join(text), encoding="utf-8")
        print(page)

    def _do(self, protocol: P, device: str, arm: str, seed: int, write: Write) -> None:
        self.measure(self.arms[arm], seed, protocol, device, write)

    def _options(self, about: str | None, words: Sequence[str] | None) -> argparse.Namespace:
        """The options of the command line."""
        parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--protocol", choices=list(self.protocols), default="reduced")
        parser.add_argument(
            "--arms", nargs="+", choices=list(self.arms), default=list(self.arms), metavar="ARM",
            help=", ".join(self.arms),
        )  # fmt: skip
        parser.add_argument("--seeds", nargs="+", type=int, help="default: from 0, as many as the protocol has")
        parser.add_argument("--device", default="cpu")
        parser.add_argument("--at-once", type=int, default=1, help="processes that share the jobs")
        parser.add_argument("--results", type=Path, default=RESULTS / "studies", help="folder to write into")
        parser.add_argument("--draw-only", action="store_true", help="write tables and plot of the rows that are there")
        return parser.parse_args(words)
