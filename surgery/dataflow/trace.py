"""Trace: the record of one forward: its tensor operations, and the activation calls among them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from surgery.dataflow.extents import Extents
from surgery.dataflow.reach import reach

TRANSPARENT = ("shape",)  # kinds that do not count as neighbours
SCALING = ("norm", "shape", "pool", "resize", "scale")


@dataclass(slots=True)
class Op:
    """One operation. `inputs` are the operations that computed its inputs, `weights` the parameters it reads directly.

    `place` is the path of the module whose code ran it (joins and attention only). `data` says whether the result is
    more than a constant: it depends on the model's input, or on something unknown. `traced`: on the input for certain.
    `extents` say which sizes of the result depend on the example, None if unknown. `spelling` is equal for calls whose
    arguments are equal except for the values of tensors.
    """

    index: int
    kind: str
    name: str
    inputs: tuple[int, ...] = ()
    weights: tuple[str, ...] = ()
    data: bool = True
    shape: tuple[int, ...] = ()
    axis: int | None = None
    place: str | None = None
    traced: bool = False
    extents: Extents | None = None
    spelling: Hashable = None


@dataclass(slots=True)
class CallRecord:
    """One recorded activation call: what it does to which tensor, and where in the code it is."""

    op: int
    activation: str
    inplace: bool
    shape: tuple[int, ...]
    axis: int | None
    dtype: torch.dtype
    options: tuple[tuple[str, float], ...]
    overwrites: bool = False

    owner: str = ""
    owner_kind: str = ""
    method: str = ""
    callee: str = ""
    ordinal: int = 1
    iteration: int | None = None
    run: int = 1
    target: str = ""
    module: str | None = None
    by_reference: bool = False
    locked: str | None = None

    @property
    def key(self) -> tuple[str, str, str, int, int | None, int]:
        """The key of the site this call belongs to."""
        return (self.owner, self.method, self.callee, self.ordinal, self.iteration, self.run)


@dataclass(slots=True)
class Trace:
    """One forward in one mode."""

    ops: list[Op] = field(default_factory=list)
    calls: list[CallRecord] = field(default_factory=list)
    outputs: tuple[int, ...] = ()
    result: Any = None

    def consumers(self) -> list[list[int]]:
        """For every operation, the operations that read its result; reading the shape alone does not count."""
        readers: list[list[int]] = [[] for _ in self.ops]
        for op in self.ops:
            for source in op.inputs:
                if op.data or not self.ops[source].data:
                    readers[source].append(op.index)
        return readers

    def only_chosen_from(self, op: Op, readers: list[list[int]]) -> bool:
        """True if the values of a result are used for masks and indices alone."""
        kinds = {self.ops[reader].kind for reader in readers[op.index]}
        return kinds == {"choice"} and op.index not in self.outputs

    def back(self, start: int, through: Callable[[Op], bool]) -> Iterator[Op]:
        """The nearest operations before `start` that are not looked `through`, in order of discovery."""
        return self._nearest(self.ops[start].inputs, lambda place: self.ops[place].inputs, through)

    def forth(self, start: int, through: Callable[[Op], bool], readers: list[list[int]]) -> Iterator[Op]:
        """The nearest operations after `start` that are not looked `through`, in order of discovery."""
        return self._nearest(readers[start], readers.__getitem__, through)

    def _nearest(
        self, start: Iterable[int], edges: Callable[[int], Iterable[int]], through: Callable[[Op], bool]
    ) -> Iterator[Op]:
        walked = (self.ops[place] for place in reach(start, edges, lambda place: through(self.ops[place])))
        return (op for op in walked if not through(op))
