"""Tensors: compare bit for bit, and overwrite, also tensors made in inference mode."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]  # by name


def identical(one: Tensor, two: Tensor) -> bool:
    """True if two tensors have the same shape, dtype and values; NaN equals NaN."""
    if one.shape != two.shape or one.dtype != two.dtype:
        return False
    return bool(torch.equal(one, two) or ((one == two) | (one.isnan() & two.isnan())).all())


def overwrite(one: Tensor, values: Tensor) -> None:
    """Copy values into a tensor, even one that was made in inference mode."""
    # Outside inference mode torch rejects writes to inference tensors, but only after it has written.
    with torch.inference_mode() if one.is_inference() else torch.no_grad():
        one.copy_(values)
