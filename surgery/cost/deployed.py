"""Deployed: networks and their parts in the form in which they run: norms folded, merged, in a layout, on a runtime."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from surgery.cost.conditions import Conditions
from surgery.cost.stopwatch import Function
from surgery.deploy.network import network_of
from surgery.deploy.runtimes.onnxruntime import TARGET
from surgery.deploy.written import written
from surgery.errors import CannotEdit, NothingPicked, NotProved
from surgery.isolation.meta_copy import copied
from surgery.look.example import Example, mapped
from surgery.merging.merged_model import merge
from surgery.model import M

_log = logging.getLogger(__name__)

Arguments = tuple[tuple[Any, ...], Mapping[str, Any]]


def deployed(model: M, example: Any) -> M:
    """A copy of a network in eval mode, as it is deployed: what is linear is merged, where that is possible."""
    made = copied(model).eval().requires_grad_(False)
    try:
        return merge(made, example=example)[0]
    except (NothingPicked, CannotEdit, NotProved) as reason:
        _log.info("timed unmerged: %s", reason)
        return made


def arranged(arguments: Arguments, conditions: Conditions) -> Arguments:
    """The same arguments in the layout and the dtype of a measurement."""
    return mapped(arguments[0], lambda t: _arranged(t, conditions)), mapped(
        dict(arguments[1]), lambda t: _arranged(t, conditions)
    )


def running(module: nn.Module, arguments: Arguments, conditions: Conditions) -> Function:
    """A function that runs a module on these arguments once, under these conditions.

    Raises:
        NotConvertible, NotInstalled: ONNX Runtime is not installed, or cannot run it.
    """
    args, kwargs = arranged(arguments, conditions)
    module = module.to(getattr(torch, conditions.dtype))
    if conditions.layout == "channels_last":
        module = module.to(memory_format=torch.channels_last)
    if conditions.runtime == "onnxruntime":
        return _session(module, args, kwargs)
    forward = torch.compile(module, dynamic=False) if conditions.runtime == "compiled" else module

    def run() -> None:
        with torch.inference_mode():
            forward(*args, **kwargs)

    return run


def arguments_of(model: nn.Module, paths: list[str], sample: Example) -> dict[str, Arguments]:
    """What the modules at these paths are first called with when the model runs in eval mode."""
    found: dict[str, Arguments] = {}

    def look(path: str) -> Any:
        def called(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if path not in found:
                found[path] = mapped(args, Tensor.clone), mapped(kwargs, Tensor.clone)

        return called

    handles = [model.get_submodule(path).register_forward_pre_hook(look(path), with_kwargs=True) for path in paths]
    try:
        with torch.no_grad():
            model(*mapped(sample.args, Tensor.clone), **mapped(sample.kwargs, Tensor.clone))
    finally:
        for handle in handles:
            handle.remove()
    return found


def _session(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Function:
    TARGET.check_installed()
    network = network_of(module.to(memory_format=torch.contiguous_format), dict(kwargs) if kwargs else args)
    with written(network, TARGET) as files:
        forward = files.loaded()
    return lambda: forward(network.args)


def _arranged(tensor: Tensor, conditions: Conditions) -> Tensor:
    if tensor.is_floating_point():
        tensor = tensor.to(getattr(torch, conditions.dtype))
    if conditions.layout == "channels_last" and tensor.dim() == 4:
        return tensor.contiguous(memory_format=torch.channels_last)
    return tensor
