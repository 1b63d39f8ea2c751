"""Marks: which operation of a forward returned a tensor, stored outside the tensors and discarded after the forward."""

from __future__ import annotations

from weakref import ref

from torch import Tensor


class Marks:
    """Tensor -> the index of the operation that returned it. Tensors are compared by identity and not kept alive."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[ref[Tensor], int]] = {}
        self._stale: dict[int, ref[Tensor]] = {}

    def put(self, value: Tensor, op: int, *, stale: bool = False) -> None:
        """Record the operation of this tensor. `stale`: its values continue in another tensor."""
        self._made[id(value)] = mark = (ref(value), op)
        if stale:
            self._stale[id(value)] = mark[0]

    def of(self, value: Tensor) -> int | None:
        """The operation that returned it; None for a tensor that existed before or has an unknown origin."""
        mark = self._made.get(id(value))
        return mark[1] if mark is not None and mark[0]() is value else None

    def is_stale(self, value: Tensor) -> bool:
        """Whether its values continue in another tensor."""
        mark = self._stale.get(id(value))
        return mark is not None and mark() is value
