"""Drawing: all that a page shows of a network, as data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from surgery.dataflow.flow import tensors_in
from surgery.drawing.cells import Cell, State
from surgery.drawing.site_values import Given, SiteValues
from surgery.drawing.stages import Row, Stage, sizes_in_words
from surgery.look.example import Example
from surgery.look.site import Site, Sites


@dataclass(frozen=True, slots=True)
class Drawing:
    """The calls of a network and what becomes of them, in stages; the rules that ask for it, and notes.

    `sites` are the calls before the edit, `before_and_after` whether there is one. `shared` is how many calls an
    activation object has, where it has several.
    """

    title: str
    sites: Sites
    cells: tuple[Cell, ...]
    stages: tuple[Stage, ...]
    before_and_after: bool = False
    rules: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    shared: Mapping[Site, int] = field(default_factory=dict)
    values: SiteValues | None = None

    def with_values(self, given: Given, name: str) -> Drawing:
        """The same with values at the calls and the blocks of the network before the edit.

        Raises:
            BadValue, UnknownName: see `SiteValues.of`.
        """
        known = {str(site) for site in self.sites} | {row.path for row in self.rows}
        return replace(self, values=SiteValues.of(given, name, known | {str(block) for block in self.sites.blocks}))

    @property
    def states(self) -> Counter[State]:
        """How many calls are in each state."""
        return Counter(cell.state for cell in self.cells)

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows of all stages."""
        return tuple(row for stage in self.stages for row in stage.rows)

    @property
    def blocks(self) -> int:
        """How many blocks there are."""
        return sum(row.is_block for row in self.rows)

    @property
    def input_shape(self) -> str:
        """The shape of the input of the network: "2 x 3 x 224 x 224"; of several tensors that of each."""
        example = self.sites.example
        given = tensors_in((example.args, example.kwargs)) if isinstance(example, Example) else ()
        return ", ".join(sizes_in_words(tensor.shape) for tensor in given)
