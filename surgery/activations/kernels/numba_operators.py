"""Operators: the kernels of the processor for compiled models, `torch.ops.surgery_cpu.<name>(x, axis, *parameters)`.

The compiler calls them as they are, between the loops that it makes of the rest.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from surgery.activations.dispatch import Function, Kernel
from surgery.activations.functions.affine import AFFINE
from surgery.activations.functions.npwlu import FUNCTION as NPWLU
from surgery.activations.functions.piecewise import PWLU
from surgery.activations.functions.prelu import FRELU, PRELU
from surgery.activations.functions.smelu import SMELU
from surgery.activations.functions.swish import SWISH
from surgery.activations.kernels.numba_kernels import KERNELS

FUNCTIONS = (PRELU, FRELU, SMELU, SWISH, AFFINE, PWLU, NPWLU)


def _register(function: Function, kernel: Kernel) -> None:
    """Make a kernel and its backward pass operators of torch."""
    names = list(inspect.signature(function.value).parameters)[1:]
    arguments = "Tensor x, int axis" + "".join(f", Tensor {name}" for name in names)
    gradients = ", ".join(["Tensor"] * (1 + len(names)))
    forward: Any = custom_op(
        f"surgery_cpu::{function.name}", kernel.forward, mutates_args=(), schema=f"({arguments}) -> Tensor",
        device_types="cpu",
    )  # fmt: skip
    backward: Any = custom_op(
        f"surgery_cpu::{function.name}_backward", kernel.backward, mutates_args=(),
        schema=f"(Tensor grad, {arguments}) -> ({gradients})", device_types="cpu",
    )  # fmt: skip

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.axis, *params = inputs
        ctx.save_for_backward(x, *params)

    def differentiate(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x, *params = ctx.saved_tensors
        of_x, *of_params = backward(grad, x, ctx.axis, *params)
        return of_x, None, *of_params

    forward.register_fake(lambda x, axis, *params: torch.empty_like(x))
    backward.register_fake(
        lambda grad, x, axis, *params: (torch.empty_like(x), *(torch.empty_like(param) for param in params))
    )
    forward.register_autograd(differentiate, setup_context=keep)


for _function in FUNCTIONS:
    _register(_function, KERNELS[_function.name])
