"""Count the activation calls of one run, by a mechanism of its own: the judge of what the library finds.

Module calls are seen by patching `nn.Module.__call__` for the time of the run, functional calls by a torch-function
mode. No frames, no hooks, no sources are involved, so an error here and an error in the library are unrelated.
What happens inside an activation module belongs to that one call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

TORCH_MODULES: tuple[tuple[type[nn.Module], str], ...] = (
    # Subclasses come before their bases: the first fit is the name.
    (nn.ReLU6, "relu6"),
    (nn.Hardtanh, "hardtanh"),
    (nn.ReLU, "relu"),
    (nn.LeakyReLU, "leaky_relu"),
    (nn.PReLU, "prelu"),
    (nn.ELU, "elu"),
    (nn.SELU, "selu"),
    (nn.CELU, "celu"),
    (nn.GELU, "gelu"),
    (nn.SiLU, "silu"),
    (nn.Mish, "mish"),
    (nn.Hardswish, "hardswish"),
    (nn.Softplus, "softplus"),
    (nn.Sigmoid, "sigmoid"),
    (nn.Hardsigmoid, "hardsigmoid"),
    (nn.Tanh, "tanh"),
)

# Classes outside torch, by name: timm's, the spellings that private code copies around, and those of transformers.
OTHER_MODULES: dict[str, str] = {
    "Swish": "silu",
    "SwishMe": "silu",
    "Mish": "mish",
    "MishMe": "mish",
    "HardSwish": "hardswish",
    "HardSwishMe": "hardswish",
    "HardSigmoid": "hardsigmoid",
    "HardSigmoidMe": "hardsigmoid",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "GELU": "gelu",
    "GELUTanh": "gelu_tanh",
    "QuickGELU": "quick_gelu",
    "SquaredReLU": "squared_relu",
    "GELUActivation": "gelu",
    "NewGELUActivation": "gelu_tanh",
    "FastGELUActivation": "gelu_tanh",
    "QuickGELUActivation": "quick_gelu",
    "SiLUActivation": "silu",
    "MishActivation": "mish",
    "ReLUSquaredActivation": "squared_relu",
}

FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "relu": (F.relu, F.relu_, torch.relu, torch.relu_, torch.Tensor.relu, torch.Tensor.relu_),
    "relu6": (F.relu6,),
    "hardtanh": (F.hardtanh, F.hardtanh_),
    "leaky_relu": (F.leaky_relu, F.leaky_relu_),
    "prelu": (F.prelu, torch.prelu, torch.Tensor.prelu),
    "elu": (F.elu, F.elu_),
    "selu": (F.selu, F.selu_, torch.selu, torch.selu_),
    "celu": (F.celu, F.celu_, torch.celu, torch.celu_),
    "gelu": (F.gelu,),
    "silu": (F.silu,),
    "mish": (F.mish,),
    "hardswish": (F.hardswish,),
    "softplus": (F.softplus,),
    "sigmoid": (torch.sigmoid, torch.sigmoid_, torch.Tensor.sigmoid, torch.Tensor.sigmoid_, torch.special.expit),
    "hardsigmoid": (F.hardsigmoid,),
    "tanh": (torch.tanh, torch.tanh_, torch.Tensor.tanh, torch.Tensor.tanh_),
}

_FUNCTION_NAMES = {function: name for name, functions in FUNCTIONS.items() for function in functions}

# What writes its result over its input although no `inplace` argument says so.
_OVERWRITES = {
    function
    for functions in FUNCTIONS.values()
    for function in functions
    if getattr(function, "__name__", "").endswith("_")
}


# Slow on the meta device, where all that remains of them is a tensor like the first argument.
_NORMS = (F.batch_norm, F.layer_norm)


@dataclass(frozen=True)
class Event:
    """One activation call: its name, and the path of the module that was called (None for a function)."""

    activation: str
    module: str | None
    shape: tuple[int, ...]
    inplace: bool


Bypass = Callable[[int, Event], bool]


def module_activation(module: nn.Module) -> str | None:
    """The activation a module is, or None."""
    name = next((name for kind, name in TORCH_MODULES if isinstance(module, kind)), None)
    name = name or OTHER_MODULES.get(type(module).__name__)
    if name == "hardtanh" and (module.min_val, module.max_val) == (0.0, 6.0):
        return "relu6"
    if name == "gelu" and getattr(module, "approximate", "none") == "tanh":
        return "gelu_tanh"
    return name


def function_activation(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """The activation a torch function computes with these arguments, or None."""
    try:
        name = _FUNCTION_NAMES.get(function)
    except TypeError:  # not every callable that passes here can be hashed
        return None
    if name == "hardtanh":
        low = args[1] if len(args) > 1 else kwargs.get("min_val", -1.0)
        high = args[2] if len(args) > 2 else kwargs.get("max_val", 1.0)
        return "relu6" if (low, high) == (0, 6) else "hardtanh"
    if name == "gelu" and kwargs.get("approximate", args[1] if len(args) > 1 else "none") == "tanh":
        return "gelu_tanh"
    return name


def _writes_over(function: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if function in _OVERWRITES:
        return True
    if "inplace" in kwargs:
        return bool(kwargs["inplace"])
    return any(arg is True for arg in args[1:])  # the only boolean any of them takes is `inplace`


class _Watch(TorchFunctionMode):
    """The functional half, and the record of both halves."""

    def __init__(self, model: nn.Module, bypass: Bypass | None) -> None:
        super().__init__()
        self.events: list[Event] = []
        self.bypass = bypass
        self.depth = 0
        self.paths = {id(module): path for path, module in model.named_modules()}

    def note(self, event: Event) -> bool:
        """Record an event; True if its call is to be bypassed."""
        self.events.append(event)
        return self.bypass is not None and self.bypass(len(self.events) - 1, event)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _NORMS and args and args[0].is_meta:
            return torch.empty_like(args[0])
        name = None if self.depth else function_activation(func, args, kwargs)
        if name is None:
            return func(*args, **kwargs)
        entering = args[0] if args else kwargs["input"]
        inplace = _writes_over(func, name, args, kwargs)
        if self.note(Event(name, None, tuple(entering.shape), inplace)):
            return entering if inplace else entering.clone()
        self.depth += 1
        try:
            return func(*args, **kwargs)
        finally:
            self.depth -= 1

    def module_call(self, original: Any, module: nn.Module, args: Any, kwargs: Any) -> Any:
        name = None if self.depth else module_activation(module)
        if name is None:
            return original(module, *args, **kwargs)
        entering = args[0] if args else kwargs["input"]
        inplace = bool(getattr(module, "inplace", False))
        path = self.paths.get(id(module))  # None for one that the code makes as it runs
        if self.note(Event(name, path, tuple(entering.shape), inplace)):
            # Copy semantics: a call that did not overwrite its input gives a tensor of its own.
            return entering if inplace else entering.clone()
        self.depth += 1
        try:
            return original(module, *args, **kwargs)
        finally:
            self.depth -= 1


@contextmanager
def watching(model: nn.Module, bypass: Bypass | None = None) -> Iterator[list[Event]]:
    """Fill the list with the activation calls made inside; `bypass(index, event)` says which calls to leave out."""
    watch = _Watch(model, bypass)
    original = nn.Module.__call__

    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return watch.module_call(original, module, args, kwargs)

    nn.Module.__call__ = call  # type: ignore[method-assign]
    try:
        with watch:
            yield watch.events
    finally:
        nn.Module.__call__ = original  # type: ignore[method-assign]


def run(model: nn.Module, example: Any) -> Any:
    """Call the model: a tensor is one argument, a tuple positional ones, a dict keywords."""
    if isinstance(example, dict):
        return model(**example)
    return model(*example) if isinstance(example, tuple) else model(example)


def count(model: nn.Module, example: Any, training: bool = False) -> list[Event]:
    """The activation calls of one run in the given mode; the model's modes are put back."""
    modes = {module: module.training for module in model.modules()}
    model.train(training)
    try:
        with torch.no_grad(), watching(model) as events:
            run(model, example)
    finally:
        for module, mode in modes.items():
            module.training = mode
    return events
