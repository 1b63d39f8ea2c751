"""Kernels for the CPU, compiled by numba: each function in one pass over x, and one more for all its gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import lcm
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
from surgery.activations.kernels.numba_tasks import Loop, run

TASKS = 64  # maximum number of parts of a tensor, and so of busy threads
GRAIN = 32768  # minimum number of elements of a part
SHARE = 16  # minimum number of elements of a part per sum it accumulates


@dataclass(frozen=True)
class _Kernel:
    """A function as loops over flat arrays; its parameters go in as one table, their gradients come out as sums."""

    forward_of: Callable[[bool, type], Loop]  # by rows or by runs, and the type of x in memory
    backward_of: Callable[[bool, type, type], Loop]  # likewise, and the type of the gradient
    table: Callable[..., Array]  # by rows or by runs, from parameters (rows, channels)
    sums: Callable[..., int]  # how many each channel has
    gradients: Callable[..., tuple[Array, ...]]  # of parameters, from the sums (sums, channels) and the parameters

    def forward(self, x: Tensor, axis: int, *params: Tensor) -> Tensor:
        """The values, in dtype and layout of x."""
        out = torch.empty_like(x, dtype=_inside(x))
        if x.numel():
            job = _Job.of(x, out, axis, params)
            table, tasks = self._table(job), job.tasks(0)
            fields = job.fields(tasks, table, self.sums(*job.params), out)
            run(self.forward_of(job.by_rows, _kind(job.x)), fields, tasks)
        return out if out.dtype == x.dtype else out.to(x.dtype)

    def backward(self, grad: Tensor, x: Tensor, axis: int, *params: Tensor) -> tuple[Tensor, ...]:
        """The gradients of x and of each parameter, in their shapes."""
        out = torch.empty_like(x, dtype=_inside(x))
        if not x.numel():
            return out.to(x.dtype), *(torch.zeros_like(param) for param in params)
        job = _Job.of(x, out, axis, params)
        if grad.stride() != out.stride() or grad.dtype != _inside(grad):
            grad = torch.empty_like(out, dtype=_inside(grad)).copy_(grad)
        table, count = self._table(job), self.sums(*job.params)
        tasks = job.tasks(count)
        sums = np.zeros((tasks, count, job.width))
        fields = job.fields(tasks, table, count, out)
        fields[of.GRAD], fields[of.SUMS] = grad.data_ptr(), sums.ctypes.data
        run(self.backward_of(job.by_rows, _kind(job.x), _kind(grad)), fields, tasks)
        with np.errstate(all="ignore"):  # infinities are expected
            total = sums[0] if tasks == 1 else sums.sum(0)
            if job.width > job.channels:
                total = total.reshape(count, -1, job.channels).sum(1)
            found = self.gradients(total, *job.params)
        of_x = out if out.dtype == x.dtype else out.to(x.dtype)
        return of_x, *(_like(param, gradient) for gradient, param in zip(found, params, strict=True))

    def _table(self, job: _Job) -> Array:
        with np.errstate(all="ignore"):
            return self.table(job.by_rows, *job.repeated)


class _Job(NamedTuple):
    """A dense x, its parameters (rows, channels) in float32, and its partition."""

    x: Tensor
    params: tuple[Array, ...]
    channels: int
    inner: int  # neighbours in memory that belong to one channel
    by_rows: bool
    width: int  # the channels, repeated until lanes divide them, if these are neighbours
    units: int  # the number of rows, or of pieces of runs

    @classmethod
    def of(cls, x: Tensor, out: Tensor, axis: int, params: tuple[Tensor, ...]) -> _Job:
        """`out` is like x, and dense: where the strides differ, x was not."""
        if x.stride() != out.stride() or x.dtype != out.dtype:
            x = torch.empty_like(out).copy_(x)
        shared = not x.dim() or all(param.shape[-1] == 1 for param in params)
        channels = 1 if shared else x.shape[axis]
        size = x.numel()
        inner = size if channels == 1 else x.stride(axis)
        by_rows = inner == 1 and channels > 1
        width = lcm(channels, WIDTH) if by_rows else channels
        units = -(-size // width) if by_rows else size // inner * -(-inner // loops.PIECE)
        return cls(x, tuple([_rows_of(param, channels) for param in params]), channels, inner, by_rows, width, units)

    @property
    def repeated(self) -> list[Array]:
        """The parameters of a row."""
        times = self.width // self.channels
        return [np.tile(param, (1, times)) for param in self.params] if times > 1 else list(self.params)

    def tasks(self, sums: int) -> int:
        """The number of parts the units are divided into, each of which accumulates this many sums per channel."""
        return max(1, min(TASKS, self.units, self.x.numel() // max(GRAIN, SHARE * sums * self.width)))

    def fields(self, tasks: int, table: Array, sums: int, out: Tensor) -> list[int]:
        """What a loop is told."""
        fields = [0] * of.FIELDS
        fields[of.TASKS], fields[of.TABLE], fields[of.ROWS] = tasks, table.ctypes.data, sums
        fields[of.X], fields[of.OUT], fields[of.SIZE] = self.x.data_ptr(), out.data_ptr(), self.x.numel()
        fields[of.CHANNELS], fields[of.INNER], fields[of.UNITS] = self.width, self.inner, self.units
        return fields


def _inside(x: Tensor) -> torch.dtype:
    """What the loops read and write: bfloat16 as it is, everything else as float32."""
    return torch.bfloat16 if x.dtype == torch.bfloat16 else torch.float32


def _kind(x: Tensor) -> type:
    """The type of its elements in memory; numba has no bfloat16."""
    return np.uint16 if x.dtype == torch.bfloat16 else np.float32


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


def _plain(kind: int, table: Callable[..., tuple[Array, ...]]) -> Kernel:
    """A kernel with up to two parameters."""
    count = 2 if kind in loops.OF_TWO else 1
    return _Kernel(
        partial(loops.forward_of, kind),
        partial(loops.backward_of, kind),
        lambda by_rows, *params: np.concatenate(table(*params)),
        lambda *params: count,
        lambda sums, *params: tuple(sums[:, None]),
    )


def _piecewise(even: bool, table: Callable[..., Array], gradients: Callable[..., tuple[Array, ...]]) -> Kernel:
    """A kernel of a piecewise linear function."""
    return _Kernel(
        partial(piecewise.forward_of, even),
        partial(piecewise.backward_of, even),
        table,
        (lambda heights, *others: 2 * (len(heights) + 1)) if even else (lambda *params: 2 * len(params[-1])),
        gradients,
    )


KERNELS: dict[str, Kernel] = {
    "prelu": _plain(loops.PRELU, lambda negative: (negative, negative)),
    "frelu": _plain(loops.FRELU, lambda positive, negative: (positive, negative)),
    "smelu": _plain(loops.SMELU, lambda beta: (beta, beta)),
    "swish": _plain(loops.SWISH, lambda beta: (beta, beta)),
    "affine": _plain(loops.AFFINE, lambda weight, bias: (weight, bias)),
    "pwlu": _piecewise(True, tables.even_table, tables.even_gradients),
    "npwlu": _piecewise(False, tables.uneven_table, tables.uneven_gradients),
}
