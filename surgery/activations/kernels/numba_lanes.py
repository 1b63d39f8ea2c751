"""Lanes: sixteen float32 in a register, for loops compiled by numba, which has no such type itself.

A bfloat16 in memory, which numba has neither, is an integer of 16 bits: the upper half of a float32.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any, cast

from llvmlite import ir
from llvmlite.binding import get_host_cpu_name
from numba import config, types
from numba.core import cgutils
from numba.core.codegen import get_host_cpu_features
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

WIDTH = 16
ENTRIES = 2 * WIDTH  # of a table that fits into two registers

_FLOAT, _HALF, _INT, _BIT = ir.FloatType(), ir.IntType(16), ir.IntType(32), ir.IntType(1)
_FLOATS, _HALVES, _INTS, _BITS = (ir.VectorType(kind, WIDTH) for kind in (_FLOAT, _HALF, _INT, _BIT))
_CONTRACT = ("contract",)  # a product and a sum may become one operation; nothing else may be rearranged
_features = config.CPU_FEATURES if config.CPU_FEATURES is not None else get_host_cpu_features()
WIDE = "+avx512f" in _features  # whether lanes are one register of the processor, and masks are registers, too
# Whether loops over neighbours run faster where they say what they will read: AMD's processors see it themselves, and
# take up to 1.4 times as long if they are told.
FETCHES = not (config.CPU_NAME or get_host_cpu_name()).startswith("znver")
_GATHERS = "+avx2" in _features  # whether there is an instruction for many loads


class _Register(types.Type):  # type: ignore[misc]
    """A type of numba that is one value of LLVM."""


LANES, MASK = _Register("lanes"), _Register("mask")
_SCALAR = types.float32


def _model(of: ir.Type) -> type:
    class Model(models.PrimitiveModel):  # type: ignore[misc]
        def __init__(self, manager: Any, kind: Any) -> None:
            super().__init__(manager, kind, of if kind is LANES else _BITS)

    return Model


def _emitted(code: Callable[..., Any]) -> Callable[..., Any]:
    """Let numba write the instructions that the code returns where it is called; literal numbers come as such."""
    return cast(Callable[..., Any], intrinsic(prefer_literal=True)(code))


register_model(_Register)(_model(_FLOATS))


def _each(number: float, of: ir.Type = _FLOATS) -> ir.Constant:
    return ir.Constant(of, [number] * WIDTH)


def _lanes(builder: Any, kind: Any, value: Any) -> Any:
    """The value in every lane, if it is a single one."""
    if kind is not _SCALAR:
        return value
    first = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), value, _INT(0))
    return builder.shuffle_vector(first, ir.Constant(_FLOATS, ir.Undefined), _each(0, _INTS))


def _operation(of: Callable[..., Any], result: types.Type, emit: Callable[..., Any]) -> None:
    """Let numba apply an operator of Python to lanes, or to lanes and a single number."""
    pairs = [(LANES, LANES), (LANES, _SCALAR), (_SCALAR, LANES)]

    class Template(ConcreteTemplate):  # type: ignore[misc]
        cases = tuple(signature(result, *pair) for pair in pairs)

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return emit(builder, *(_lanes(builder, kind, value) for kind, value in zip(sig.args, args, strict=True)))

    infer_global(of)(Template)
    for pair in pairs:
        lower_builtin(of, *pair)(lower)


def _comparison(symbol: str) -> Callable[..., Any]:
    return lambda builder, a, b: builder.fcmp_ordered(symbol, a, b)


_operation(operator.add, LANES, lambda builder, a, b: builder.fadd(a, b, flags=_CONTRACT))
_operation(operator.sub, LANES, lambda builder, a, b: builder.fsub(a, b, flags=_CONTRACT))
_operation(operator.mul, LANES, lambda builder, a, b: builder.fmul(a, b, flags=_CONTRACT))
_operation(operator.truediv, LANES, lambda builder, a, b: builder.fdiv(a, b))
_operation(operator.lt, MASK, _comparison("<"))
_operation(operator.gt, MASK, _comparison(">"))
_operation(operator.ge, MASK, _comparison(">="))
_operation(operator.eq, MASK, _comparison("=="))


def _call(builder: Any, name: str, result: ir.Type, *args: Any, **options: Any) -> Any:
    """Call a function that LLVM provides."""
    kinds = [arg.type for arg in args]
    function = builder.module.globals.get(name) or ir.Function(builder.module, ir.FunctionType(result, kinds), name)
    return builder.call(function, args, **options)


def _address(context: Any, builder: Any, array: Any, kind: Any, index: Any) -> Any:
    """Where an element of a one-dimensional array without gaps is."""
    return builder.gep(context.make_array(kind)(context, builder, array).data, [index])


def _as_float(builder: Any, values: Any) -> Any:
    if values.type == _FLOATS:
        return values
    return builder.bitcast(builder.shl(builder.zext(values, _INTS), _each(16, _INTS)), _FLOATS)


def _as_half(builder: Any, values: Any) -> Any:
    """Rounded to the nearest, to even in a tie; what is not a number is cut off, as rounding may make it a zero."""
    bits = builder.bitcast(values, _INTS)
    even = builder.and_(builder.lshr(bits, _each(16, _INTS)), _each(1, _INTS))
    rounded = builder.add(builder.add(bits, even), _each(0x7FFF, _INTS))
    chosen = builder.select(builder.fcmp_ordered("ord", values, values), rounded, bits)
    return builder.trunc(builder.lshr(chosen, _each(16, _INTS)), _HALVES)


def _first(builder: Any, count: Any) -> Any:
    """A mask of that many first lanes."""
    number = builder.trunc(count, _INT)
    first = builder.insert_element(ir.Constant(_INTS, ir.Undefined), number, _INT(0))
    counts = builder.shuffle_vector(first, ir.Constant(_INTS, ir.Undefined), _each(0, _INTS))
    return builder.icmp_signed("<", ir.Constant(_INTS, list(range(WIDTH))), counts)


def _kept_as(array: Any) -> tuple[ir.Type, str, int]:
    """How elements of an array lie in memory: as vector, its name in LLVM, and the bytes of each."""
    return (_HALVES, "v16i16", 2) if array.dtype == types.uint16 else (_FLOATS, "v16f32", 4)


@_emitted
def load(typing: Any, values: Any, i: Any, stop: Any) -> Any:
    """Elements from i on; lanes from `stop` on are zero."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector, name, size = _kept_as(values)
        source = _address(context, builder, args[0], values, args[1])
        left = builder.sub(args[2], args[1])
        with builder.if_else(builder.icmp_signed(">=", left, left.type(WIDTH))) as (whole, part):
            with whole:
                all_of_them = builder.load(builder.bitcast(source, vector.as_pointer()), align=size, typ=vector)
                after_whole = builder.block
            with part:
                some = _call(
                    builder, f"llvm.masked.load.{name}.p0", vector, builder.bitcast(source, vector.as_pointer()),
                    _INT(size), _first(builder, left), ir.Constant(vector, None),
                )  # fmt: skip
                after_part = builder.block
        loaded = builder.phi(vector)
        loaded.add_incoming(all_of_them, after_whole)
        loaded.add_incoming(some, after_part)
        return _as_float(builder, loaded)

    return LANES(values, types.intp, types.intp), emit


