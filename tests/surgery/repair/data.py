"""Batches that repairs are tried on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor


def random_batches(count: int = 3, size: int = 8, *shape: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(size, *(shape or (3, 5, 5)), generator=generator) for _ in range(count)]


def few() -> Any:
    return pytest.warns(UserWarning, match="images are few for calibration statistics")
