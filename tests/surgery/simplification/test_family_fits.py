"""Family fits find the member that made the points."""

from __future__ import annotations

import pytest
import torch

from surgery.activations import SmeLU, Swish
from surgery.simplification.family_fits import smelu_beta, swish_beta
from surgery.simplification.points import Points

BETAS = torch.tensor([0.3, 1.0, 1.702, 5.0])


def inputs() -> torch.Tensor:
    return 2 * torch.randn(400, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(("kind", "fit"), [(Swish, swish_beta), (SmeLU, smelu_beta)])
def test_the_betas_of_a_member_are_found(kind: type[Swish | SmeLU], fit: object) -> None:
    function = kind(4).requires_grad_(False)
    function.beta.copy_(BETAS)
    found = fit(Points(inputs(), function.double(), shared=False))["beta"]  # type: ignore[operator]
    assert torch.allclose(found, BETAS.double(), rtol=1e-3)


@pytest.mark.parametrize(("kind", "fit"), [(Swish, swish_beta), (SmeLU, smelu_beta)])
def test_shared_parameters_get_one_beta(kind: type[Swish | SmeLU], fit: object) -> None:
    function = kind(1, 0.7).requires_grad_(False).double()
    found = fit(Points(inputs(), function, shared=True))["beta"]  # type: ignore[operator]
    assert found.shape == (1,) and abs(found.item() - 0.7) < 1e-3
