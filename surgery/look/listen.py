"""Listen: run a copy of a model once and record every activation call, with the code that makes it."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from surgery.activations.dispatch import only
from surgery.dataflow.flow import Call, Flow, tensors_in
from surgery.dataflow.operations import (
    activation_of_function,
    activation_of_module,
    name_of,
    operation_of,
    options_of_function,
    options_of_module,
    works_in_place,
)
from surgery.dataflow.trace import CallRecord, Op, Trace
from surgery.isolation.held_tensors import reachable_tensors
from surgery.look.call_site import Locator
from surgery.look.example import mapped
from surgery.look.likeness import can_be_given_again
from surgery.look.look import Arguments
from surgery.look.references import References

Shown = Callable[[CallRecord, Tensor], None]
_UNTRACKED: AbstractContextManager[Any] = nullcontext()


@contextmanager
def listening(
    model: nn.Module,
    look: Shown | None = None,
    *,
    after: Shown | None = None,
    live: bool = False,
    references: References = (),
) -> Iterator[Trace]:
    """Inside, every operation of `model` is recorded in the trace; afterwards the hooks are removed.

    `look` receives the input of each activation call, `after` its output. An in-place activation returns an alias of
    its result, so that later reads of the overwritten input differ from reads of the result: the model must be a
    private copy that nothing else runs meanwhile. With `live` it may be any model: tensors are passed on unchanged,
    and the trace contains the activation calls only. `references` come from `reseated`: a call of a module that was
    replaced counts as a call of its replacement.
    """
    with _listened(model, look, after, live, references) as listener:
        yield listener.trace


@contextmanager
def _listened(
    model: nn.Module,
    look: Shown | None = None,
    after: Shown | None = None,
    live: bool = False,
    references: References = (),
    given: dict[str, Arguments] | None = None,
) -> Iterator[_Listener]:
    listener = _Listener(model, look, after, live, references)
    handles = []
    try:
        known = {
            id(module): reference.activation for reference in references for module in (reference.old, reference.new)
        }
        if given is not None:
            handles += list(_argument_hooks(model, given))
        for module in (*model.modules(), *(reference.old for reference in references)):
            activation = known[id(module)] if id(module) in known else activation_of_module(module)
            if activation is None:
                handles.append(module.register_forward_pre_hook(listener.arrive))
            else:
                listener.activations[id(module)] = activation
                handles.append(module.register_forward_pre_hook(listener.enter, with_kwargs=True))
                handles.append(module.register_forward_hook(listener.leave, with_kwargs=True, always_call=True))
        # A `Line` is not an activation: its operations belong to the trace. Torch's encoder layers skip their fused
        # fast path while a torch-function mode such as the listener is active.
        with nullcontext() if live else only("closed", "affine"), listener:
            yield listener
    finally:
        for handle in handles:
            handle.remove()
        listener.locator.forget()  # frames keep their locals alive


def trace_forward(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    look: Shown | None = None,
    references: References = (),
    tracking: AbstractContextManager[Any] = _UNTRACKED,
    given: dict[str, Arguments] | None = None,
) -> Trace:
    """Run a copy once on these arguments and return its trace; see `listening`, and `no_leftovers` for `tracking`.

    The arguments of the first call of every module are put into `given`, by path.
    """
    # `tracking` is innermost: it must not see what the listener reads off tensors.
    with torch.no_grad(), _listened(model, look, references=references, given=given) as listener, tracking:
        listener.flow.enter(reachable_tensors((args, kwargs)))
        listener.trace.result = result = model(*args, **kwargs)
    made = [listener.flow.source(value)[0] for value in reachable_tensors(result)]
    listener.trace.outputs = tuple(op for op in made if op)  # an input that is returned unchanged has no operation
    return listener.trace


def _argument_hooks(model: nn.Module, given: dict[str, Arguments]) -> Iterator[RemovableHandle]:
    """Hooks that put the arguments of the first call of each module into `given`.

    Arguments that cannot be reproduced are left out, and so are torch's layers without children, which make no calls.
    """
    for path, module in model.named_modules():
        if type(module).__module__.startswith("torch.nn.") and not module._modules:
            continue
        called: list[bool] = []

        def note(_: nn.Module, args: Any, kwargs: Any, path: str = path, called: list[bool] = called) -> None:
            if not called:
                called.append(True)
                if can_be_given_again((args, kwargs)):
                    with torch._C.DisableTorchFunction():  # these are kept
                        given[path] = mapped((args, kwargs), lambda tensor: tensor.detach().clone())

        yield module.register_forward_pre_hook(note, with_kwargs=True)


class QuickNorms(TorchFunctionMode):
    """Batch norm on the meta device without its slow Python path, as in `listening`, but without recording."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        quick = norm_on_meta(func, args, kwargs or {})
        return func(*args, **kwargs or {}) if quick is None else quick


