"""Classifier output: the site right behind the layer whose output a classifier returns, and the call of that layer."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from surgery.code.calls import Call, call_at
from surgery.dataflow.operations import operation_of
from surgery.dataflow.trace import TRANSPARENT, Op, Trace
from surgery.errors import CannotEdit
from surgery.isolation.meta_copy import scratch_copy
from surgery.look.site import NO_CALL, Site


def scores_of(model: nn.Module, traces: dict[str, Trace]) -> Site | None:
    """The site behind the one linear layer or convolution whose output the model returns."""
    trace = next(iter(traces.values()))
    makers = {
        source.index: source
        for output in trace.outputs
        for source in ([trace.ops[output]] if trace.ops[output].kind != "shape" else trace.back(output, _reshapes))
    }
    maker = next(iter(makers.values()), None)
    if maker is None or len(makers) > 1 or maker.kind not in ("linear", "conv") or not maker.weights:
        return None
    path = maker.weights[0].rpartition(".")[0]
    classifier = model.get_submodule(path)
    if not isinstance(classifier, nn.Linear | nn.Conv2d) or not path:
        return None
    axis = len(maker.shape) - 1 if maker.kind == "linear" else 1
    call, locked = _summing(classifier)
    # Not `classifier.weight`: it may be parametrised, and a new tensor at each access.
    learns = next(value for value in classifier.parameters() if value.is_floating_point())
    return Site(
        owner=path, method=call.method, callee=call.callee, ordinal=call.ordinal, iteration=None, run=1, runs=1,
        target="scores", turn=1, turns=1, owner_kind=type(classifier).__name__, module=None, activation=NO_CALL,
        inplace=False, role="head", block=None,
        block_kind=None, position=None, positions=None, joins_by=None, branch=None, fed_by=(maker.kind,),
        feeds=("output",), weights=maker.weights[:1], shape=maker.shape, channels=maker.shape[axis], channel_axis=axis,
        dtype=str(learns.dtype).removeprefix("torch."), device=str(learns.device),
        modes=tuple(traces), locked=locked,
    )  # fmt: skip


def _summing(classifier: nn.Linear | nn.Conv2d) -> tuple[Call, str | None]:
    """The call in a classifier's forward that computes the matrix product, or the reason why it is unknown."""
    forward = type(classifier).forward
    if forward in (nn.Linear.forward, nn.Conv2d.forward):
        callee = "F.linear" if forward is nn.Linear.forward else "self._conv_forward"
        return Call("forward", callee, 1, looped=False, locked=None), None
    layer = scratch_copy(classifier, meta=True).eval()
    weight = layer.weight
    assert isinstance(weight, Tensor)
    smallest = weight.shape[1:]
    if isinstance(layer, nn.Conv2d):
        extent = (step * (size - 1) + 1 for step, size in zip(layer.dilation, layer.kernel_size, strict=True))
        smallest = torch.Size((layer.in_channels, *extent))
    caller, there = _Caller(getattr(inspect.unwrap(forward), "__code__", None)), "it computes no matrix product"
    try:
        with torch.no_grad(), caller:
            layer(torch.empty(1, *smallest, dtype=weight.dtype, device="meta"))
    except (CannotEdit, RuntimeError, TypeError, ValueError) as error:
        there = str(error).partition("\n")[0]
    if caller.call is not None:
        return caller.call, None
    reason = f"it is unclear which call of {type(classifier).__name__}.forward() computes the output ({there})"
    return Call("forward", "", 1, looped=False, locked=reason), reason


class _Caller(TorchFunctionMode):
    """Records which call of a method is running when a matrix product is computed."""

    def __init__(self, code: CodeType | None) -> None:
        super().__init__()
        self.code = code
        self.call: Call | None = None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        frame: FrameType | None = sys._getframe(1) if operation_of(func) in ("linear", "conv") else None
        while frame is not None and frame.f_code is not self.code:
            frame = frame.f_back
        if frame is not None:
            self.call = call_at(frame.f_code, frame.f_lasti)
        return func(*args, **kwargs or {})


def _reshapes(op: Op) -> bool:
    """True for an operation that passes values on unchanged; scaling does not."""
    return op.kind in TRANSPARENT
