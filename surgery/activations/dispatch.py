"""Dispatch: each function as a plain formula, with a closed-form gradient, or as a kernel, and which of them runs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from threading import Lock, get_ident
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor
from torch.autograd import forward_ad

from surgery.activations.exported import behind
from surgery.activations.recompute import Source, source_of
from surgery.errors import BadValue

Form = Literal["formula", "closed", "fused", "exported"]
FORMS = get_args(Form)

# The module with the kernels of a device, and the library they need.
_KERNELS = {
    "cpu": ("surgery.activations.kernels.numba_kernels", "numba"),
    "cuda": ("surgery.activations.kernels.triton_kernels", "triton"),
}
# The module that makes operators of torch of them.
_OPERATORS = {
    "cpu": "surgery.activations.kernels.numba_operators",
    "cuda": "surgery.activations.kernels.triton_kernels",
}
# What stays a kernel in a compiled model: the closed form sums by index, or has an exponential in loops of the
# processor, which compile to slow code.
_KEPT = {"cpu": ("pwlu", "npwlu", "swish"), "cuda": ("pwlu",)}
_log = logging.getLogger(__name__)
_Asked = tuple[Form, tuple[str, ...]]  # a form, and the functions it applies to; empty for all
_only: dict[int, _Asked] | None = None  # by thread; not a thread-local, which torch.compile cannot trace
_guard = Lock()


def _constant(function: Callable[..., Any]) -> Callable[..., Any]:
    """The compiler need not look inside, as with `torch.compiler.assume_constant_result`.

    That one sets this mark, too, but imports the whole compiler for it, which takes as long as torch.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@dataclass(frozen=True)
class Function:
    """An elementwise function with parameters per channel.

    `value(x, *params)` is the plain formula, in operations that torch can differentiate any number of times.
    `gradients(grad, x, *params)` is its closed-form backward: the gradient of x and of each parameter, the latter in
    its shape or still to be summed to it. Both get the channels on the last axis of x; parameters have them last,
    (..., C), or (..., 1) if all channels share them. Everything is float32 or float64.

    `exported(x, after, *params)` is what exporters see, see `surgery.activations.exported`: x keeps its axes, `after`
    of which follow that of the channels.
    """

    name: str
    value: Callable[..., Tensor]
    gradients: Callable[..., tuple[Tensor, ...]]
    exported: Callable[..., Tensor]


class Kernel(Protocol):
    """A function fused into one pass over x, in any dtype and with its channels on any axis."""

    def forward(self, x: Tensor, axis: int, *params: Tensor) -> Tensor:
        """The values, in dtype and layout of x."""

    def backward(self, grad: Tensor, x: Tensor, axis: int, *params: Tensor) -> tuple[Tensor, ...]:
        """The gradients of x and of each parameter, in their shapes."""


def apply(function: Function, x: Tensor, axis: int, *params: Tensor, recompute: bool = False) -> Tensor:
    """Compute `function` of x, whose channels are on `axis`: in float32 inside, in dtype and layout of x outside.

    With `recompute`, x is not kept for the backward pass where it can be computed again, see
    `surgery.activations.recompute`. Compilers decide themselves what to keep, and `torch.func` keeps x.

    Raises:
        BadValue: a parameter is for another number of channels than x has.
    """
    if not -x.dim() <= axis < x.dim():
        axis = -1  # a scalar or a row does not have this axis: its last axis is the channels
    form = form_of(function, x)
    if not is_traced():
        _check(function, x, axis, params)
    if form == "formula":
        return value_of(function, axis, x, params)
    if form == "exported":
        return _exported_of(function, axis, x, params)
    if recompute and not torch.compiler.is_compiling() and _is_differentiated(x, *params):
        source = source_of(x)
        if source is not None:
            return _Recomputed.apply(function, axis, form, source, x, *params)  # type: ignore[no-any-return]
    if form == "closed":
        return _Closed.apply(function, axis, x, *params)  # type: ignore[no-any-return]
    if torch.compiler.is_compiling() and _is_operator(function.name, x.device.type):
        operators = torch.ops.surgery if x.is_cuda else torch.ops.surgery_cpu
        return getattr(operators, function.name)(x, axis, *params)  # type: ignore[no-any-return]
    if not _is_differentiated(x, *params):
        return _fused(function, x).forward(x, axis, *params)
    return _Fused.apply(function, axis, x, *params)  # type: ignore[no-any-return]


