"""Kernels for CUDA in Triton: each function in one pass over x, and one more for all its gradients.

Each function is also an operator, `torch.ops.surgery.<name>(x, axis, *parameters)`, with its own gradient. The
compiler inlines it down to the kernel, an export keeps it as one call; on a CPU it is the closed form.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import triton
from torch import Tensor
from torch.library import triton_op, wrap_triton

from surgery.activations.dispatch import Function, Kernel, gradients_of, value_of
from surgery.activations.functions.affine import AFFINE
from surgery.activations.functions.piecewise import PWLU, apart
from surgery.activations.functions.prelu import FRELU, PRELU
from surgery.activations.functions.smelu import SMELU
from surgery.activations.functions.swish import SWISH
from surgery.activations.kernels.triton_code import lines_backward, lines_forward, pwlu_backward, pwlu_forward

FUNCTIONS = {function.name: function for function in (FRELU, PRELU, PWLU, SMELU, SWISH, AFFINE)}
INTERVALS = 64  # maximum for a PWLU kernel

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_THREADS = 128  # of a program
# Programs in a launch: some per processor of any GPU. It does not depend on the GPU, so that sums do not either.
_PROGRAMS = {"forward": 8192, "backward": 1024}
_OPTIONS = {"num_warps": _THREADS // 32, "enable_fp_fusion": True}  # the compiler's
_WIDE = 2**30  # number of elements from which offsets need 64 bits, with room for the edges of tiles


@dataclass(frozen=True)
class _Tile:
    """How many numbers a program works on at a time: within planes, within rows; and how many channels in these."""

    planes: int
    rows: int
    channels: int


@dataclass(frozen=True)
class _Plan:
    """How a tensor, (outer, channels, inner) in memory, is dealt out to programs: the last arguments of a kernel."""

    grid: tuple[int, int]
    sizes: tuple[int, ...]  # outer, channels, vectors of neighbours, tiles, tiles per program
    constants: dict[str, Any]


def _tile(name: str, direction: str, x: Tensor, params: Sequence[Tensor]) -> _Tile:
    """Chosen by the registers that compiled kernels take: 16 bytes of x twice per thread, or 64 sums of a PWLU."""
    if name != "pwlu":
        size = _THREADS * 32 // x.element_size()
        return _Tile(size, size, 64)
    if direction == "forward":
        return _Tile(4 * _THREADS, 4 * _THREADS, 32)
    knots = _intervals(params)["KNOTS"]
    return _Tile(_THREADS * min(8, max(1, 64 // knots)), _THREADS * min(4, max(1, 32 // knots)), 32)


def _plan(memory: tuple[int, int, int], itemsize: int, tile: _Tile, programs: int) -> _Plan:
    outer, channels, inner = memory
    planes = bool(channels == 1 or inner != 1)
    width, size = (inner, tile.planes) if planes else (channels, tile.rows)
    vector = next(elements for elements in (8, 4, 2, 1) if elements * itemsize <= 16 and width % elements == 0)
    lanes = _lanes(outer, width, size, size if planes else tile.channels)
    rows = size // lanes
    groups = channels if planes else _ceil(width, lanes)
    tiles = _ceil(outer, rows) * (_ceil(width, lanes) if planes else 1)
    share = _ceil(tiles, max(1, programs // groups))
    wide = bool(outer * channels * inner > _WIDE)
    return _Plan(
        (groups, _ceil(tiles, share)),
        (outer, channels, width // vector, tiles, share),
        {"V": vector, "R": rows, "L": lanes, "PLANES": planes, "WIDE": wide},
    )


def _lanes(outer: int, width: int, tile: int, most: int) -> int:
    """Neighbours in a tile: as many as leave the fewest idle, while there are rows enough to fill the tile."""
    powers = [1 << exponent for exponent in range(12)]
    sizes = [size for size in powers if min(32, width) <= size <= most and tile // size < 2 * outer]
    return min(sizes or [most], key=lambda size: (_ceil(width, size) * size, -size))


def _ceil(number: int, size: int) -> int:
    return -(-number // size)


def _intervals(params: Sequence[Tensor]) -> dict[str, int]:
    number = params[0].shape[0] - 1
    return {"N": number, "KNOTS": triton.next_power_of_2(number)}


def _rows(param: Tensor) -> int:
    return prod(param.shape[:-1])


def _dense(x: Tensor, like: Tensor) -> Tensor:
    """x in dtype and layout of another tensor of its shape, one without gaps."""
    return x if x.stride() == like.stride() and x.dtype == like.dtype else torch.empty_like(like).copy_(x)


def _memory(x: Tensor, axis: int, params: Sequence[Tensor]) -> tuple[int, int, int]:
    """Dense x as (outer, channels, inner) in the order of its memory; all is one channel where all share."""
    if not x.dim() or x.shape[axis] == 1 or all(param.shape[-1] == 1 for param in params):
        return 1, 1, x.numel()
    channels, inner = x.shape[axis], x.stride(axis)
    return x.numel() // (channels * inner), channels, inner


def _is_plain(x: Tensor) -> bool:
    """Whether it is a real tensor, not one used for tracing."""
    return type(x) is Tensor or type(x) is torch.nn.Parameter


def _forward(name: str, x: Tensor, axis: int, params: Sequence[Tensor]) -> Tensor:
    """Values by a kernel."""
    params = _settled(name, params)
    y = torch.empty_like(x)
    if x.numel() == 0:
        return y
    x = _dense(x, y)
    memory = _memory(x, axis, params)
    params = [param.expand(*param.shape[:-1], memory[1]).contiguous() for param in params]
    plan = _plan(memory, x.element_size(), _tile(name, "forward", x, params), _PROGRAMS["forward"])
    if name == "pwlu":
        kernel = pwlu_forward if _is_plain(x) else wrap_triton(pwlu_forward)
        _launch(kernel, plan, x, (x, y, *params), _intervals(params))
    else:
        kernel = lines_forward if _is_plain(x) else wrap_triton(lines_forward)
        _launch(kernel, plan, x, (x, y, params[0], params[-1]), {"KIND": name})
    return y


def _backward(name: str, grad: Tensor, x: Tensor, axis: int, params: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The gradient of x by a kernel, and a table of those of the parameters, one after the other: (rows, channels)."""
    params = _settled(name, params)
    of_x = torch.empty_like(x)
    grad, x = _dense(grad, of_x), _dense(x, of_x)
    rows = sum(_rows(param) for param in params)
    if x.numel() == 0:
        return of_x, x.new_zeros(rows, max(param.shape[-1] for param in params), dtype=torch.float32)
    memory = _memory(x, axis, params)
    params = [param.expand(*param.shape[:-1], memory[1]).contiguous() for param in params]
    plan = _plan(memory, x.element_size(), _tile(name, "backward", x, params), _PROGRAMS["backward"])
    sums = x.new_empty(plan.grid[1], rows, memory[1], dtype=torch.float32)
    if name == "pwlu":
        kernel = pwlu_backward if _is_plain(x) else wrap_triton(pwlu_backward)
        _launch(kernel, plan, x, (grad, x, of_x, sums, *params), _intervals(params))
    else:
        kernel = lines_backward if _is_plain(x) else wrap_triton(lines_backward)
        _launch(kernel, plan, x, (grad, x, of_x, sums, params[0], params[-1]), {"KIND": name, "K": len(params)})
    return of_x, sums.sum(0)