class _Listener(TorchFunctionMode):
    """The torch-function mode and the module hooks of `listening`, writing one trace."""

    def __init__(
        self, model: nn.Module, look: Shown | None, after: Shown | None, live: bool, references: References
    ) -> None:
        super().__init__()
        self.look, self.after, self.live = look, after, live
        self.entered: Tensor | None = None  # a copy, if `look` is given: the call may overwrite it
        self.trace = Trace()
        self.activations: dict[int, str] = {}  # id of a module -> what it computes
        self.locator = Locator(model, self.activations, references)
        self.flow = Flow(model, self.trace, self.locator.place_of)
        self.inside = 0  # depth of running activation modules, whose inner operations are not recorded
        self.thread = get_ident()  # hooks also run in other threads that use the model

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        kind = operation_of(func)
        if self.inside or (self.live and kind != "activation"):
            return func(*args, **kwargs)
        call = Call.of(kind, name_of(func), args, kwargs)
        if kind == "activation":
            self._keep(call.sources)
        result = norm_on_meta(func, args, kwargs)
        if result is None:
            result = func(*args, **kwargs)
        # Disabled, so that our bookkeeping does not enter the trace.
        with torch._C.DisableTorchFunction():
            op = None if self.live else self.flow.note(call, result, sys._getframe(1))
            if kind != "activation" or not isinstance(result, Tensor):
                return result
            activation, source = activation_of_function(func, args, kwargs), call.sources[0]
            inplace = works_in_place(func, args, kwargs)
            record = self._record(
                op or self.trace.ops[0], activation, inplace, source, options_of_function(activation, args, kwargs)
            )
            self.locator.locate(record, sys._getframe(1), None, func)
            self.locator.tell_apart(record)
            self._show(record, result)
            return self._passed_on(record, result, source)

    def arrive(self, module: nn.Module, args: Any) -> None:
        if not self.inside and get_ident() == self.thread:
            self.locator.arrive(sys._getframe(1), module)

    def _ignored(self, module: nn.Module) -> bool:
        """True in another thread, and for a replaced module: it shares its hooks with its replacement."""
        return get_ident() != self.thread or id(module) not in self.activations

    def enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if self._ignored(module):
            return
        self.arrive(module, args)
        if not self.inside:
            self._keep(list(tensors_in((args, kwargs))))
        self.inside += 1

    def leave(self, module: nn.Module, args: Any, kwargs: Any, result: Any) -> Any:
        if self._ignored(module):
            return result
        self.inside -= 1
        sources = list(tensors_in((args, kwargs)))
        if self.inside or not sources or not isinstance(result, Tensor):
            return result
        activation = self.activations[id(module)]
        with torch._C.DisableTorchFunction():
            call = Call.of("activation", activation, (sources[0],), {})
            op = None if self.live else self.flow.note(call, result, sys._getframe(1))
            inplace = bool(getattr(module, "inplace", False)) and result is sources[0]
            record = self._record(
                op or self.trace.ops[0], activation, inplace, sources[0], options_of_module(activation, module)
            )
            self.locator.locate(record, sys._getframe(1), module, None)
            self.locator.tell_apart(record)
            self._show(record, result)
            return self._passed_on(record, result, sources[0])

    def _keep(self, sources: list[Tensor]) -> None:
        if self.look is not None and sources:
            with torch._C.DisableTorchFunction():
                self.entered = sources[0].detach().clone()

    def _show(self, record: CallRecord, result: Tensor) -> None:
        with torch._C.DisableTorchFunction():
            if self.look is not None and self.entered is not None:
                self.look(record, self.entered)
            if self.after is not None:
                self.after(record, result.detach())

    def _record(
        self, op: Op, activation: str, inplace: bool, source: Tensor, options: tuple[tuple[str, float], ...]
    ) -> CallRecord:
        axis = self.trace.ops[op.inputs[0]].axis if op.inputs else None
        if not op.data and source.dim() == 1:
            axis = 0  # a vector of weights has one per channel
        record = CallRecord(op.index, activation, inplace, tuple(source.shape), axis, source.dtype, options)
        self.trace.calls.append(record)
        return record

    def _passed_on(self, record: CallRecord, result: Tensor, source: Tensor) -> Tensor:
        """The result, or an alias of an input that was overwritten."""
        if self.live or result is not source:
            return result
        record.inplace = True
        self.flow.lose(result, record)
        alias: Tensor = result.view_as(result)
        self.flow.mark(alias, record.op)
        return alias


def norm_on_meta(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The result of batch norm on the meta device, without the Python path that dominates the time of a look.

    None for arguments that do not fit: torch handles those, and raises its usual errors.
    """
    if func is not F.batch_norm or not args or args[0].device.type != "meta" or args[0].dim() < 2:
        return None
    batch, channels, *space = args[0].shape
    statistics = [value for value in args[1:5] if isinstance(value, Tensor)]
    training = kwargs.get("training", args[5] if len(args) > 5 else False)
    if any(value.shape != (channels,) for value in statistics) or (training and batch * math.prod(space) < 2):
        return None
    return torch.empty_like(args[0])
