"""Formula check: whether a module really computes the function that its class is named after."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from surgery.errors import CannotLook
from surgery.isolation.meta_copy import scratch_copy
from surgery.model import in_mode
from surgery.rng import random_state_kept

# The functions that classes of other libraries may be named after.
_FORMULAS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "silu": F.silu,
    "mish": F.mish,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "squared_relu": lambda x: F.relu(x).square(),
}
_TOLERANCE = 1e-6  # tolerates constants such as sqrt(2 / pi) in seven digits, and detects a clipped tail


def computes(module: nn.Module, activation: str) -> bool:
    """True if `module` has no weights and computes this activation in eval and in train mode, from -100 to 100.

    A copy is called, so the module is unchanged; a module that cannot be copied or called is not the activation.
    """
    if any(True for _ in (*module.parameters(), *module.buffers())):
        return False
    with torch._C.DisableTorchFunction(), torch.no_grad(), random_state_kept():
        near = torch.linspace(-8, 8, 257, dtype=torch.float64, device="cpu")
        points = torch.cat([near, 12.5 * near]).view(2, -1)
        wanted = _FORMULAS[activation](points)
        try:
            found = [in_mode(scratch_copy(module, meta=False), mode)(points.clone()) for mode in ("eval", "train")]
        except (CannotLook, RuntimeError, TypeError, ValueError, AttributeError, LookupError):
            return False
    return all(
        isinstance(value, Tensor)
        and value.shape == wanted.shape
        and torch.allclose(value, wanted, _TOLERANCE, _TOLERANCE)
        for value in found
    )
