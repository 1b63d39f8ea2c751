"""Family fits: the best member of a family with one parameter, by search on points."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from surgery.simplification.points import Points

Family = Callable[[Tensor, Tensor], Tensor]  # x (n, columns) and the parameter (columns,)

_MEMBERS, _ROUNDS = 33, 4


def swish_beta(points: Points) -> dict[str, Tensor]:
    """The beta of a Swish per column, from 0.01 to 100."""
    return {"beta": _searched(points, lambda x, beta: x * torch.sigmoid(beta * x))}


def smelu_beta(points: Points) -> dict[str, Tensor]:
    """The beta of a SmeLU per column, from 0.01 to 100."""

    def smelu(x: Tensor, beta: Tensor) -> Tensor:
        return torch.where(x < beta, F.relu(x + beta).square() / (4 * beta), x)

    return {"beta": _searched(points, smelu)}


def _searched(points: Points, family: Family) -> Tensor:
    """On a logarithmic grid, refined around its best member."""
    x, y, weights = points.columns
    middle, reach = torch.zeros_like(x[0]), 2.0  # powers of ten
    for _ in range(_ROUNDS):
        members = middle + torch.linspace(-reach, reach, _MEMBERS, dtype=x.dtype).unsqueeze(1)
        errors = torch.stack([(weights * (family(x, 10**member) - y).square()).sum(0) for member in members])
        middle = members.gather(0, errors.argmin(0, keepdim=True))[0]
        reach = 2 * reach / (_MEMBERS - 1)
    return 10**middle
