"""Plot: the curves of a run, drawn from its log."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.log.csv_log import LOG, Log, Row
from recipes.optional import missing
from surgery.errors import BadFile, BadValue

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVES = "curves.png"

_PANELS = (("loss", "loss"), ("top1", "top-1 accuracy"), ("living", "density"))
_ENDINGS = (".png", ".pdf", ".svg")
_LETTERS = 100  # of the names of phases that fit side by side, about


def plot(folder: str | Path, file: str | Path | None = None) -> Path:
    """Plot loss, accuracy and density over the epochs of a run; returns the file. Needs the extra `plot`.

    Reads `<folder>/log.csv` and writes `<folder>/curves.png`, or `file` (PNG, PDF or SVG, by its ending). The epochs of
    all phases follow each other; every other phase is shaded, and each is named where there are several.

    Raises:
        BadFile: the folder does not have a log, or its log is empty or has another format.
        BadValue: an ending that is none of these.
        SurgeryError: matplotlib is not installed.
    """
    log, made = Log(Path(folder) / LOG), Path(folder) / CURVES if file is None else Path(file)
    if made.suffix.lower() not in _ENDINGS:
        raise BadValue("Unknown format for a plot.", asked=str(made), try_=f"a name in {', '.join(_ENDINGS)}")
    if not (rows := log.rows()):
        there = "a log without an epoch" if log.path.exists() else f"no {LOG}"
        raise BadFile(f"{folder} has nothing to draw.", asked=there, try_="the folder of a run that ended an epoch")
    figure = drawn(rows)
    made.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(str(made), dpi=120)
    return made


def drawn(rows: tuple[Row, ...]) -> Figure:
    """The figure of these rows: a panel for each measured number, over the epochs of all phases.

    Raises:
        SurgeryError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator, PercentFormatter
    except ImportError as error:
        raise missing("Plotting needs", "matplotlib", "plot") from error
    panels = [(name, label) for name, label in _PANELS if any(getattr(row, name) is not None for row in rows)]
    panels = panels or list(_PANELS[:1])
    figure = Figure(figsize=(8.0, 0.8 + 2.2 * len(panels)), layout="constrained")
    for axes, (name, label) in zip(figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0], panels, strict=True):
        points = [(k, getattr(row, name)) for k, row in enumerate(rows, 1) if getattr(row, name) is not None]
        axes.plot([k for k, _ in points], [value for _, value in points], marker=".", label=label)
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        if name != "loss":
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    _mark_phases(figure.axes, rows)
    bottom = figure.axes[-1]
    bottom.set_xlim(0.5, len(rows) + 0.5)
    bottom.set_xlabel("epoch")
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _mark_phases(panels: list[Any], rows: tuple[Row, ...]) -> None:
    """Shade every other phase in all panels, and write the names over the first one."""
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
        panels[0].annotate(
            phase, ((left + right) / 2, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 3),
            textcoords="offset points", ha="center", va="bottom", rotation=steep, fontsize=8,
        )  # fmt: skip
