"""NNCF as a host: AP beside `nncf.prune`, whose schedulers compute all masks anew at every step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from pruning.ap import Among, By, Choice
from pruning.hosts.own import own_cut
from pruning.masks import Masks
from pruning.prunable import Filter, weights_of

_HOOKS = "__nncf_hooks"  # where NNCF keeps what it does to a model


def living(model: nn.Module, keep: Filter | None = None) -> Masks:
    """The weights that live now in a model under `nncf.prune`; elsewhere as `Masks.of`.

    NNCF leaves the weights as they are and masks them in the forward: `Masks.of` alone sees no zero there.

    Raises:
        CannotLook, NothingPicked, BadValue: as `prunable`.
    """
    alive = Masks.of(model, keep)
    return alive & {name: mask for name, mask in masks_of(model).items() if name in alive}


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
    """AP cuts exactly `count` weights more of those that `nncf.prune` masks by magnitude; returns what AP cut.

    The masks returned are False only there. NNCF's schedulers compute all masks anew: lay AP's over them again after
    each of their steps, and gather them over the rounds with `&`. `before` is `pruning.snapshot(model)` from when the
    round began; `among`, `by`, `batches` and `seed` as in `with_ap`, `keep` as in `prunable`.

        mine = hosts.nncf.cut(model, before, count=100)
        for epoch in ...:
            scheduler.step()
            hosts.commit(model, mine)
            train(model)

    NNCF's ratio counts the weights as they are, AP's cut comes on top of it.

    Raises:
        CannotLook: the model is wrapped or scripted.
        NothingPicked: NNCF masks none of these weights by magnitude.
        WrongModel: the snapshot is of another model.
        BadValue: an unknown word; `count` is no count, or more than AP may cut; a living weight is not finite.
            Nothing has changed.
    """
    return own_cut(model, before, masks_of(model), count, Choice(among, by, batches, seed), keep)


def masks_of(model: nn.Module) -> dict[str, Tensor]:
    """The masks of `nncf.prune` (by magnitude) themselves, by the names of `prunable`; none for another model."""
    if _HOOKS not in model._modules:
        return {}
    from nncf.torch.function_hook.pruning.magnitude.algo import get_pruned_modules

    every = dict(model.named_parameters(remove_duplicate=False))  # tied weights have several names
    hooks = {id(every[name]): hook for name, hook in get_pruned_modules(model).items() if name in every}
    # In our order: NNCF's is another one in every process.
    return {name: hooks[id(param)].binary_mask for name, param in weights_of(model).items() if id(param) in hooks}
