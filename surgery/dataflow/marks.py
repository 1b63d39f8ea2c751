"""Marks: which operation of a forward made a tensor. They are kept beside the tensors, so none outlives its forward."""

from __future__ import annotations

from weakref import ref

from torch import Tensor


class Marks:
    """Tensor -> the index of the operation that made it. Tensors are told apart by identity and not kept alive."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[ref[Tensor], int]] = {}
        self._stale: dict[int, ref[Tensor]] = {}

    def put(self, value: Tensor, op: int, *, stale: bool = False) -> None:
        """Say that the operation made this tensor. `stale`: its numbers go on under another name."""
        self._made[id(value)] = mark = (ref(value), op)
        if stale:
            self._stale[id(value)] = mark[0]

    def of(self, value: Tensor) -> int | None:
        """The operation that made it, None for what was there before or came from elsewhere."""
        mark = self._made.get(id(value))
        return mark[1] if mark is not None and mark[0]() is value else None

    def is_stale(self, value: Tensor) -> bool:
        """Whether its numbers go on under another name."""
        mark = self._stale.get(id(value))
        return mark is not None and mark() is value
