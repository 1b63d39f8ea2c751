"""Paddings: which blocks can be made ready to be merged, and the padding of their convolutions then."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from surgery.cost.action import inner_sites
from surgery.cost.editable import Group
from surgery.errors import SurgeryError
from surgery.look.site import Sites
from surgery.merging.padding import Paddings, moved_padding
from surgery.plan.rules import swap
from surgery.transforms import transform


def paddings_of(model: nn.Module, sites: Sites, groups: Iterable[Group]) -> dict[str, Paddings]:
    """For each block, by path, the moved padding of its convolutions once what is inside it is linear.

    Blocks whose padding stays are left out: they are merged wherever the calls inside them are erased.
    """
    listed = list(groups)
    inner = {str(block): inner_sites(listed, str(block)) for block in sites.blocks if block.module is not None}
    inner = {block: names for block, names in inner.items() if names}
    if not inner:
        return {}
    try:
        linear, _ = transform(model, swap("affine", site=tuple(name for names in inner.values() for name in names)),
                              sites.example)  # fmt: skip
        moved = moved_padding(linear, sites.example, blocks=list(inner))
    except SurgeryError:  # as a whole it cannot be made linear, so that no block is offered
        return {}
    found = {block: {path: sizes for path, sizes in moved.items() if path.startswith(f"{block}.")} for block in inner}
    return {block: paddings for block, paddings in found.items() if paddings}
