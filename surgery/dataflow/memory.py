"""Memory: which part of a storage a tensor covers, and what was written there since, through any tensor."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

Steps = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Region:
    """The bytes of a storage that a strided tensor covers: `offset`, and (stride, size) of its axes, largest first."""

    offset: int
    steps: Steps

    @classmethod
    def of(cls, value: Tensor) -> Region:
        """The region of a tensor; contiguous axes are merged."""
        width = value.element_size()
        axes = [(stride * width, size) for stride, size in zip(value.stride(), value.shape, strict=True)]
        axes = sorted([*((stride, size) for stride, size in axes if stride and size != 1), (1, width)], reverse=True)
        merged: list[tuple[int, int]] = []
        for stride, size in axes:
            if merged and merged[-1][0] == stride * size:
                merged[-1] = (stride, size * merged[-1][1])
            else:
                merged.append((stride, size))
        return cls(int(value.storage_offset()) * width, tuple(merged))

    @property
    def size(self) -> int:
        """The number of bytes."""
        return prod(size for _, size in self.steps)

    @property
    def end(self) -> int:
        """The first byte after it."""
        return self.offset + sum(stride * (size - 1) for stride, size in self.steps) + 1

    def overlaps(self, other: Region) -> bool:
        """False only if the two certainly have no byte in common."""
        if not self.size or not other.size or self.end <= other.offset or other.end <= self.offset:
            return False
        for origin in {0, min(self.offset, other.offset)}:
            boxes = _boxes(self, other, origin)
            if boxes is not None and any(high <= start or end <= low for (low, high), (start, end) in boxes):
                return False
        return True

    def covers(self, other: Region) -> bool:
        """True only if this region certainly contains every byte of the other."""
        if len(self.steps) == 1:
            return self.offset <= other.offset and other.end <= self.end
        for origin in {0, min(self.offset, other.offset)}:
            boxes = _boxes(self, other, origin)
            if boxes is not None and all(low <= start and end <= high for (low, high), (start, end) in boxes):
                return True
        return False


def _boxes(region: Region, other: Region, origin: int) -> list[tuple[tuple[int, int], tuple[int, int]]] | None:
    """Both regions as intervals along common strides; None where an offset or a size does not fit."""
    strides = sorted({stride for stride, _ in (*region.steps, *other.steps)}, reverse=True)
    first, second = _intervals(region, strides, origin), _intervals(other, strides, origin)
    return list(zip(first, second, strict=True)) if first and second else None


def _intervals(region: Region, strides: list[int], origin: int) -> list[tuple[int, int]] | None:
    sizes = dict.fromkeys(strides, 1)
    for step, number in region.steps:
        stride, size = step, number
        for outer in sorted(stride for stride in strides if step < stride < step * number):
            ratio, rest = divmod(outer, stride)
            if rest or size % ratio or sizes[stride] > 1:
                return None
            sizes[stride], stride, size = ratio, outer, size // ratio
        if sizes[stride] > 1:
            return None
        sizes[stride] = size
    found, left, room = [], region.offset - origin, 0
    for stride in strides:
        start, left = divmod(left, stride)
        if room and (start + sizes[stride]) * stride > room:
            return None  # it extends into the next row
        found.append((start, start + sizes[stride]))
        room = stride
    return found


@dataclass(frozen=True, slots=True)
class Write:
    """An operation that wrote into a region. `whole`: all of it. `place`: for a part, the module whose code did."""

    op: int
    region: Region
    whole: bool
    place: str | None
    axis_stride: int | None  # of the channels, in bytes


class Memory:
    """The writes into storages, latest last. A storage is not kept alive, but its address stays reserved."""

    def __init__(self) -> None:
        self.writes: dict[int, list[Write]] = {}
        self.addresses: dict[int, StorageWeakRef] = {}

    def write(self, value: Tensor, write: Write) -> None:
        """Record a write into the storage of `value`; earlier writes that it covers are dropped."""
        storage = value.untyped_storage()
        known = self.writes.get(storage._cdata, [])
        kept = [earlier for earlier in known if not (write.whole and write.region.covers(earlier.region))]
        self.writes[storage._cdata] = [*kept, write]
        self.keep(storage)

    def keep(self, storage: torch.UntypedStorage) -> None:
        """Keep the address of this storage from being reused."""
        if storage._cdata not in self.addresses:
            self.addresses[storage._cdata] = StorageWeakRef(storage)

    def since(self, shown: Tensor, op: int) -> tuple[list[Write], bool]:
        """The writes after operation `op` into the memory of a tensor, and whether they cover all of it."""
        if not self.writes or not strided(shown):
            return [], False
        writes = self.writes.get(shown.untyped_storage()._cdata, ())
        if not writes or writes[-1].op <= op:
            return [], False
        region, found = Region.of(shown), list[Write]()
        for write in reversed(writes):
            if write.op > op and write.region.overlaps(region):
                found.append(write)
                if write.whole and write.region.covers(region):
                    return found[::-1], True
        return found[::-1], _tile(found, region)


def _tile(writes: list[Write], region: Region) -> bool:
    """True if whole writes tile the region without gaps."""
    parts = [write.region for write in writes if write.whole]
    apart = not any(region.overlaps(earlier) for k, region in enumerate(parts) for earlier in parts[:k])
    return apart and all(map(region.covers, parts)) and sum(part.size for part in parts) == region.size


def strided(value: Tensor) -> bool:
    """True for a tensor that is a strided view of a storage: not a sparse one, nor a vmap batch."""
    return value.layout is torch.strided and not torch._C._functorch.is_functorch_wrapped_tensor(value)


def part_written(value: Tensor, index: object) -> Tensor | None:
    """The view of a tensor that an assignment to `value[index]` overwrites; None where it is scattered."""
    parts: Iterable[object] = index if isinstance(index, tuple) else (index,)
    plain = all(part is None or part is Ellipsis or type(part) in (int, slice) for part in parts)
    return value[index] if plain else None  # type: ignore[index]