def _settled(name: str, params: Sequence[Tensor]) -> Sequence[Tensor]:
    """The parameters that a kernel reads: the bounds of a PWLU are in order."""
    if name != "pwlu":
        return params
    heights, left, right, *slopes = params
    return heights, left, apart(left.float(), right.float()), *slopes


def _launch(kernel: Any, plan: _Plan, x: Tensor, tensors: Sequence[Tensor], own: dict[str, Any]) -> None:
    if _is_plain(x):
        with torch.cuda.device_of(x):
            kernel[plan.grid](*tensors, *plan.sizes, **own, **plan.constants, **_OPTIONS)
    else:
        kernel[plan.grid](*tensors, *plan.sizes, **own, **plan.constants)


def _split_table(table: Tensor, params: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The gradient of each parameter, in its shape and dtype, out of the table of all."""
    parts = table.split([_rows(param) for param in params])
    return tuple(
        part.reshape(*param.shape[:-1], -1).sum_to_size(param.shape).to(param.dtype)
        for part, param in zip(parts, params, strict=True)
    )


def _fits(name: str, x: Tensor, params: Sequence[Tensor]) -> bool:
    """Whether a kernel takes it."""
    return x.dtype in _DTYPES and (name != "pwlu" or params[0].shape[0] - 1 <= INTERVALS)


def _closed_forward(function: Function, x: Tensor, axis: int, params: Sequence[Tensor]) -> Tensor:
    return _dense(value_of(function, axis, x, params), torch.empty_like(x))


def _closed_backward(
    function: Function, grad: Tensor, x: Tensor, axis: int, params: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    of_x, *of_params = gradients_of(function, axis, grad, x, params)
    return _dense(of_x, torch.empty_like(x)), *of_params


class _TritonKernel:
    """A function of the catalogue in Triton, with the closed form for inputs that the kernels do not support."""

    def __init__(self, function: Function) -> None:
        self.function = function

    def forward(self, x: Tensor, axis: int, *params: Tensor) -> Tensor:
        """The values, in dtype and layout of x."""
        if not _fits(self.function.name, x, params):
            return _closed_forward(self.function, x, axis, params)
        return _forward(self.function.name, x, axis, params)

    def backward(self, grad: Tensor, x: Tensor, axis: int, *params: Tensor) -> tuple[Tensor, ...]:
        """The gradients of x and of each parameter, in their shapes."""
        if not _fits(self.function.name, x, params):
            return _closed_backward(self.function, grad, x, axis, params)
        of_x, table = _backward(self.function.name, grad, x, axis, params)
        return of_x, *_split_table(table, params)


def _register(function: Function) -> None:
    """Make a function and its backward pass operators of torch.

    The compiler traces these bodies on any device, so they must contain the closed form: one registered separately for
    the CPU would be ignored.
    """
    name = function.name
    params = list(inspect.signature(function.value).parameters)[1:]

    def forward(x: Tensor, axis: int, *params: Tensor) -> Tensor:
        if x.is_cuda and _fits(name, x, params):
            return _forward(name, x, axis, params)
        return _closed_forward(function, x, axis, params)

    def backward(grad: Tensor, x: Tensor, axis: int, *params: Tensor) -> tuple[Tensor, Tensor]:
        if x.is_cuda and _fits(name, x, params):
            return _backward(name, grad, x, axis, params)
        of_x, *of_params = _closed_backward(function, grad, x, axis, params)
        channels = max(param.shape[-1] for param in params)
        # A gradient that is already summed goes into the first channel.
        rows = [of_param.reshape(_rows(of_param), -1) for of_param in of_params]
        return of_x, torch.cat([torch.nn.functional.pad(row, (0, channels - row.shape[-1])) for row in rows])

    # torch reads the schemas from the signatures; torch 2.11 heeds no others.
    forward.__signature__ = _signature({"x": Tensor, "axis": int}, params, Tensor)  # type: ignore[attr-defined]
    backward.__signature__ = _signature(  # type: ignore[attr-defined]
        {"grad": Tensor, "x": Tensor, "axis": int}, params, tuple[Tensor, Tensor]
    )
    operator: Any = triton_op(f"surgery::{name}", forward, mutates_args=())
    reverse: Any = triton_op(f"surgery::{name}_backward", backward, mutates_args=())

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.axis, *params = inputs
        ctx.save_for_backward(x, *params)

    def differentiate(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x, *params = ctx.saved_tensors
        of_x, table = reverse(grad, x, ctx.axis, *params)
        return of_x, None, *_split_table(table, params)

    operator.register_autograd(differentiate, setup_context=keep)


def _signature(kinds: Mapping[str, type], params: Sequence[str], returns: Any) -> inspect.Signature:
    """The signature of an operator, with its parameters as tensors by their names."""
    named = {**kinds, **dict.fromkeys(params, Tensor)}
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Signature(
        [inspect.Parameter(name, kind, annotation=type_) for name, type_ in named.items()], return_annotation=returns
    )


for _function in FUNCTIONS.values():
    _register(_function)
KERNELS: dict[str, Kernel] = {name: _TritonKernel(function) for name, function in FUNCTIONS.items()}
