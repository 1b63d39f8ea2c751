"""Memory: which part of a storage a tensor shows, and what was written there since by whatever other tensor."""

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
    """The bytes of a storage that a strided tensor shows: `offset`, and (stride, size) of its axes, largest first."""

    offset: int
    steps: Steps

    @classmethod
    def of(cls, value: Tensor) -> Region:
        """The region of a tensor; axes that continue each other are one."""
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
        """How many bytes it has."""
        return prod(size for _, size in self.steps)

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.offset + sum(stride * (size - 1) for stride, size in self.steps) + 1

    def overlaps(self, other: Region) -> bool:
        """True unless it is certain that the two share no byte."""
        if not self.size or not other.size or self.end <= other.offset or other.end <= self.offset:
            return False
        for origin in {0, min(self.offset, other.offset)}:
            boxes = _boxes(self, other, origin)
            if boxes is not None and any(high <= start or end <= low for (low, high), (start, end) in boxes):
                return False
        return True

    def covers(self, other: Region) -> bool:
        """True if it is certain that every byte of the other is one of these."""
        if len(self.steps) == 1:
            return self.offset <= other.offset and other.end <= self.end
        for origin in {0, min(self.offset, other.offset)}:
            boxes = _boxes(self, other, origin)
            if boxes is not None and all(low <= start and end <= high for (low, high), (start, end) in boxes):
                return True
        return False


def _boxes(one: Region, two: Region, origin: int) -> list[tuple[tuple[int, int], tuple[int, int]]] | None:
    """Both regions as intervals along common strides, None where an offset or a size does not fit these."""
    strides = sorted({stride for stride, _ in (*one.steps, *two.steps)}, reverse=True)
    first, second = _intervals(one, strides, origin), _intervals(two, strides, origin)
    return list(zip(first, second, strict=True)) if first and second else None


def _intervals(region: Region, strides: list[int], origin: int) -> list[tuple[int, int]] | None:
    sizes = dict.fromkeys(strides, 1)
    for step, number in region.steps:
        stride, size = step, number
        for outer in sorted(one for one in strides if step < one < step * number):
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
            return None  # it runs over into the next row
        found.append((start, start + sizes[stride]))
        room = stride
    return found


@dataclass(frozen=True, slots=True)
class Write:
    """The operation that wrote into a region. `whole`: all of it. `place`: the module whose code did, where a part."""

    op: int
    region: Region
    whole: bool
    place: str | None
    axis_stride: int | None  # of the channels, in bytes


class Memory:
    """What was written into storages, latest last. A storage is not kept alive, but its address is."""

    def __init__(self) -> None:
        self.writes: dict[int, list[Write]] = {}
        self.addresses: dict[int, StorageWeakRef] = {}

    def write(self, value: Tensor, write: Write) -> None:
        """Note a write into the storage of `value`; what it covers is forgotten."""
        storage = value.untyped_storage()
        known = self.writes.get(storage._cdata, [])
        kept = [one for one in known if not (write.whole and write.region.covers(one.region))]
        self.writes[storage._cdata] = [*kept, write]
        self.keep(storage)

    def keep(self, storage: torch.UntypedStorage) -> None:
        """Let no other storage get the address of this one."""
        if storage._cdata not in self.addresses:
            self.addresses[storage._cdata] = StorageWeakRef(storage)

    def since(self, shown: Tensor, op: int) -> tuple[list[Write], bool]:
        """What was written after operation `op` into what a tensor shows, and whether nothing else is seen there."""
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
    """True if whole writes lie side by side and leave nothing of the region free."""
    parts = [write.region for write in writes if write.whole]
    apart = not any(one.overlaps(two) for k, one in enumerate(parts) for two in parts[:k])
    return apart and all(map(region.covers, parts)) and sum(part.size for part in parts) == region.size


def strided(value: Tensor) -> bool:
    """True for a tensor that shows a part of a storage: not a sparse one, nor one that stands for a batch of them."""
    return value.layout is torch.strided and not torch._C._functorch.is_functorch_wrapped_tensor(value)


def part_written(value: Tensor, index: object) -> Tensor | None:
    """The part of a tensor that an assignment to `value[index]` overwrites, None where it is scattered."""
    parts: Iterable[object] = index if isinstance(index, tuple) else (index,)
    plain = all(one is None or one is Ellipsis or type(one) in (int, slice) for one in parts)
    return value[index] if plain else None  # type: ignore[index]
