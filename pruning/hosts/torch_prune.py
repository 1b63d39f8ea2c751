"""torch.nn.utils.prune: AP as importance scores for its functions, or in one call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from pruning.ap.choice import Among, By, Choice, cut_by_ap, order
from pruning.hosts.remasking import checked_count
from pruning.masks.host_masks import host_masks, nncf_masks
from pruning.masks.masks import Masks
from pruning.masks.prunable import Filter, owner_of
from pruning.rounds.round import Round
from surgery.errors import BadValue
from surgery.model import check_plain

Importance = dict[tuple[nn.Module, str], Tensor]

# Modules whose forward reads the weights of these children without calling them; torchvision is not imported.
_READ_BY_PARENT = {"ShiftedWindowAttention": ("qkv", "proj")}


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
    """AP as the `importance_scores` of `prune.global_unstructured`: the lowest are cut first.

    `before` is `pruning.snapshot(model)` from when the round began. Returns a tensor of scores, 0 or more, for each
    prunable weight, infinite where AP may not cut: torch breaks ties arbitrarily, and cuts infinite ones if there are
    too few others. The scores refer to the current weights.

    Example::

        scores = importance(model, before)
        prune.global_unstructured(list(scores), prune.L1Unstructured, importance_scores=scores, amount=100)

    `among`, `by`, `batches` and `seed` as in `with_ap`, `keep` as in `prunable`.

    Raises:
        CannotLook, NothingPicked: as for `prunable`.
        WrongModel: the snapshot belongs to another model.
        BadValue: an unknown word, an unpruned weight that is not finite, a weight masked by another library, or one
            that torch's masks do not reach, see `cut`.

    Source: Activate-while-Pruning: `|weight now - weight before|` among negative weights.
    """
    now = _round(model, before, keep)
    scores, may = order(now, Choice(among, by, batches, seed))
    free = {name: mask & may[name] for name, mask in now.masks.items()}
    lowest = min(
        (float(scores[name][allowed].min()) for name, allowed in free.items() if bool(allowed.any())), default=0.0
    )
    found: Importance = {}
    for name, allowed in free.items():
        values = scores[name] if lowest >= 0 else scores[name].double() - lowest  # L1Unstructured ignores the sign
        found[owner_of(model, name)] = values.masked_fill(~allowed, torch.inf)
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
    """Let AP cut exactly `count` more weights, masked with torch.nn.utils.prune; return the masks in force.

    Like `prune.global_unstructured` with `importance`, except that ties are broken by position, and that the masks of a
    weight are merged into one: their containers do not grow from round to round. Plain weights get a mask only if
    something in them is cut.

    torch applies a mask before the forward of its layer. If that is never called, since an enclosing module reads the
    weight (`out_proj` of `nn.MultiheadAttention`, windowed attention of torchvision), the weight would no longer
    learn; of tied weights only one would be masked. Both raise an error: use `pruning.run_rounds`, or
    `ActivateWhilePruning` and `masks.held`, which need no hooks, or a `keep` that leaves them out.

    Raises:
        CannotLook, NothingPicked, WrongModel: as for `importance`.
        BadValue: as for `importance`; `count` is negative, or more than AP may cut. Nothing has changed.
    """
    now = _round(model, before, keep)
    after = cut_by_ap(now, checked_count(count), Choice(among, by, batches, seed))
    for name, mask in after.items():
        module, own = owner_of(model, name)
        if is_under(module, own) or not torch.equal(mask, now.masks[name]):
            lay(module, own, mask)
    return after


def finish(model: nn.Module) -> Masks:
    """Make the masks permanent: every weight masked by torch.nn.utils.prune is plain again, with the same values.

    Returns the masks of these weights: optimiser state would revive pruned ones, so continue training inside
    `masks.held(model, optimizer)`. Names in the state dict are those of the unpruned model, in the order left by
    `prune.remove`. Parameters of one axis (biases), which nothing else would keep at zero, stay masked by torch, under
    torch's names: `prune.remove(module, "bias")` unmasks them.

    Raises:
        CannotLook: the model is wrapped or scripted.
    """
    check_plain(model)
    held = [(path, module, own) for path, module in model.named_modules() for own in _masked_names(module)
            if module.get_buffer(f"{own}_mask").dim() >= 2]  # fmt: skip
    masks = {f"{path}.{own}" if path else own: module.get_buffer(f"{own}_mask") != 0 for path, module, own in held}
    for _, module, own in held:
        prune.remove(module, own)
    return Masks(masks)


def check_reached(model: nn.Module, names: Iterable[str]) -> None:
    """Check that a mask of torch.nn.utils.prune takes effect on these weights, everywhere they are used.

    Raises:
        BadValue: the layer of one is never called, or several layers use it.
    """
    skipped = {
        id(child): f"{type(parent).__name__}, which reads it without calling {name}: it would no longer learn"
        for parent in model.modules() for name, child in parent.named_children() if name in _read_by(parent)
    }  # fmt: skip
    readers = Counter(id(param) for module in model.modules() for param in module._parameters.values())
    for name in names:
        module, own = owner_of(model, name)
        reason = skipped.get(id(module))
        if reason is None and readers[id(module._parameters.get(f"{own}_orig", module._parameters.get(own)))] > 1:
            reason = "a tied weight, which would be masked in one layer only"
        if reason is not None:
            raise BadValue(
                f"A mask of torch.nn.utils.prune does not reach {name}.", asked=reason,
                try_="pruning.run_rounds, or masks.held(model, optimizer), on the plain model; or keep= without it",
            )  # fmt: skip


def _read_by(parent: nn.Module) -> tuple[str, ...]:
    """The children whose weights a module reads without calling them."""
    if isinstance(parent, nn.MultiheadAttention):
        return ("out_proj",)
    return next((names for kind in type(parent).__mro__ if (names := _READ_BY_PARENT.get(kind.__name__))), ())


def is_under(module: nn.Module, own: str) -> bool:
    """Whether this parameter is masked by torch.nn.utils.prune."""
    return own in _masked_names(module)


@torch.no_grad()  # the masked weight stays a leaf until the next forward: it can be copied
def lay(module: nn.Module, own: str, mask: Tensor) -> None:
    """Mask a parameter with torch.nn.utils.prune, merged with an existing mask into a single pruning method."""
    mask = mask.to(module.get_parameter(f"{own}_orig" if is_under(module, own) else own).device)
    if is_under(module, own):
        mask = mask & (module.get_buffer(f"{own}_mask") != 0)
        prune.remove(module, own)
    prune.custom_from_mask(module, own, mask)


def _masked_names(module: nn.Module) -> list[str]:
    """The parameters of this module that are masked by torch.nn.utils.prune."""
    hooks = module._forward_pre_hooks.values()
    return [hook._tensor_name for hook in hooks if isinstance(hook, prune.BasePruningMethod)]


def _round(model: nn.Module, before: Mapping[str, Tensor], keep: Filter | None) -> Round:
    """The current round, after a check that torch.nn.utils.prune reaches all of its weights."""
    now = Round.of(model, before, keep=keep)
    hosts, nncf = host_masks(model), nncf_masks(model)
    for name in now.masks:
        if name in nncf or (name in hosts and not is_under(*owner_of(model, name))):
            raise BadValue(
                f"torch.nn.utils.prune cannot mask {name}.", asked="a mask of another library over it",
                try_="the adapter of that library, or keep=lambda name, module: ..., without such weights",
            )  # fmt: skip
    check_reached(model, now.masks)
    return now
