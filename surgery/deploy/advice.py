"""Advice: what to swap a function for that a target lacks, takes apart, or computes wrongly."""

from __future__ import annotations

from torch import Tensor, nn

from surgery.activations import row_of
from surgery.activations.support import OPERATOR, PIECES, support
from surgery.deploy.distances import Distances, nearest_of
from surgery.deploy.probe import Probed
from surgery.look.site import Site

MANY = 4  # operators that a function may be taken apart into before another one is proposed


def instead_of(function: nn.Module, site: Site, probed: Probed, entered: Tensor, target: str) -> str:
    """The nearest function that is well off on the target; "" if this one is.

    Only functions without parameters count. Near is a small root mean square of the difference, on what enters there.
    """
    if is_well_off(probed.verdict, len(probed.operators)):
        return ""
    distances = Distances(function, candidates(site, target))
    distances.add(entered)
    return nearest_of(distances.relative)


def is_well_off(verdict: str, operators: int) -> bool:
    """Whether a function that becomes this many operators need not be swapped: runtimes fuse a few small ones."""
    return verdict == OPERATOR or (verdict == PIECES and operators <= MANY)


def candidates(site: Site, target: str, precision: str = "fp32") -> list[str]:
    """The functions without parameters that are well off on the target, other than the one at the site.

    For a gate other gates; none that computes what another one does, as a HeLU.
    """
    role = row_of(site.activation).role
    cells = support().matching(target=target, precision=precision, layout="image")
    there = [row_of(cell.function) for cell in cells if is_well_off(cell.verdict, len(cell.operators))]
    return [
        row.name for row in there if row.role == role and row.name != site.activation and not row.learns + row.begins
    ]


def layout_of(site: Site) -> str:
    """ "tokens" for a learned function with its channels on the last of three axes, else "image"."""
    tokens = row_of(site.activation).learns and len(site.shape) == 3 and site.channel_axis == 2
    return "tokens" if tokens else "image"