def _is_differentiated(*tensors: Tensor) -> bool:
    """Whether autograd has to know; where it has not, it is not called, which takes longer than a small kernel."""
    if torch.is_grad_enabled():
        for tensor in tensors:
            if tensor.requires_grad:
                return True
    return forward_ad._current_level >= 0


def _check(function: Function, x: Tensor, axis: int, params: tuple[Tensor, ...]) -> None:
    channels = x.shape[axis] if x.dim() else 1
    for param in params:
        if param.shape[-1] not in (1, channels):
            raise BadValue(
                f"{function.name} has parameters for {param.shape[-1]} channels.",
                asked=f"{channels} on axis {axis} of {tuple(x.shape)}",
                try_="the same number of channels, or parameters that all channels share",
            )


def form_of(function: Function, x: Tensor) -> Form:
    """The form used for this function of x: "formula", "closed", "fused" or "exported".

    `torch.func` gets the formula, which consists of torch operations only, and exporters the exported form, which
    consists of operators that every deploy target knows. A compiled model gets the closed form, which the compiler
    fuses with its neighbours, or a kernel where the closed form compiles to slow code. Otherwise a kernel is used if
    available.
    """
    if _only is not None:
        asked: Form | None = _asked_for(function.name)
        if asked is not None:
            return asked
    # As few questions as possible: in a large network, the answers take longer than a small kernel.
    if torch.compiler.is_compiling():
        if is_exporting():
            return "exported"
        kept = function.name in _KEPT.get(x.device.type, ()) and x.dtype != torch.float64
        return "fused" if kept and _is_operator(function.name, x.device.type) else "closed"
    if torch._C._is_tracing():
        return "exported"
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return "formula"
    plain = type(x) in (Tensor, torch.nn.Parameter) and x.numel() > 0
    return "fused" if plain and x.dtype != torch.float64 and kernel_of(function.name, _device(x)) else "closed"


def _device(x: Tensor) -> str:
    """Its type, which takes long to ask for."""
    return "cpu" if x.is_cpu else x.device.type


def taken_apart() -> bool:
    """True where a call is exported, traced, or transformed by `torch.func`, which need plain torch operations."""
    if torch.compiler.is_compiling() or is_exporting():
        return is_exporting()
    return torch._C._functorch.peek_interpreter_stack() is not None


def is_exporting() -> bool:
    """True where a call is exported (`torch.export`, `torch.onnx`) or traced (`torch.jit.trace`)."""
    # `torch.compiler.is_exporting()` returns this; the compiler of torch 2.11 takes it for True, always.
    return torch.compiler._is_exporting_flag or is_traced()


def is_traced() -> bool:
    """True in `torch.jit.trace`, where sizes are not integers."""
    return not torch.compiler.is_compiling() and torch._C._is_tracing()


@contextmanager
def only(form: Form, *names: str) -> Iterator[None]:
    """Inside, use this form for every function, or for those of these names: to compare or to debug them.

    It applies to the current thread only.

    Raises:
        BadValue: an unknown form.
    """
    if form not in FORMS:
        raise BadValue("Unknown form of a function.", asked=repr(form), there=", ".join(FORMS))
    before = _ask((form, names))
    try:
        yield
    finally:
        _ask(before)


def _ask(asked: _Asked | None) -> _Asked | None:
    """Set the form for this thread, and return the previous one."""
    global _only
    with _guard:
        others = dict(_only or {})
        before = others.pop(get_ident(), None)
        if asked is not None:
            others[get_ident()] = asked
        _only = others or None
    return before


@_constant
def _asked_for(name: str) -> Form | None:
    """The form set for this thread; None for any."""
    asked = (_only or {}).get(get_ident())
    return asked[0] if asked is not None and (not asked[1] or name in asked[1]) else None


@cache
def kernel_of(name: str, device: str) -> Kernel | None:
    """The kernel for a function on a device type ("cpu", "cuda"); None, logged once, if it is not available."""
    home, library = _KERNELS.get(device, ("", ""))
    if not home:
        return None
    try:
        kernels: dict[str, Kernel] = import_module(home).KERNELS
    except ImportError:
        _log.info("%s is not installed: on %s, %s runs in its closed form, which is slower.", library, device, name)
        return None
    return kernels.get(name)


@_constant
def _is_operator(name: str, device: str) -> bool:
    """Whether there is a kernel for a device, and so a torch operator, which the compiler supports."""
    return kernel_of(name, device) is not None and import_module(_OPERATORS[device]) is not None


