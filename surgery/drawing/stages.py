"""Stages: the rows of a drawing, one for each block in order of execution, and the columns that they stand in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import groupby

from surgery.drawing.cells import Cell
from surgery.look.site import Site
from surgery.model import parents_of

STEM, HEAD = "stem", "head"  # columns of the calls in front of all blocks and behind them


@dataclass(frozen=True, slots=True)
class Row:
    """The calls of one block, or of one module outside all blocks; `note` says what becomes of the block as a whole."""

    path: str
    kind: str
    cells: tuple[Cell, ...]
    is_block: bool
    note: str = ""

    @property
    def mark(self) -> str:
        """The word by which the style knows what becomes of the block: "dropped", "padding", or none."""
        return self.note.partition(" ")[0]

    @property
    def size(self) -> str:
        """Height and width at its last nonlinearity, or the number of tokens: "56 x 56"; "" without either."""
        own = [cell.site for cell in self.cells if cell.site.role == "nonlinearity"] or [self.cells[-1].site]
        return size_of(own[-1])


@dataclass(frozen=True, slots=True)
class Stage:
    """The rows of one column: blocks beside each other in the network, whose outputs have the same size."""

    name: str
    size: str
    rows: tuple[Row, ...]


def stages_of(cells: Iterable[Cell], blocks: Iterable[str], notes: Mapping[str, str]) -> tuple[Stage, ...]:
    """The columns of a drawing: the stem, the stages, the head; `notes` by the paths of blocks.

    `blocks` are the paths of all basic modules: calls may be in one that is not a site's block, as it joins no paths.
    Calls outside all of them are rows of the stage they follow.
    """
    rows = _rows(cells, set(blocks), notes)
    columns = groupby(zip(_columns(rows), rows, strict=True), key=lambda pair: pair[0])
    return tuple(Stage(name, size, tuple(row for _, row in members)) for (name, size), members in columns)


def _columns(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """The name and the size of the stage that each row stands in."""
    places = [place for place, row in enumerate(rows) if row.is_block]
    columns: list[tuple[str, str]] = []
    for place, row in enumerate(rows):
        if row.is_block:
            columns.append((stage_path(row.path), row.size))
        elif not places:
            columns.append(("", ""))
        else:
            columns.append((STEM, "") if place < places[0] else (HEAD, "") if place > places[-1] else columns[-1])
    return columns


def stage_path(block: str) -> str:
    """The part of a block's path that it shares with the blocks beside it: up to its last number, or its parent.

    >>> stage_path("layer1.0"), stage_path("blocks.11.mlp"), stage_path("features#2"), stage_path("Mixed_5b")
    ('layer1', 'blocks', 'features', '')
    """
    parts = re.split("[.#]", block)
    numbered = [place for place, part in enumerate(parts) if part[-1:].isdigit()]
    kept = parts[: numbered[-1]] if numbered else parts[:-1]
    return ".".join(kept)


def size_of(site: Site) -> str:
    """The sizes of a call's input besides batch and channels: "56 x 56", or "197 tokens"."""
    count = len(site.shape)
    sizes = [size for axis, size in enumerate(site.shape) if axis not in (0, site.channel_axis % count)]
    return f"{sizes[0]} tokens" if len(sizes) == 1 else sizes_in_words(sizes)


def sizes_in_words(sizes: Iterable[int]) -> str:
    """Sizes with a sign between them: "56 x 56"."""
    return " \N{MULTIPLICATION SIGN} ".join(map(str, sizes))


def _rows(cells: Iterable[Cell], blocks: Set[str], notes: Mapping[str, str]) -> list[Row]:
    """A row for each block, at its first call; calls outside are together as long as they follow each other."""
    members: dict[tuple[str, int], list[Cell]] = {}
    outside, before = 0, None
    for cell in cells:
        block = _block_of(cell.site, blocks)
        outside += block is None and before != cell.site.owner
        before = cell.site.owner if block is None else None
        place = (cell.site.owner, outside) if block is None else (block, 0)
        members.setdefault(place, []).append(cell)
    return [_row(path, tuple(own), outside == 0, notes) for (path, outside), own in members.items()]


def _block_of(site: Site, blocks: Set[str]) -> str | None:
    """The block that a call is in, be it the site's own or the module around it that has none."""
    around = (path for path in (site.owner, *parents_of(site.owner)) if path in blocks)
    return site.block if site.block is not None else next(around, None)


def _row(path: str, cells: tuple[Cell, ...], is_block: bool, notes: Mapping[str, str]) -> Row:
    site = cells[0].site
    kind = site.block_kind if site.block is not None else site.owner_kind
    return Row(path, kind or "", cells, is_block, notes.get(path, ""))
