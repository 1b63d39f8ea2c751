"""Kernels for the CPU, compiled by numba: each function in one pass over x, and one more for all its gradients.

The partition of the work depends on shapes alone, so results do not depend on the number of threads, which is torch's.
We use our own thread pool, which sleeps between calls: numba's threads would compete with torch's for the CPU.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surgery.activations.dispatch import Kernel
from surgery.activations.kernels import numba_piecewise as piecewise
from surgery.activations.kernels.numba_loops import AFFINE, FRELU, PIECE, SMELU, SWISH, Array, Loops, rows, runs

TASKS = 64  # maximum number of parts of a tensor, and so of busy threads
GRAIN = 32768  # minimum number of elements of a part
SHARE = 16  # minimum number of elements of a part per sum it accumulates


@dataclass(frozen=True)
class _Kernel:
    """A function as loops over flat arrays; its parameters go in as one table, their gradients come out as sums."""

    runs: Callable[[], Loops]
    rows: Callable[[], Loops]
    table: Callable[..., Array]  # of parameters (rows, channels)
    sums: Callable[..., int]  # how many each channel has
    gradients: Callable[..., tuple[Array, ...]]  # of parameters, from the sums (sums, channels) and the parameters

    def forward(self, x: Tensor, axis: int, *params: Tensor) -> Tensor:
        """The values, in dtype and layout of x."""
        out = torch.empty_like(x, dtype=_inside(x))
        if x.numel():
            job = _Job.of(x, out, axis, params)
            loop = (self.rows if job.by_rows else self.runs)().forward
            tasks = job.tasks(0)
            job.run(loop, tasks, _flat(job.x), _flat(out), self._table(job), *job.cut, tasks)
        return out.to(x.dtype)

    def backward(self, grad: Tensor, x: Tensor, axis: int, *params: Tensor) -> tuple[Tensor, ...]:
        """The gradients of x and of each parameter, in their shapes."""
        out = torch.empty_like(x, dtype=_inside(x))
        if not x.numel():
            return out.to(x.dtype), *(torch.zeros_like(param) for param in params)
        job = _Job.of(x, out, axis, params)
        if grad.stride() != out.stride() or grad.dtype != _inside(grad):
            grad = torch.empty_like(out, dtype=_inside(grad)).copy_(grad)
        loop = (self.rows if job.by_rows else self.runs)().backward
        count = self.sums(*job.params)
        tasks = job.tasks(count)
        sums = np.zeros((tasks, count, job.channels))
        job.run(loop, tasks, _flat(grad), _flat(job.x), _flat(out), self._table(job), *job.cut, sums)
        with np.errstate(all="ignore"):  # infinities are expected
            found = self.gradients(sums.sum(0), *job.params)
        return out.to(x.dtype), *(_like(param, gradient) for gradient, param in zip(found, params, strict=True))

    def _table(self, job: _Job) -> Array:
        with np.errstate(all="ignore"):
            return self.table(*job.params)


@dataclass(frozen=True)
class _Job:
    """A dense x, its parameters (rows, channels) in float32, and its partition."""

    x: Tensor
    params: tuple[Array, ...]
    channels: int
    inner: int  # neighbours in memory that belong to one channel

    @classmethod
    def of(cls, x: Tensor, out: Tensor, axis: int, params: tuple[Tensor, ...]) -> _Job:
        """`out` is like x, and dense: where the strides differ, x was not."""
        if x.stride() != out.stride() or x.dtype != out.dtype:
            x = torch.empty_like(out).copy_(x)
        shared = not x.dim() or all(param.shape[-1] == 1 for param in params)
        channels = 1 if shared else x.shape[axis]
        inner = x.numel() if channels == 1 else x.stride(axis)
        return cls(x, tuple(_rows_of(param, channels) for param in params), channels, inner)

    @property
    def by_rows(self) -> bool:
        return self.inner == 1 and self.channels > 1

    @property
    def cut(self) -> tuple[int, int, int]:
        """Channels, inner, and the number of units: rows, or pieces of runs."""
        if self.by_rows:
            return self.channels, self.inner, self.x.numel() // self.channels
        return self.channels, self.inner, self.x.numel() // self.inner * -(-self.inner // PIECE)

    def tasks(self, sums: int) -> int:
        """The number of parts the units are divided into, each of which accumulates this many sums per channel."""
        size = self.x.numel()
        return max(1, min(TASKS, self.cut[2], size // max(GRAIN, SHARE * sums * self.channels)))

    def run(self, loop: Callable[..., None], tasks: int, *arguments: Any) -> None:
        """Run the tasks on as many threads as torch may use."""
        threads = min(torch.get_num_threads(), tasks)
        if threads == 1:
            loop(*arguments, 0, tasks)
            return
        cuts = [number * tasks // threads for number in range(threads + 1)]
        others = [_pool(threads - 1).submit(loop, *arguments, *cuts[at : at + 2]) for at in range(1, threads)]
        loop(*arguments, *cuts[:2])
        for other in others:
            other.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "activations")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not survive a fork


def _inside(x: Tensor) -> torch.dtype:
    """What the loops read and write: bfloat16 as it is, everything else as float32."""
    return torch.bfloat16 if x.dtype == torch.bfloat16 else torch.float32


def _flat(x: Tensor) -> Array:
    """The memory of a dense tensor; numba has no bfloat16, so that one comes as integers."""
    flat = x.detach().as_strided((x.numel(),), (1,))
    array: Array = (flat.view(torch.uint16) if x.dtype == torch.bfloat16 else flat).numpy()
    return array


def _rows_of(param: Tensor, channels: int) -> Array:
    """A parameter as an array (rows, channels) of float32."""
    param = param.detach()
    array: Array = (param if param.dtype == torch.float32 else param.float()).numpy()
    array = array.reshape(-1, array.shape[-1])
    return array if array.shape[1] == channels else np.broadcast_to(array, (len(array), channels))


def _like(param: Tensor, found: Array) -> Tensor:
    """A gradient (rows, channels) in shape and dtype of its parameter."""
    if param.shape[-1] == 1:
        found = found.sum(-1)
    return torch.from_numpy(np.ascontiguousarray(found)).to(param.dtype).reshape(param.shape)


def _of_two(kind: int, table: Callable[..., tuple[Array, Array]], learned: slice) -> Kernel:
    """A kernel with up to two parameters, of which these are learned."""
    return _Kernel(
        lambda: runs(kind),
        lambda: rows(kind),
        lambda *params: np.concatenate(table(*params)),
        lambda *params: 2,
        lambda sums, *params: tuple(sums[learned, None]),
    )


KERNELS: dict[str, Kernel] = {
    "prelu": _of_two(FRELU, lambda negative: (np.ones_like(negative), negative), slice(1, 2)),
    "frelu": _of_two(FRELU, lambda positive, negative: (positive, negative), slice(0, 2)),
    "smelu": _of_two(SMELU, lambda beta: (beta, beta), slice(0, 1)),
    "swish": _of_two(SWISH, lambda beta: (beta, beta), slice(0, 1)),
    "affine": _of_two(AFFINE, lambda weight, bias: (weight, bias), slice(0, 2)),
    "pwlu": _Kernel(
        lambda: piecewise.RUNS,
        lambda: piecewise.ROWWISE,
        piecewise.table_of,
        lambda heights, *others: 2 * (len(heights) + 1),
        piecewise.gradients_of,
    ),
}
