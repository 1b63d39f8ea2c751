"""Plot: the curves of runs, drawn from their logs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.log.csv_log import LOG, Log, Row
from recipes.optional import missing
from surgery.errors import BadFile, BadValue

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVES = "curves.png"

_PANELS = {"loss": "loss", "top1": "top-1 accuracy", "living": "density"}
_OUTCOME = "result.json"
_ROUND = re.compile(r"round [1-9]")  # trainings behind a cut
_ENDINGS = (".png", ".pdf", ".svg")
_LETTERS = 100  # of the names of phases that fit side by side, about


def plot(folders: str | Path | Sequence[str | Path], file: str | Path | None = None) -> Path:
    """Plot loss, accuracy and density over the epochs of a run, or of several to compare; returns the file.

    Reads `<folder>/log.csv` and writes `<folder>/curves.png`, or `file` (PNG, PDF or SVG, by its ending). The epochs of
    all phases follow each other. Of a single run, every other phase is shaded, each is named where there are several,
    dashed lines mark the cuts of pruning, and a finished run shows its accuracy before it. Several runs are drawn over
    each other, into the first folder by default. Needs the extra `plot`.

    Raises:
        BadFile: a folder does not have a log, or its log is empty or has another format.
        BadValue: an ending that is none of these, or no folder.
        SurgeryError: matplotlib is not installed.
    """
    listed = [Path(folder) for folder in ([folders] if isinstance(folders, str | Path) else folders)]
    if not listed:
        raise BadValue("There is nothing to draw.", asked="no folder", try_="the folder of a run")
    made = listed[0] / CURVES if file is None else Path(file)
    if made.suffix.lower() not in _ENDINGS:
        raise BadValue("Unknown format for a plot.", asked=str(made), try_=f"a name in {', '.join(_ENDINGS)}")
    curves = {str(folder): _rows_of(folder) for folder in listed}
    figure = drawn(next(iter(curves.values())), **_facts(listed[0])) if len(listed) == 1 else compared(curves)
    made.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(str(made), dpi=120)
    return made


def drawn(rows: tuple[Row, ...], title: str = "", before: float | None = None) -> Figure:
    """The figure of the rows of a run: a panel for each measured number, over the epochs of all phases.

    `before` is the accuracy before it, a fraction.

    Raises:
        SurgeryError: matplotlib is not installed.
    """
    figure, panels = _panels({"": rows})
    _mark_phases(figure.axes, rows)
    if before is not None and "top1" in panels:
        panels["top1"].axhline(before, color="grey", linestyle=":", linewidth=1)
        panels["top1"].annotate("before", (0.995, before), xycoords=("axes fraction", "data"), ha="right", va="bottom",
                                fontsize=8, color="grey")  # fmt: skip
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def compared(curves: Mapping[str, tuple[Row, ...]]) -> Figure:
    """The figure of several runs by name: a panel for each measured number, with a line for each run.

    Raises:
        SurgeryError: matplotlib is not installed.
    """
    figure, _ = _panels(curves)
    figure.axes[0].legend(fontsize=8)
    return figure


def _panels(curves: Mapping[str, tuple[Row, ...]]) -> tuple[Figure, dict[str, Any]]:
    """A figure with the curves of each run, and its panels by the name of what they show."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator, PercentFormatter
    except ImportError as error:
        raise missing("Plotting needs", "matplotlib", "plot") from error
    every = [row for rows in curves.values() for row in rows]
    shown = {name: label for name, label in _PANELS.items() if any(getattr(row, name) is not None for row in every)}
    shown = shown or {"loss": _PANELS["loss"]}
    figure = Figure(figsize=(8.0, 0.8 + 2.2 * len(shown)), layout="constrained")
    panels = dict(zip(shown, figure.subplots(len(shown), sharex=True, squeeze=False)[:, 0], strict=True))
    for name, axes in panels.items():
        for run, rows in curves.items():
            points = [(k, getattr(row, name)) for k, row in enumerate(rows, 1) if getattr(row, name) is not None]
            axes.plot([k for k, _ in points], [value for _, value in points], marker=".", label=run or shown[name])
        axes.set_ylabel(shown[name])
        axes.grid(alpha=0.3)
        if name != "loss":
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    bottom = figure.axes[-1]
    bottom.set_xlim(0.5, max(map(len, curves.values())) + 0.5)
    bottom.set_xlabel("epoch")
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure, panels


def _rows_of(folder: Path) -> tuple[Row, ...]:
    log = Log(folder / LOG)
    if not (rows := log.rows()):
        there = "a log without an epoch" if log.path.exists() else f"no {LOG}"
        raise BadFile(f"{folder} has nothing to draw.", asked=there, try_="the folder of a run that ended an epoch")
    return rows


def _facts(folder: Path) -> dict[str, Any]:
    """Title and accuracy before of a finished run; nothing of another one."""
    file = folder / _OUTCOME
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        title = f"{found['recipe']} on {found['model']} with {found['data']}"
        return {"title": title, "before": float(found["before"]["accuracy"])}
    except (ValueError, KeyError, TypeError) as error:
        raise BadFile(f"{file} is not the outcome of a run.", asked=f"{type(error).__name__}: {error}",
                      try_="remove it to draw the log alone") from error  # fmt: skip


def _mark_phases(panels: list[Any], rows: tuple[Row, ...]) -> None:
    """Shade every other phase in all panels, mark the cuts, and write the names over the first one."""
    spans, start = [], 0
    for phase, part in groupby(rows, key=lambda row: row.phase):
        count = len(list(part))
        spans.append((phase, start + 0.5, start + count + 0.5))
        start += count
    if len(spans) == 1:
        return
    wide = any(len(phase) * len(rows) > _LETTERS * (right - left) for phase, left, right in spans)
    steep = 90 if wide else 0  # names side by side would cover each other
    for number, (phase, left, right) in enumerate(spans):
        for axes in panels:
            if number % 2:
                axes.axvspan(left, right, color="grey", alpha=0.12, linewidth=0)
            if _ROUND.match(phase):
                axes.axvline(left, color="grey", linestyle="--", linewidth=1)
        panels[0].annotate(
            phase, ((left + right) / 2, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 3),
            textcoords="offset points", ha="center", va="bottom", rotation=steep, fontsize=8,
        )  # fmt: skip