@_emitted
def store(typing: Any, values: Any, i: Any, stop: Any, lanes: Any) -> Any:
    """Write elements from i on, but not from `stop` on."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector, name, size = _kept_as(values)
        target = builder.bitcast(_address(context, builder, args[0], values, args[1]), vector.as_pointer())
        written = args[3] if vector == _FLOATS else _as_half(builder, args[3])
        left = builder.sub(args[2], args[1])
        with builder.if_else(builder.icmp_signed(">=", left, left.type(WIDTH))) as (whole, part):
            with whole:
                builder.store(written, target, align=size)
            with part:
                _call(
                    builder, f"llvm.masked.store.{name}.p0", ir.VoidType(), written, target, _INT(size),
                    _first(builder, left),
                )  # fmt: skip
        return context.get_dummy_value()

    return types.none(values, types.intp, types.intp, LANES), emit


@_emitted
def prefetch(typing: Any, values: Any, i: Any) -> Any:
    """Tell the processor that element i will be read soon, if there is one."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = builder.bitcast(_address(context, builder, args[0], values, args[1]), ir.IntType(8).as_pointer())
        _call(builder, "llvm.prefetch.p0", ir.VoidType(), place, _INT(0), _INT(3), _INT(1))
        return context.get_dummy_value()

    return types.none(values, types.intp), emit


