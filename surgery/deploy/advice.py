"""Advice: what to exchange a function for that a target lacks, takes apart, or computes wrongly."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from surgery.activations import build, row_of
from surgery.activations.support import OPERATOR, PIECES, support
from surgery.deploy.probe import Probed
from surgery.look.site import Site

MANY = 3  # operators that a function may be taken apart into before another one is proposed


def instead_of(function: nn.Module, site: Site, probed: Probed, entered: Tensor, target: str) -> str:
    """The nearest function that the target has as one operator; "" if the function is well off there as it is.

    Only functions without parameters count. Near is a small root mean square of the difference, on what enters there.
    """
    if probed.verdict == OPERATOR or (probed.verdict == PIECES and len(probed.operators) <= MANY):
        return ""
    cells = support().where(target=target, layout=layout_of(site), precision="fp32", verdict=OPERATOR).cells
    apart = {
        cell.function: distance(function, build(cell.function), entered)
        for cell in cells
        if cell.function != site.activation and _is_plain(cell.function)
    }
    return min(apart, key=lambda name: apart[name]) if apart else ""


def distance(function: nn.Module, other: nn.Module, entered: Tensor) -> float:
    """The root mean square of the difference of two functions on this input."""
    with torch.no_grad():
        apart: Tensor = function(entered.clone()) - other(entered.clone())
    return apart.square().mean().sqrt().item()


def layout_of(site: Site) -> str:
    """ "tokens" where the channels are on the last of three axes, else "image"."""
    return "tokens" if len(site.shape) == 3 and site.channel_axis == 2 else "image"


def _is_plain(name: str) -> bool:
    row = row_of(name)
    return row.role == "nonlinearity" and not row.learns
