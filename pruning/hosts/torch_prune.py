"""torch.nn.utils.prune as a host: AP as importance scores for its own functions, or in one call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from pruning.ap import Among, By, Choice, cut_by_ap, order
from pruning.hosts import nncf
from pruning.hosts.own import checked_count
from pruning.masks import Masks, host_mask
from pruning.prunable import Filter, owner_of
from pruning.round import Round
from surgery.errors import BadValue
from surgery.find import check_plain

Importance = dict[tuple[nn.Module, str], Tensor]


def importance(
    model: nn.Module,
    before: Mapping[str, Tensor],
    among: Among = "negative",
    by: By = "still",
    *,
    batches: Iterable[Any] | None = None,
    seed: int = 0,
    keep: Filter | None = None,
) -> Importance:
    """AP as the `importance_scores` of `prune.global_unstructured`: the lowest go first, all below what may not go.

    `before` is `pruning.snapshot(model)` from when the round began. A tensor of numbers from 0 up for each prunable
    weight, infinite where AP may not cut: of equal numbers torch may take any, and it cuts infinite ones too where
    there are too few others. The scores are of the weights as they are now.

        scores = importance(model, before)
        prune.global_unstructured(list(scores), prune.L1Unstructured, importance_scores=scores, amount=100)

    `among`, `by`, `batches` and `seed` as in `with_ap`, `keep` as in `prunable`.

    Raises:
        CannotLook, NothingPicked: as `prunable`.
        WrongModel: the snapshot is of another model.
        BadValue: an unknown word, a living weight that is not finite, or a weight that another host holds.

    Source: Activate-while-Pruning: |weight now - weight before| among negative weights.
    """
    now = _round(model, before, keep)
    scores, may = order(now, Choice(among, by, batches, seed))
    free = {name: mask & may[name] for name, mask in now.masks.items()}
    lowest = min((float(scores[name][one].min()) for name, one in free.items() if bool(one.any())), default=0.0)
    found: Importance = {}
    for name, one in free.items():
        values = scores[name] if lowest >= 0 else scores[name].double() - lowest  # L1Unstructured drops the sign
        found[owner_of(model, name)] = values.masked_fill(~one, torch.inf)
    return found


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
    """AP cuts exactly `count` weights more and masks them with torch.nn.utils.prune; returns what lives then.

    As `prune.global_unstructured` with `importance`, but of equal scores the first goes, and the masks of a weight are
    one afterwards: their containers do not grow from round to round. Weights that were plain are under masks then.

    Raises:
        CannotLook, NothingPicked, WrongModel: as `importance`.
        BadValue: as `importance`; `count` is no count, or more than AP may cut. Nothing has changed.
    """
    after = cut_by_ap(_round(model, before, keep), checked_count(count), Choice(among, by, batches, seed))
    for name, mask in after.items():
        lay(*owner_of(model, name), mask)
    return after


def finish(model: nn.Module) -> Masks:
    """Make the masks permanent: every weight under torch.nn.utils.prune is plain again, with the same numbers.

    Returns the masks that these weights had: an optimiser that goes on remembers the pruned ones, so train on inside
    `masks.held(model, optimizer)`. Names in the state dict are those of the unpruned model; their order is the one
    that `prune.remove` leaves.

    Raises:
        CannotLook: the model is wrapped or scripted.
    """
    check_plain(model)
    held = [(path, module, own) for path, module in model.named_modules() for own in _names_under(module)]
    masks = {f"{path}.{own}" if path else own: getattr(module, f"{own}_mask") != 0 for path, module, own in held}
    for _, module, own in held:
        prune.remove(module, own)
    return Masks({name: mask for name, mask in masks.items() if mask.dim() >= 2})


def is_under(module: nn.Module, own: str) -> bool:
    """Whether torch.nn.utils.prune masks this parameter."""
    return own in _names_under(module)


@torch.no_grad()  # the masked weight stays a leaf until the next forward: it can be copied
def lay(module: nn.Module, own: str, mask: Tensor) -> None:
    """Lay a mask over a parameter with torch.nn.utils.prune, on top of what is there, as a single pruning method."""
    mask = mask.to(module.get_parameter(f"{own}_orig" if is_under(module, own) else own).device)
    if is_under(module, own):
        mask = mask & (module.get_buffer(f"{own}_mask") != 0)
        prune.remove(module, own)
    prune.custom_from_mask(module, own, mask)


def _names_under(module: nn.Module) -> list[str]:
    """The parameters of this module that torch.nn.utils.prune masks."""
    hooks = module._forward_pre_hooks.values()
    return [hook._tensor_name for hook in hooks if isinstance(hook, prune.BasePruningMethod)]


def _round(model: nn.Module, before: Mapping[str, Tensor], keep: Filter | None) -> Round:
    """The round that ends now, if torch.nn.utils.prune can reach all of its weights."""
    now = Round.of(model, before, keep=keep)
    others = nncf.masks_of(model)
    for name in now.masks:
        module, own = owner_of(model, name)
        if name in others or not (is_under(module, own) or host_mask(model, name) is None):
            raise BadValue(
                f"torch.nn.utils.prune cannot mask {name}.", there="a mask of another host over it",
                try_="the adapter of that host, or keep=lambda name, module: ..., without such weights",
            )  # fmt: skip
    return now