@_emitted
def where(typing: Any, mask: Any, a: Any, b: Any) -> Any:
    """Lanes of a where the mask is set, of b elsewhere."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.select(args[0], _lanes(builder, a, args[1]), _lanes(builder, b, args[2]))

    return LANES(MASK, a, b), emit


@_emitted
def lanes(typing: Any, value: Any) -> Any:
    """A number in every lane."""
    return LANES(_SCALAR), lambda context, builder, sig, args: _lanes(builder, _SCALAR, args[0])


@_emitted
def total(typing: Any, values: Any) -> Any:
    """The sum of all lanes."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        zero = ir.Constant(_FLOAT, 0.0)
        return _call(builder, "llvm.vector.reduce.fadd.v16f32", _FLOAT, zero, args[0], fastmath=("reassoc",))

    return _SCALAR(LANES), emit


@_emitted
def add_where(
    typing: Any, group: Any, keys: Any, ones: Any, others: Any, start: Any, step: Any, count: Any, first: Any,
    sums: Any, beyond: Any,
) -> Any:  # fmt: skip
    """Add elements of two arrays to the sums of their keys, for `group` keys from `first` on, in registers.

    Lanes are columns: those at `start` of `count` rows of `step` columns. The sums of a key are a row of `sums`; those
    of the other array begin at `beyond`.
    """

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        _, a_keys, a_ones, a_others, start, step, count, first, a_sums, beyond = args

        def at(array: Any, kind: Any, index: Any) -> Any:
            return builder.bitcast(_address(context, builder, array, kind, index), _FLOATS.as_pointer())

        def loaded(place: Any) -> Any:
            return builder.load(place, align=4, typ=_FLOATS)

        number = builder.sitofp(first, _FLOAT)
        keyed = [_lanes(builder, _SCALAR, builder.fadd(number, _FLOAT(float(k)))) for k in range(group.literal_value)]
        rows = [
            builder.add(start, builder.mul(builder.add(first, first.type(k)), step)) for k in range(group.literal_value)
        ]
        places = [at(a_sums, sums, builder.add(row, more)) for more in (start.type(0), beyond) for row in rows]
        added = [cgutils.alloca_once_value(builder, loaded(place)) for place in places]
        with cgutils.for_range(builder, count) as turn:
            i = builder.add(start, builder.mul(turn.index, step))
            key, *both = (loaded(at(*array, i)) for array in ((a_keys, keys), (a_ones, ones), (a_others, others)))
            for k, wanted in enumerate(keyed):
                here = builder.fcmp_ordered("==", key, wanted)
                for value, target in zip(both, added[k :: len(keyed)], strict=True):
                    so_far = builder.load(target)
                    builder.store(builder.select(here, builder.fadd(so_far, value), so_far), target)
        for target, place in zip(added, places, strict=True):
            builder.store(builder.load(target), place, align=4)
        return context.get_dummy_value()

    sizes = [types.intp] * 4
    return types.none(group, keys, ones, others, *sizes, sums, types.intp), emit


@_emitted
def floor(typing: Any, values: Any) -> Any:
    """The largest integers not above the values."""
    return LANES(LANES), lambda context, builder, sig, args: _call(builder, "llvm.floor.v16f32", _FLOATS, args[0])


@_emitted
def power_of_two(typing: Any, shifted: Any) -> Any:
    """2^n for integers n between -126 and 127, which come in the lowest bits of `shifted`."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        bits = builder.shl(builder.bitcast(args[0], _INTS), _each(23, _INTS))
        return builder.bitcast(builder.add(bits, _each(0x3F800000, _INTS)), _FLOATS)

    return LANES(LANES), emit


@_emitted
def look_up(typing: Any, table: Any, start: Any, index: Any) -> Any:
    """Entries of the table, from `start` on, at whole numbers below ENTRIES."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        index = builder.fptosi(args[2], _INTS)
        if not WIDE:
            return _gather(context, builder, args[0], table, args[1], index)
        halves = [
            builder.load(
                builder.bitcast(_address(context, builder, args[0], table, place), _FLOATS.as_pointer()), align=4,
                typ=_FLOATS,
            )
            for place in (args[1], builder.add(args[1], args[1].type(WIDTH)))
        ]  # fmt: skip
        return _call(builder, "llvm.x86.avx512.vpermi2var.ps.512", _FLOATS, halves[0], index, halves[1])

    return LANES(table, types.intp, LANES), emit


