"""Picture: the stages of a drawing beside each other, as a grid for the keyboard and for screen readers.

The cells of call 3 are named by the row of the table that lists it: by its elements `s3`, the site, and `w3`, what
becomes of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from html import escape
from math import ceil

from surgery.drawing.call_table import data_pick, is_round
from surgery.drawing.cells import Cell
from surgery.drawing.drawing import Drawing
from surgery.drawing.selection import options_of_blocks
from surgery.drawing.stages import Row, Stage

_HIGH, _WIDE = 16, 4  # rows of a stage below each other, and sides of rows beside each other


def picture(drawing: Drawing) -> Iterator[str]:
    """The lines of the grid."""
    numbers = {id(cell): number for number, cell in enumerate(drawing.cells)}
    picks = options_of_blocks(drawing.sites)
    name = escape(f"Activation calls of {drawing.title}")
    yield f'<div id="map" role="grid" aria-label="{name}" aria-describedby="help" data-show="both">'
    for place, stage in enumerate(drawing.stages):
        beside = min(ceil(len(stage.rows) / _HIGH), _WIDE // (1 + drawing.before_and_after))
        wide = max(len(label(row, stage)) for row in stage.rows)
        sizes = f"--rows:{ceil(len(stage.rows) / beside)};--label:{wide}ch"
        heading = f"{escape(stage.name or drawing.sites.model_kind)} <small>{escape(stage.size)}</small>"
        yield f'<div class="stage"><div class="name" id="g{place}">{heading}</div>'
        yield f'<div class="rows" role="rowgroup" aria-labelledby="g{place}" style="{sizes}">'
        for row in stage.rows:
            header = _header(row, label(row, stage), picks.get(row.path) if row.is_block else None, drawing)
            cells = _sides(row, numbers, drawing)
            yield f'<div class="row{f" {row.mark}" if row.mark else ""}" role="row">{header}{cells}</div>'
        yield "</div></div>"
    yield "</div>"


def label(row: Row, stage: Stage) -> str:
    """What tells a row from the others of its stage: the rest of its path."""
    if not row.path:
        return row.kind
    inside = row.path.removeprefix(stage.name) if row.is_block else row.path
    return inside.lstrip(".") or row.path


def _header(row: Row, text: str, pick: str | None, drawing: Drawing) -> str:
    """The name of a row, with what is known of the block and the option of a rule that selects the calls in it."""
    block = next((block for block in drawing.sites.blocks if row.is_block and str(block) == row.path), None)
    facts = [row.kind, row.note]
    if block is not None:
        facts.append(f"cannot be dropped: {block.locked}" if block.locked else "can be dropped")
    if drawing.values is not None and row.path in drawing.values.numbers:
        facts.append(f"{drawing.values.name}: {drawing.values.text(row.path)}")
    name, about = escape(row.path or row.kind), escape("; ".join(filter(None, facts)))
    return (
        f'<span class="block" role="rowheader" tabindex="-1" aria-label="{name}" data-about="{about}"'
        f"{data_pick(pick)}{_bar(row.path, drawing)}>{escape(text)}</span>"
    )


def _sides(row: Row, numbers: Mapping[int, int], drawing: Drawing) -> str:
    """The calls of a row before an edit and after it, or as they are. Sharing and values are of those before."""
    before, after = [], []
    for cell in row.cells:
        number = numbers[id(cell)]
        hatched = ["hatched"] if cell.site in drawing.shared else []
        before.append(_cell(cell, number, cell.before, hatched, _bar(str(cell.site), drawing)))
        after.append(_cell(cell, number, cell.after))
    sides = {"before": before, "after": after} if drawing.before_and_after else {"before": before}
    return "".join(f'<span class="{side}">{"".join(cells)}</span>' for side, cells in sides.items())


def _cell(cell: Cell, number: int, function: str, marks: Iterable[str] = (), bar: str = "") -> str:
    """The cell of a call on one side; a gap where there is none."""
    if not function:
        return f'<span class="c {cell.state} gap" aria-hidden="true"></span>'
    kinds = ["c", cell.state, *(["round"] if is_round(cell.site) else []), *(["fading"] if cell.fades else []), *marks]
    return (
        f'<span class="{" ".join(kinds)}" role="gridcell" tabindex="-1" data-n="{number}"'
        f' aria-labelledby="s{number} w{number}"{bar}>{escape(function)}</span>'
    )


def _bar(name: str, drawing: Drawing) -> str:
    """The attribute that draws the value of a call or a block; none without one."""
    share = None if drawing.values is None else drawing.values.share(name)
    return "" if share is None else f' style="--v:{share:.3g}"'
