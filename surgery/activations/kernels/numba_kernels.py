"""Kernels for the CPU, compiled by numba: each function in one pass over x, and one more for all its gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from surgery.activations.dispatch import Kernel
from surgery.activations.kernels import numba_loops as loops
from surgery.activations.kernels import numba_piecewise as piecewise
from surgery.activations.kernels import numba_tables as tables
from surgery.activations.kernels import numba_tasks as of
from surgery.activations.kernels.numba_lanes import WIDTH
from surgery.activations.kernels.numba_loops import Array
from surgery.activations.kernels.numba_tasks import Loop, call, run

TASKS = 64  # maximum number of parts of a tensor, and so of busy threads
GRAIN = 32768  # minimum number of elements of a part
SHARE = 16  # minimum number of elements of a part per sum it accumulates


@dataclass(frozen=True)
class _Kernel:
    """A function as loops over flat arrays; its parameters go in as tables, their gradients come out as sums."""

    forward_of: Callable[[bool, type], Loop]  # by rows or by runs, and the type of x in memory
    backward_of: Callable[[bool, type, type], Loop]  # likewise, and the type of the gradient
    tables: Callable[[_Plan, tuple[Tensor, ...]], tuple[int, int, object]]  # two addresses, and what owns the memory
    sums: Callable[..., int]  # how many each channel has
    # Of parameters, from the sums (tasks, sums, width) and the parameters.
    gradients: Callable[[_Plan, Tensor, tuple[Tensor, ...]], list[Tensor]]

    def forward(self, x: Tensor, axis: int, *params: Tensor) -> Tensor:
        """The values, in dtype and layout of x."""
        out = _empty_like(x)
        if x.numel():
            flat, plan = _planned(x, out, axis, params)
            first, second, owner = self.tables(plan, params)
            fields = _fields(plan, flat, out, first, second, self.sums(*params), plan.tasks(0))
            run(self.forward_of(plan.by_rows, _kind(out)), fields, fields[of.TASKS])
            del owner
        return out if out.dtype == x.dtype else out.to(x.dtype)

    def backward(self, grad: Tensor, x: Tensor, axis: int, *params: Tensor) -> tuple[Tensor, ...]:
        """The gradients of x and of each parameter, in their shapes."""
        out = _empty_like(x)
        if not x.numel():
            return out.to(x.dtype), *(torch.zeros_like(param) for param in params)
        flat, plan = _planned(x, out, axis, params)
        if grad.stride() != out.stride() or grad.dtype not in _KINDS:
            grad = torch.empty_like(out, dtype=_inside(grad)).copy_(grad)
        first, second, owner = self.tables(plan, params)
        count = self.sums(*params)
        tasks = plan.tasks(count)
        sums = torch.zeros((tasks, count, plan.width), dtype=torch.float64, device="cpu")
        fields = _fields(plan, flat, out, first, second, count, tasks)
        fields[of.GRAD], fields[of.SUMS] = grad.data_ptr(), sums.data_ptr()
        run(self.backward_of(plan.by_rows, _kind(out), _kind(grad)), fields, tasks)
        del owner
        of_x = out if out.dtype == x.dtype else out.to(x.dtype)
        return of_x, *self.gradients(plan, sums, params)


class _Plan(NamedTuple):
    """How a dense tensor is partitioned."""

    size: int
    channels: int
    inner: int  # neighbours in memory that belong to one channel
    by_rows: bool
    width: int  # the channels, repeated until lanes divide them, if these are neighbours
    units: int  # the number of rows, or of pieces of runs

    def tasks(self, sums: int) -> int:
        """The number of parts the units are divided into, each of which accumulates this many sums per channel."""
        return max(1, min(TASKS, self.units, self.size // max(GRAIN, SHARE * sums * self.width)))


@lru_cache(maxsize=4096)
def _plan(shape: tuple[int, ...], stride: tuple[int, ...], axis: int, shared: bool) -> _Plan:
    """The partition of a tensor whose channels, on `axis`, may share their parameters."""
    size = math.prod(shape)
    channels = 1 if shared or not shape else shape[axis]
    inner = size if channels == 1 else stride[axis]
    by_rows = inner == 1 and channels > 1
    width = math.lcm(channels, WIDTH) if by_rows else channels
    units = -(-size // width) if by_rows else size // inner * -(-inner // loops.PIECE)
    return _Plan(size, channels, inner, by_rows, width, units)


def _planned(x: Tensor, out: Tensor, axis: int, params: tuple[Tensor, ...]) -> tuple[Tensor, _Plan]:
    """A dense x, and its partition; `out` is like x, and dense: where the strides differ, x was not."""
    stride = out.stride()
    if x.stride() != stride or x.dtype != out.dtype:
        x = torch.empty_like(out).copy_(x)
    shared = True
    for param in params:
        shared = shared and param.shape[-1] == 1
    return x, _plan(out.shape, stride, axis, shared)


def _fields(plan: _Plan, x: Tensor, out: Tensor, first: int, second: int, sums: int, tasks: int) -> list[int]:
    """What a loop is told."""
    fields = [0] * of.FIELDS
    fields[of.TASKS], fields[of.TABLE], fields[of.SECOND], fields[of.ROWS] = tasks, first, second, sums
    fields[of.X], fields[of.OUT], fields[of.SIZE] = x.data_ptr(), out.data_ptr(), plan.size
    fields[of.CHANNELS], fields[of.INNER], fields[of.UNITS] = plan.width, plan.inner, plan.units
    return fields


_KINDS = {torch.float32: np.float32, torch.bfloat16: np.uint16}  # types in memory; numba has no bfloat16


def _empty_like(x: Tensor) -> Tensor:
    """Room for what is like x, in the type that loops write."""
    return torch.empty_like(x) if x.dtype in _KINDS else torch.empty_like(x, dtype=torch.float32)


def _inside(x: Tensor) -> torch.dtype:
    """What the loops read and write: bfloat16 as it is, everything else as float32."""
    return torch.bfloat16 if x.dtype == torch.bfloat16 else torch.float32


def _kind(x: Tensor) -> type:
    """The type of its elements in memory."""
    return _KINDS[x.dtype]


def _rows_of(param: Tensor, channels: int) -> Array:
    """A parameter as an array (rows, channels) of float32."""
    array: Array = (param if param.dtype == torch.float32 else param.float()).numpy(force=True)
    if array.ndim != 2:
        array = array.reshape(-1, array.shape[-1])
    return array if array.shape[1] == channels else np.broadcast_to(array, (len(array), channels))


def _like(param: Tensor, found: Array) -> Tensor:
    """A gradient (rows, channels) in shape and dtype of its parameter."""
    if param.shape[-1] == 1:
        found = found.sum(-1)
    if param.dtype == torch.float32:
        return torch.from_numpy(found.reshape(param.shape).astype(np.float32))
    return torch.from_numpy(np.ascontiguousarray(found)).to(param.dtype).reshape(param.shape)


def _repeated(plan: _Plan, params: tuple[Tensor, ...]) -> list[Array]:
    """The parameters of a row, or of all channels."""
    times = plan.width // plan.channels
    arrays = [_rows_of(param, plan.channels) for param in params]
    return [np.tile(array, (1, times)) for array in arrays] if times > 1 else arrays


def _gradients_by(
    gradients: Callable[..., tuple[Array, ...]],
) -> Callable[[_Plan, Tensor, tuple[Tensor, ...]], list[Tensor]]:
    """Gradients in shape and dtype of the parameters, from those (rows, channels) of (sums, channels)."""

    def of_params(plan: _Plan, sums: Tensor, params: tuple[Tensor, ...]) -> list[Tensor]:
        each: Array = sums.numpy()
        with np.errstate(all="ignore"):  # infinities are expected
            total = each[0] if len(each) == 1 else each.sum(0)
            if plan.width > plan.channels:
                total = total.reshape(len(total), -1, plan.channels).sum(1)
            found = gradients(total, plan.channels, params)
            return [_like(param, gradient) for gradient, param in zip(found, params, strict=True)]

    return of_params


def _plain(kind: int) -> Kernel:
    """A kernel with one parameter, or two; they are read where they are, if every channel has its own."""
    count = 2 if kind in loops.OF_TWO else 1

    def tables(plan: _Plan, params: tuple[Tensor, ...]) -> tuple[int, int, object]:
        for param in params:
            if param.dtype != torch.float32 or not param.is_cpu or param.shape != (plan.width,):
                break
            if not param.is_contiguous():
                break
        else:
            return params[0].data_ptr(), params[-1].data_ptr(), params
        arrays = [np.ascontiguousarray(array) for array in _repeated(plan, params)]
        return arrays[0].ctypes.data, arrays[-1].ctypes.data, arrays

    return _Kernel(
        partial(loops.forward_of, kind),
        partial(loops.backward_of, kind),
        tables,
        lambda *params: count,
        _gradients_by(lambda sums, channels, params: tuple(sums[:, None])),
    )


def _even() -> Kernel:
    """The kernel of a piecewise linear function with equally spaced knots."""

    def told(plan: _Plan, params: tuple[Tensor, ...]) -> tuple[list[int], list[Tensor]]:
        """What the loops that convert parameters are told of them, and the tensors that they read."""
        fields, read = [0] * tables.FIELDS, []
        for place, param in enumerate(params):
            if param.dtype != torch.float32 or not param.is_cpu or not param.is_contiguous():
                param = param.to("cpu", torch.float32).contiguous()
            read.append(param)
            fields[place], fields[tables.OWN + place] = param.data_ptr(), 1 if param.shape[-1] != 1 else 0
        fields[tables.KNOTS] = len(params[0])
        fields[tables.CHANNELS], fields[tables.COLUMNS] = plan.channels, plan.width
        return fields, read

    def table(plan: _Plan, params: tuple[Tensor, ...]) -> tuple[int, int, object]:
        fields, read = told(plan, params)
        size = tables.even_size(plan.by_rows, len(params[0]), plan.width)
        made = torch.empty(size, dtype=torch.float32, device="cpu")  # whatever the defaults are
        fields[tables.TABLE] = made.data_ptr()
        call(tables.even_table_of(plan.by_rows), fields)
        return made.data_ptr(), 0, (made, read)

    def gradients(plan: _Plan, sums: Tensor, params: tuple[Tensor, ...]) -> list[Tensor]:
        fields, read = told(plan, params)
        found = [torch.empty_like(param) for param in read]
        fields[tables.SUMS], fields[tables.TASKS] = sums.data_ptr(), len(sums)
        for place, gradient in enumerate(found):
            fields[tables.GRADIENTS + place] = gradient.data_ptr()
        call(tables.even_gradients(), fields)
        return [
            gradient if param.dtype == torch.float32 else gradient.to(param.dtype)
            for gradient, param in zip(found, params, strict=True)
        ]

    return _Kernel(
        partial(piecewise.forward_of, True),
        partial(piecewise.backward_of, True),
        table,
        lambda heights, *others: 2 * (len(heights) + 1),
        gradients,
    )


def _uneven() -> Kernel:
    """The kernel of a piecewise linear function with knots at any distance."""

    def table(plan: _Plan, params: tuple[Tensor, ...]) -> tuple[int, int, object]:
        with np.errstate(all="ignore"):
            made = tables.uneven_table(plan.by_rows, *_repeated(plan, params))
        return made.ctypes.data, 0, made

    return _Kernel(
        partial(piecewise.forward_of, False),
        partial(piecewise.backward_of, False),
        table,
        lambda *params: 2 * len(params[-1]),
        _gradients_by(
            lambda sums, channels, params: tables.uneven_gradients(
                sums, *(_rows_of(param, channels) for param in params)
            )
        ),
    )


KERNELS: dict[str, Kernel] = {
    "prelu": _plain(loops.PRELU),
    "frelu": _plain(loops.FRELU),
    "smelu": _plain(loops.SMELU),
    "swish": _plain(loops.SWISH),
    "affine": _plain(loops.AFFINE),
    "pwlu": _even(),
    "npwlu": _uneven(),
}