@_emitted
def gather(typing: Any, table: Any, start: Any, index: Any) -> Any:
    """Entries of the table, from `start` on, at whole numbers."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _gather(context, builder, args[0], table, args[1], builder.fptosi(args[2], _INTS))

    return LANES(table, types.intp, LANES), emit


@_emitted
def gather_rows(typing: Any, table: Any, start: Any, size: Any, index: Any) -> Any:
    """Entries of neighbouring rows of this size: lane i looks into the i-th one."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        index = builder.add(_rows(builder, args[2]), builder.fptosi(args[3], _INTS))
        return _gather(context, builder, args[0], table, args[1], index)

    return LANES(table, types.intp, types.intp, LANES), emit


@_emitted
def gather_pairs(typing: Any, table: Any, start: Any, size: Any, index: Any) -> Any:
    """Both numbers of a pair out of neighbouring rows of this many pairs: lane i looks into the i-th one."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        index = builder.add(_rows(builder, args[2]), builder.fptosi(args[3], _INTS))
        if WIDE:
            first = _address(context, builder, args[0], table, args[1])
            half, every = ir.VectorType(ir.DoubleType(), WIDTH // 2), ir.Constant(ir.VectorType(_BIT, 8), [1] * 8)
            found = []
            for low in (0, WIDTH // 2):
                part = builder.shuffle_vector(index, index, _whole(range(low, low + WIDTH // 2)))
                pairs = _call(
                    builder, "llvm.x86.avx512.mask.gather.dpd.512", half, ir.Constant(half, None), first, part, every,
                    _INT(8),
                )  # fmt: skip
                found.append(builder.bitcast(pairs, _FLOATS))
            both = [builder.shuffle_vector(*found, _whole(range(at, 2 * WIDTH, 2))) for at in (0, 1)]
        else:
            even = builder.shl(index, _each(1, _INTS))
            both = [
                _gather(context, builder, args[0], table, args[1], builder.add(even, _each(at, _INTS))) for at in (0, 1)
            ]
        return context.make_tuple(builder, sig.return_type, both)

    return types.UniTuple(LANES, 2)(table, types.intp, types.intp, LANES), emit


def _whole(numbers: Iterable[int]) -> ir.Constant:
    numbers = list(numbers)
    return ir.Constant(ir.VectorType(_INT, len(numbers)), numbers)


def _rows(builder: Any, size: Any) -> Any:
    """Where rows of this size start, one per lane."""
    first = builder.insert_element(ir.Constant(_INTS, ir.Undefined), builder.trunc(size, _INT), _INT(0))
    sizes = builder.shuffle_vector(first, ir.Constant(_INTS, ir.Undefined), _each(0, _INTS))
    return builder.mul(sizes, _whole(range(WIDTH)))


def _gather(context: Any, builder: Any, array: Any, kind: Any, start: Any, index: Any) -> Any:
    first = _address(context, builder, array, kind, start)
    if WIDE:
        every = ir.Constant(_BITS, [1] * WIDTH)
        return _call(
            builder, "llvm.x86.avx512.mask.gather.dps.512", _FLOATS, ir.Constant(_FLOATS, None), first, index, every,
            _INT(4),
        )  # fmt: skip
    if _GATHERS:
        half, every = ir.VectorType(_FLOAT, WIDTH // 2), ir.Constant(ir.VectorType(_INT, WIDTH // 2), [-1] * 8)
        found = [
            _call(
                builder, "llvm.x86.avx2.gather.d.ps.256", half, ir.Constant(half, None), first,
                builder.shuffle_vector(index, index, _whole(range(low, low + WIDTH // 2))),
                builder.bitcast(every, half), ir.IntType(8)(4),
            )
            for low in (0, WIDTH // 2)
        ]  # fmt: skip
        return builder.shuffle_vector(*found, _whole(range(WIDTH)))
    loaded: Any = ir.Constant(_FLOATS, ir.Undefined)
    for lane in range(WIDTH):
        place = builder.gep(first, [builder.extract_element(index, _INT(lane))])
        loaded = builder.insert_element(loaded, builder.load(place), _INT(lane))
    return loaded


@_emitted
def pointer(typing: Any, address: Any) -> Any:
    """An address in memory, for `carray`."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.intp), emit


@_emitted
def take(typing: Any, counter: Any) -> Any:
    """Add one to the first element of an array of integers, and return it as it was; no two threads get the same."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = _address(context, builder, args[0], counter, ir.Constant(ir.IntType(64), 0))
        return builder.atomic_rmw("add", place, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.intp(counter), emit
