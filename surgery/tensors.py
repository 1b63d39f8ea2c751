"""Tensors: written over, wherever they were made."""

from __future__ import annotations

import torch
from torch import Tensor


def overwrite(one: Tensor, values: Tensor) -> None:
    """Copy values into a tensor, one that was made in inference mode, too."""
    # Outside of inference mode torch refuses what was made there, but only once it has written.
    with torch.inference_mode() if one.is_inference() else torch.no_grad():
        one.copy_(values)
