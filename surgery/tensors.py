"""Tensors: compared bit for bit, and written over, wherever they were made."""

from __future__ import annotations

import torch
from torch import Tensor


def identical(one: Tensor, two: Tensor) -> bool:
    """True if two tensors have the same shape, dtype and numbers, where what is no number is like its kind."""
    if one.shape != two.shape or one.dtype != two.dtype:
        return False
    return bool(torch.equal(one, two) or ((one == two) | (one.isnan() & two.isnan())).all())


def overwrite(one: Tensor, values: Tensor) -> None:
    """Copy values into a tensor, one that was made in inference mode, too."""
    # Outside of inference mode torch refuses what was made there, but only once it has written.
    with torch.inference_mode() if one.is_inference() else torch.no_grad():
        one.copy_(values)
