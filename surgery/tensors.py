"""Tensors: compare bit for bit, and overwrite, also tensors made in inference mode."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]  # by name


def identical(first: Tensor, second: Tensor) -> bool:
    """True if two tensors have the same shape, dtype and values; NaN equals NaN."""
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    return bool(torch.equal(first, second) or ((first == second) | (first.isnan() & second.isnan())).all())


def overwrite(tensor: Tensor, values: Tensor) -> None:
    """Copy values into a tensor, even one that was made in inference mode."""
    # Outside inference mode torch rejects writes to inference tensors, but only after it has written.
    with torch.inference_mode() if tensor.is_inference() else torch.no_grad():
        tensor.copy_(values)
