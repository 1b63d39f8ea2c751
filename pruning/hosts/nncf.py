"""NNCF: AP combined with `nncf.prune`, whose schedulers recompute all masks at every step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from pruning.ap.ap import Among, By, Choice
from pruning.hosts.remasking import own_cut
from pruning.masks.host_masks import nncf_masks
from pruning.masks.masks import Masks
from pruning.masks.prunable import Filter


def cut(
    model: nn.Module,
    before: Mapping[str, Tensor],
    count: int,
    among: Among = "negative",
    by: By = "still",
    *,
    batches: Iterable[Any] | None = None,
    seed: int = 0,
    keep: Filter | None = None,
) -> Masks:
    """Let AP cut exactly `count` more of the weights that `nncf.prune` masks by magnitude; return AP's masks.

    These are False only for the weights that AP cut. NNCF's schedulers recompute all masks: commit AP's again after
    each of their steps, and combine them over the rounds with `&`. `before` is `pruning.snapshot(model)` from when the
    round began; `among`, `by`, `batches` and `seed` as in `with_ap`, `keep` as in `prunable`.

    Example::

        mine = hosts.nncf.cut(model, before, count=100)
        for epoch in ...:
            scheduler.step()
            hosts.commit(model, mine)
            train(model)

    NNCF's ratio does not include AP's cut, which comes on top of it.

    Raises:
        CannotLook: the model is wrapped or scripted.
        NothingPicked: NNCF masks none of these weights by magnitude.
        WrongModel: the snapshot belongs to another model.
        BadValue: an unknown word; `count` is negative, or more than AP may cut; an unpruned weight is not finite.
            Nothing has changed.
    """
    return own_cut(model, before, nncf_masks(model), count, Choice(among, by, batches, seed), keep)
