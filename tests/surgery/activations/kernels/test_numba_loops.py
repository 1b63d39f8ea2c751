"""Loops: rounding."""

from __future__ import annotations

import pytest
import torch

from surgery.activations.kernels.numba_kernels import KERNELS
from tests.surgery.activations.kernels.beside_torch import (
    HALF,
    assert_near,
    in_double,
    outcome,
    params_of,
    random,
)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("frelu", torch.bfloat16),
        ("pwlu", torch.bfloat16),
        ("frelu", torch.half),
        *(
            pytest.param(name, dtype, marks=pytest.mark.slow)
            for name in ("affine", "npwlu", "prelu", "smelu", "swish")
            for dtype in (torch.bfloat16, torch.half)
        ),
    ],
)
def test_half_precision_is_rounded_once(name: str, dtype: torch.dtype, channels_last: bool) -> None:
    x, grad = random(3, 5, 7, 9).to(dtype), (random(3, 5, 7, 9, seed=1) + 2).to(dtype)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    params = params_of(name, 5)
    found, wanted = outcome("fused", name, x, 1, params, grad), in_double(name, x, 1, params, grad)
    for tensor, other in zip(found[:2], wanted[:2], strict=True):
        assert tensor.dtype == dtype and tensor.stride() == x.stride()
        assert ((tensor.double() - other).abs() <= HALF[dtype] * other.abs() * 1.01 + 1e-6).all()
    assert_near(found[2:], wanted[2:])


def test_bfloat16_is_rounded_as_torch_does() -> None:
    x = torch.cat([random(999), torch.tensor([0.0, -0.0, torch.inf, 3.3e38, -torch.inf])]).bfloat16()
    scale = torch.tensor([1.0039])
    y = KERNELS["affine"].forward(x, 0, scale, torch.zeros(1))
    assert torch.equal(y, (x.float() * scale).bfloat16())
    all_ones = torch.tensor([0x7FFFFFFF], dtype=torch.int32).view(torch.float32)  # rounded up it would be a zero
    assert KERNELS["affine"].forward(x[:9], 0, all_ones, torch.zeros(1)).isnan().all()
