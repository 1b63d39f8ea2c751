"""Model: whether a model can be edited, its device, its dtype, its mode, the paths in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

from surgery.errors import CannotLook
from surgery.rng import random_state_kept

M = TypeVar("M", bound=nn.Module)

MODES = ("eval", "train")

HISTORY = "_surgery_history"  # where an edited model keeps its steps, which a copy does not need

HOOKS = (
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs", "_forward_hooks_always_called", "_state_dict_hooks", "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks", "_is_full_backward_hook",
)  # fmt: skip


def check_plain(model: nn.Module) -> None:
    """Check that no wrapper hides the modules of a model, or some of them.

    Raises:
        CannotLook: it is wrapped; the hint says what to pass instead.
    """
    if not isinstance(model, nn.Module):
        raise CannotLook("This is not a model.", asked=type(model).__name__, try_="a torch.nn.Module")
    cures = {
        "DistributedDataParallel": "pass model.module, then wrap the result",
        "DataParallel": "pass model.module, then wrap the result",
        "FullyShardedDataParallel": "pass the model before it is sharded",
        "FSDPModule": "pass the model before it is sharded",
        "OptimizedModule": "pass model._orig_mod, then compile the result",
        "ScriptModule": "pass the Python model, then script or trace the result",
    }
    for path, module in model.named_modules():
        for parent in type(module).__mro__:
            if parent.__name__ in cures and parent.__module__.startswith("torch."):
                name = f"{type(module).__name__}, {path} of the model," if path else type(module).__name__
                raise CannotLook(
                    f"{name} hides the calls of the model inside it.", asked=parent.__name__,
                    try_=cures[parent.__name__],
                )  # fmt: skip


def home_of(model: nn.Module) -> torch.device:
    """The device of the model's first parameter or buffer, else the CPU."""
    tensor = next(model.parameters(), next(model.buffers(), None))
    return tensor.device if tensor is not None else torch.device("cpu")


def dtype_of(model: nn.Module) -> torch.dtype | None:
    """The dtype of the model's first floating-point parameter; None without one."""
    return next((tensor.dtype for tensor in model.parameters() if tensor.is_floating_point()), None)


def in_mode(model: M, mode: str) -> M:
    """Switch the model to "eval" or "train" mode and return it; a model's own `train` may not return it."""
    model.train(mode == "train")
    return model


@contextmanager
def in_eval(model: nn.Module) -> Iterator[None]:
    """Inside, every module is in eval mode and gradients are off; afterwards the modes are restored.

    The random state is restored, too.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = False  # not by `train`: modules may be shared, or override `train`
        # Not inference mode: statistics written inside would become inference tensors.
        with random_state_kept(alone=False), torch.inference_mode(False), torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def plain_torch() -> Iterator[None]:
    """Leave the caller's inference mode and autocast, so that new modules are trainable and have the model's dtype."""
    with torch.inference_mode(False), torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield


def is_inside(path: str | None, around: str) -> bool:
    """Whether a path is that of a module, or of something inside it."""
    return path is not None and f"{path}.".startswith(f"{around}.")


def parents_of(path: str) -> list[str]:
    """The enclosing paths of a path, innermost first, up to the model itself."""
    parts = path.split(".") if path else []
    return [".".join(parts[:size]) for size in range(len(parts) - 1, -1, -1)]
