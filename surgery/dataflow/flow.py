"""Flow: which operations computed the values of a tensor, through whichever tensor object they were written."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from surgery.dataflow.channel_axis import channel_axis
from surgery.dataflow.extents import Operand, extents_after
from surgery.dataflow.marks import Marks
from surgery.dataflow.memory import Memory, Region, Write, part_written, strided
from surgery.dataflow.operations import ARRIVING, LEAVING, how_written, written_by
from surgery.dataflow.trace import CallRecord, Op, Trace
from surgery.isolation.held_tensors import held_by_code, held_by_modules

_REARRANGED = ("shape", "scale", "resize")  # concatenating parts of one tensor is not a join
_CHOICES = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_PLAIN = (bool, int, str, type(None), type(...), torch.dtype, torch.device, torch.layout, torch.memory_format)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a torch function: its arguments, the tensors among them, and the versions of their memory before."""

    kind: str
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    sources: list[Tensor]
    shape: tuple[int, ...]  # of the first source
    versions: list[int]

    @classmethod
    def of(cls, kind: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """Record the call before it is made."""
        sources = list(tensors_in((args, kwargs)))
        shape = tuple(sources[0].shape) if sources else ()
        return cls(kind, name, args, kwargs, sources, shape, [_version(value) for value in sources])

    def written(self, result: Any) -> list[Tensor]:
        """The tensors the call overwrote: by its name, else by version; statistics of norms do not count as data."""
        named = written_by(self.name, self.args, self.kwargs)
        if named or self.kind == "norm":
            return named
        if self.kind == "activation" and self.sources and result is self.sources[0]:
            return self.sources[:1]
        changed = zip(self.sources, self.versions, strict=True)
        return [value for value, before in changed if _version(value) != before]


class Flow:
    """Records the operations of a trace, and knows for every tensor which of them computed its values.

    The values of a tensor come from the operation that returned it, and from later overlapping writes into its memory,
    through a view of it or through its base.
    """

    def __init__(self, model: nn.Module, trace: Trace, place_of: Callable[[FrameType], str | None]) -> None:
        self.trace, self.place_of = trace, place_of
        self.marks = Marks()  # tensor -> the operation that returned it
        self.memory = Memory()
        self.lost: dict[
            int, list[tuple[CallRecord, Region]]
        ] = {}  # memory -> calls that overwrote values that may be read later
        self.left = False  # values have passed to Python, and may come back
        self.joined: dict[tuple[Any, ...], int] = {}
        self.weights: dict[int, str] = {}
        named = [*model.named_parameters(), *model.named_buffers()]
        for path, tensor in named:
            self.weights.setdefault(id(tensor), path)
        attributes = list(held_by_modules(model.modules()))
        self.constants = {id(value) for value in attributes}
        self.held = [
            tensor for _, tensor in named
        ] + attributes  # kept alive, so that ids stay unique if forward replaces one
        self.read: dict[int, Any] = {}  # code, namespaces and values already searched for constants, by id
        trace.ops.append(Op(0, "input", "input", traced=True))

    def enter(self, values: Iterable[Tensor]) -> None:
        """Mark these tensors as the model's input."""
        for value in values:
            self.mark(value, 0)

    def mark(self, value: Tensor, op: int) -> None:
        """Record that operation number `op` returned this tensor."""
        self.marks.put(value, op)

    def lose(self, value: Tensor, record: CallRecord) -> None:
        """Record that an activation overwrote its input: whoever reads that tensor later needs the old values."""
        self.marks.put(value, record.op, stale=True)
        storage = value.untyped_storage()
        self.memory.keep(storage)
        self.lost.setdefault(storage._cdata, []).append((record, Region.of(value)))

    def note(self, call: Call, result: Any, frame: FrameType) -> Op | None:
        """Record a call that was made: the operation, and what it wrote. None if it computed no tensor."""
        made = [value for value in tensors_in(result) if id(value) not in self.weights]
        written = call.written(result)
        if not made and not written:
            if call.name in LEAVING and call.sources:
                self._leave(call, frame)
            return None
        how = how_written(call.name, call.kwargs) if written else "all"
        kept = call.sources
        if how != "all":  # what is overwritten entirely is not a source
            kept = [value for value in kept if not any(value is overwritten for overwritten in written)]
        shown = made[0] if made else written[0]
        part = part_written(call.args[0], call.args[1]) if call.name == "__setitem__" else None
        op = self._write(call, kept, shown if part is None else part, frame)
        for value in made:
            self.mark(value, op.index)
        self._choose(op, call, made)
        for value in written:
            target = value if part is None else part
            self._overwrite(target, op, frame, whole=part is not None or how != "rest")
        return op

    def source(
        self, value: Tensor, frame: FrameType | None = None, shown: Tensor | None = None
    ) -> tuple[int | None, str | None]:
        """The operation that computed the values of a tensor, or of its view `shown`; and its path if it is a weight.

        Both are None for a constant.
        """
        shown = value if shown is None else shown
        made, path = self.marks.of(value), self.weights.get(id(value))
        self._mark_overwritten(value, made, shown)
        writes, whole = self.memory.since(shown, -1 if made is None else made)
        if made is None and path is None and not whole and not self._constant(value, frame):
            made = self._unknown("", tuple(value.shape)).index
            self.mark(value, made)
        if not writes:
            return made, path
        before = [made] if made is not None and not whole else []
        return self._joined(shown, before, writes), None if whole else path

    def _write(self, call: Call, sources: list[Tensor], made: Tensor, frame: FrameType) -> Op:
        """Append the operation that computed `made` from `sources`."""
        kind, name, ops = call.kind, call.name, self.trace.ops
        inputs, weights, operands, unnamed = [], [], list[Operand](), False
        for value in sources:
            source, path = self.source(value, frame, shown=_view(made, value))
            inputs += [source] if source is not None else []
            weights += [path] if path is not None else []
            unnamed |= source is None and path is None
            maker = ops[source] if source is not None and ops[source].data else None
            extents = maker.extents if maker else None
            operands.append(Operand(tuple(value.shape), maker is not None, path is not None, extents))
        if not sources and self.left and name in ARRIVING:
            return self._unknown(name, tuple(made.shape))
        data = [source for source in inputs if ops[source].data]
        if name.startswith(("new_", "empty", "zeros", "ones", "rand", "full")) or name.endswith("_like"):
            data = []
        if kind in ("add", "mul") and len(data) < 2:
            kind = "scale"
        elif kind == "matmul" and len(data) < 2:
            kind = "linear"
        elif kind == "concat" and len(data) < len(sources):
            kind = "shape"  # prepending a class token is not a join; a list of one still is
        elif kind == "paste":
            values = [source for source in data if ops[source].kind != "choice"]
            kind = "concat" if len(values) > 1 else "shape"
        after = tuple(made.shape)
        first = ops[data[0]] if data else None
        before = (first.shape or call.shape) if first else ()
        axis = channel_axis(kind, name, call.args, call.kwargs, before, first.axis, after) if first else None
        op = Op(len(ops), kind, name, tuple(inputs), tuple(weights), bool(data), after, axis)
        op.traced = any(ops[source].traced for source in data)
        # Constants that a model holds outside of its buffers have no names that could distinguish them.
        op.spelling = object() if unnamed else spelt((call.args, call.kwargs))
        op.extents = extents_after(kind, name, call.args, call.kwargs, operands, axis, after) if data else None
        if kind in ("add", "concat", "attention", "softmax") and made.dtype not in _CHOICES:
            op.place = self.place_of(frame)
        ops.append(op)
        return op

    def _mark_overwritten(self, value: Tensor, made: int | None, shown: Tensor) -> None:
        """Mark the calls that overwrote this tensor, if it is read as anything but their result."""
        if not self.lost or not strided(value):
            return
        for record, region in self.lost.get(value.untyped_storage()._cdata, ()):
            older = made is None or made < record.op or self.marks.is_stale(value)
            if older and not record.overwrites and region.overlaps(Region.of(shown)):
                record.overwrites = True

    def _overwrite(self, value: Tensor, op: Op, frame: FrameType, *, whole: bool) -> None:
        """Record that operation `op` wrote into the memory of a tensor; `whole`: into all of it."""
        if not strided(value):
            return
        storage = value.untyped_storage()
        if not op.data and storage._cdata not in self.memory.writes and self.marks.of(value) is None:
            return  # a constant replaces a constant
        region = Region.of(value)
        part = not whole or region.size < storage.nbytes()
        stride = value.stride(op.axis) * value.element_size() if op.axis is not None and value.dim() > op.axis else None
        place = self.place_of(frame) if part else None
        self.memory.write(value, Write(op.index, region, whole, place, stride))

    def _joined(self, value: Tensor, before: list[int], writes: list[Write]) -> int:
        """One operation that represents several that wrote into different parts of a tensor, in memory order."""
        ordered = sorted(writes, key=lambda write: write.region.offset)
        parts = tuple(dict.fromkeys([*before, *(write.op for write in ordered)]))
        if len(parts) == 1:
            return parts[0]
        key = (parts, tuple(value.shape), tuple(value.stride()))
        if key not in self.joined:
            ops = self.trace.ops
            data = [part for part in parts if ops[part].data]
            roots = {root for part in data for root in self._roots(part)}
            kind = "concat" if len(roots) > 1 else "shape"
            op = Op(len(ops), kind, "write", parts, (), bool(data), tuple(value.shape), _axis(value, writes))
            op.traced = any(ops[part].traced for part in parts)
            op.place = writes[-1].place if kind == "concat" and value.dtype not in _CHOICES else None
            ops.append(op)
            self.joined[key] = op.index
        return self.joined[key]

    def _roots(self, start: int) -> list[int]:
        op = self.trace.ops[start]
        if op.kind not in _REARRANGED:
            return [start]
        return [op.index for op in self.trace.back(start, lambda op: op.kind in _REARRANGED) if op.data]

    def _choose(self, op: Op, call: Call, made: list[Tensor]) -> None:
        """Masks and indices computed from values are an operation of kind "choice", even if values come with them."""
        chosen = [value for value in made if value.dtype in _CHOICES]
        if not chosen or not op.data or not any(value.is_floating_point() for value in call.sources):
            return
        if len(chosen) == len(made):
            op.kind, op.axis = "choice", None
            return
        choice = Op(len(self.trace.ops), "choice", op.name, (op.index,), (), True, tuple(chosen[0].shape))
        choice.traced = op.traced
        self.trace.ops.append(choice)
        for value in chosen:
            self.mark(value, choice.index)

    def _leave(self, call: Call, frame: FrameType) -> None:
        """Record that values pass to Python, where their consumers are unknown."""
        source, _ = self.source(call.sources[0], frame)
        if source is not None and self.trace.ops[source].data:
            self.left = True
            op = Op(len(self.trace.ops), "unknown", call.name, (source,), traced=self.trace.ops[source].traced)
            self.trace.ops.append(op)

    def _unknown(self, name: str, shape: tuple[int, ...]) -> Op:
        """A tensor of unknown origin, which may depend on the model's input."""
        op = Op(len(self.trace.ops), "unknown", name, shape=shape)
        self.trace.ops.append(op)
        return op

    def _constant(self, value: Tensor, frame: FrameType | None) -> bool:
        """True if an unmarked tensor existed before: held by a module, a class, a closure or a global."""
        if id(value) not in self.constants:
            found = list(held_by_code(frame, self.read))
            self.constants.update(map(id, found))
            self.held += found
        return id(value) in self.constants


def _view(made: Tensor, value: Tensor) -> Tensor | None:
    """The result of an operation if it is a view of its source, else None."""
    if made is value or not strided(made) or not strided(value):
        return None
    return made if made.untyped_storage()._cdata == value.untyped_storage()._cdata else None


def _axis(value: Tensor, writes: list[Write]) -> int | None:
    """The channel axis of a tensor according to the writes into it: the axis with the same stride."""
    strides = {write.axis_stride for write in writes}
    width = value.element_size()
    found = [axis for axis, stride in enumerate(value.stride()) if stride * width in strides and value.shape[axis] > 1]
    return found[0] if len(found) == 1 else None


def _version(value: Tensor) -> int:
    return 0 if value.is_inference() else value._version


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists and dicts, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from tensors_in(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from tensors_in(part)
    elif is_dataclass(value) and not isinstance(value, type):
        for part in fields(value):
            yield from tensors_in(getattr(value, part.name))


def spelt(value: Any) -> Hashable:
    """What is equal for arguments that differ in the numbers of tensors at most. Unknown objects equal nothing."""
    if isinstance(value, Tensor):
        return Tensor
    if isinstance(value, tuple | list):
        return (type(value), *map(spelt, value))
    if isinstance(value, dict):
        return tuple((key, spelt(part)) for key, part in value.items())
    if isinstance(value, slice):
        return (slice, spelt(value.start), spelt(value.stop), spelt(value.step))
    kind = type(value)
    if kind in (float, complex):
        return repr(value)  # NaN is like NaN
    return (kind.__name__, value) if kind in _PLAIN else object()