class _Closed(torch.autograd.Function):
    """The value by the formula, its gradient in closed form: only x is saved for the backward pass."""

    @staticmethod
    def forward(function: Function, axis: int, x: Tensor, *params: Tensor) -> Tensor:
        return laid_out_as(x, value_of(function, axis, x, params))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.function, ctx.axis, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, *params = ctx.saved_tensors
        return None, None, *gradients_of(ctx.function, ctx.axis, grads[0], x, params)


class _Fused(torch.autograd.Function):
    """Value and gradient by a kernel; second derivatives use the closed form.

    Context and value in one, not for `torch.func`, which never gets here: that takes half as long to call.
    """

    @staticmethod
    def forward(ctx: Any, function: Function, axis: int, x: Tensor, *params: Tensor) -> Tensor:
        ctx.function, ctx.axis = function, axis
        ctx.save_for_backward(x, *params)
        return _fused(function, x).forward(x, axis, *params)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, *params = ctx.saved_tensors
        if torch.is_grad_enabled():
            return None, None, *gradients_of(ctx.function, ctx.axis, grads[0], x, params)
        return None, None, *_fused(ctx.function, x).backward(grads[0], x, ctx.axis, *params)


class _Recomputed(torch.autograd.Function):
    """The same in either form, but x is computed again in the backward pass from what is kept in front of it."""

    @staticmethod
    def forward(
        ctx: Any, function: Function, axis: int, form: Form, source: Source, x: Tensor, *params: Tensor
    ) -> Tensor:
        ctx.function, ctx.axis, ctx.form, ctx.source = function, axis, form, source
        ctx.save_for_backward(*params)
        if form == "fused":
            return _fused(function, x).forward(x, axis, *params)
        return laid_out_as(x, value_of(function, axis, x, params))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        params, x = ctx.saved_tensors, ctx.source.value()
        if ctx.form == "fused" and not torch.is_grad_enabled():
            found = _fused(ctx.function, x).backward(grads[0], x, ctx.axis, *params)
        else:
            found = gradients_of(ctx.function, ctx.axis, grads[0], x, params)
        return None, None, None, None, *found


def _fused(function: Function, x: Tensor) -> Kernel:
    kernel = kernel_of(function.name, _device(x))
    if kernel is None:
        raise BadValue(
            f"No kernel for {function.name} on {x.device.type}.", asked="the fused form",
            try_="the extra `fast`: pip install 'activation-surgery[fast]'" if x.device.type == "cpu" else "'closed'",
        )  # fmt: skip
    return kernel


def laid_out_as(x: Tensor, value: Tensor) -> Tensor:
    """The value in the memory layout of an elementwise operation on x."""
    if torch.compiler.is_compiling() or value.stride() == x.stride():
        return value
    made = torch.empty_like(x)
    return value if value.stride() == made.stride() else made.copy_(value)


def value_of(function: Function, axis: int, x: Tensor, params: Any) -> Tensor:
    dtype = torch.promote_types(x.dtype, torch.float32)
    last = x.movedim(axis, -1) if x.dim() else x
    value = function.value(last.to(dtype), *(param.to(dtype) for param in params)).to(x.dtype)
    return value.movedim(-1, axis) if x.dim() else value.reshape(())


def _exported_of(function: Function, axis: int, x: Tensor, params: Any) -> Tensor:
    dtype = torch.promote_types(x.dtype, torch.float32)
    inner, *given = (tensor if tensor.dtype == dtype else tensor.to(dtype) for tensor in (x, *params))
    value = function.exported(inner, behind(x, axis), *given)
    value = value if value.dtype == x.dtype else value.to(x.dtype)
    return value if x.dim() else value.reshape(())


def gradients_of(function: Function, axis: int, grad: Tensor, x: Tensor, params: Any) -> tuple[Tensor, ...]:
    dtype = torch.promote_types(x.dtype, torch.float32)
    last, grad = (
        tensor.movedim(axis, -1).to(dtype) if x.dim() else tensor.to(dtype).reshape(1) for tensor in (x, grad)
    )
    of_x, *of_params = function.gradients(grad, last, *(param.to(dtype) for param in params))
    of_x = of_x.to(x.dtype).movedim(-1, axis) if x.dim() else of_x.to(x.dtype).reshape(())
    if not torch.is_grad_enabled():
        of_x = laid_out_as(x, of_x)
    return of_x, *(
        of_param.sum_to_size(param.shape).to(param.dtype) for of_param, param in zip(of_params, params, strict=True)
    )
