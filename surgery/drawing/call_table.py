"""Call table: the calls of a drawing with all that is known of them, from which the picture takes its words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from html import escape

from surgery.drawing.cells import Cell
from surgery.drawing.drawing import Drawing
from surgery.drawing.selection import options_of_sites
from surgery.drawing.stages import sizes_in_words
from surgery.look.site import Site


def call_table(drawing: Drawing) -> Iterator[str]:
    """The lines of the table. Its row `r3` lists call 3 and holds the option of a rule that selects it."""
    columns = {name: [fact(cell) for cell in drawing.cells] for name, fact in _facts(drawing).items()}
    shown = {name: texts for name, texts in columns.items() if any(texts)}
    picks = options_of_sites(drawing.sites)
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("site", "function", *shown))
    yield '<div class="listed"><table id="calls"><caption>All activation calls</caption>'
    yield f"<thead><tr>{heads}</tr></thead><tbody>"
    for number, cell in enumerate(drawing.cells):
        facts = "".join(f"<td>{escape(texts[number])}</td>" for texts in shown.values())
        site = f'<th scope="row" id="s{number}">{escape(str(cell.site))}</th>'
        what = f'<td id="w{number}">{escape(cell.what)}</td>'
        yield f'<tr id="r{number}"{data_pick(picks.get(cell.site))}>{site}{what}{facts}</tr>'
    yield "</tbody></table></div>"


def data_pick(option: str | None) -> str:
    """The attribute that holds the option of a rule that selects something; none without one."""
    return f" data-pick='{escape(option, quote=False)}'" if option else ""


def is_round(site: Site) -> bool:
    """Whether a call is drawn round: a rule leaves it alone unless it is asked for."""
    return site.is_call and site.role != "nonlinearity"


def _facts(drawing: Drawing) -> dict[str, Callable[[Cell], str]]:
    """The columns behind the first two: what a call has to say of itself in each."""
    values, shared = drawing.values, drawing.shared
    facts: dict[str, Callable[[Cell], str]] = {
        "why": lambda cell: cell.why,
        "role": lambda cell: cell.site.role if is_round(cell.site) else "",
        "place": lambda cell: _place(cell.site),
        "call": lambda cell: f"{cell.site.callee} in {cell.site.owner_kind}",
        "object": lambda cell: f"has {shared[cell.site]} calls" if cell.site in shared else "",
        "input": lambda cell: sizes_in_words(cell.site.shape),
        "fed by": lambda cell: " + ".join(cell.site.fed_by),
        "feeds": lambda cell: " + ".join(cell.site.feeds),
        "mode": lambda cell: cell.site.modes[0] if len(cell.site.modes) == 1 else "",
    }
    return facts if values is None else facts | {values.name: lambda cell: values.text(str(cell.site))}


def _place(site: Site) -> str:
    if site.block is None:
        return ""
    return f"{site.position} of {site.positions} in {site.block}" if site.position else f"in {site.block}"
