"""Host masks: the masks that other pruning libraries have put on the weights of a model."""

from __future__ import annotations

from torch import Tensor, nn

from pruning.masks.prunable import owner_of, weights_of

_NNCF = "__nncf_hooks"  # where NNCF stores its hooks


def host_masks(model: nn.Module) -> dict[str, Tensor]:
    """The masks of `torch.nn.utils.prune`, `torch.ao.pruning` and NNCF (not copies), by the names of `prunable`.

    Of any dtype, zero where a weight is pruned. Without masks that NNCF learns, which are not binary yet.
    """
    found = {name: _mask_over(*owner_of(model, name)) for name in weights_of(model)}
    return {name: mask for name, mask in found.items() if mask is not None} | nncf_masks(model)


def nncf_masks(model: nn.Module) -> dict[str, Tensor]:
    """The masks of `nncf.prune` (by magnitude) alone; empty for a model without them."""
    if _NNCF not in model._modules:
        return {}
    from nncf.torch.function_hook.pruning.magnitude.algo import get_pruned_modules

    every = dict(model.named_parameters(remove_duplicate=False))  # tied weights have several names
    hooks = {id(every[name]): hook for name, hook in get_pruned_modules(model).items() if name in every}
    # In the order of the model: NNCF's order differs between processes.
    return {name: hooks[id(param)].binary_mask for name, param in weights_of(model).items() if id(param) in hooks}


def _mask_over(module: nn.Module, own: str) -> Tensor | None:
    buffered: Tensor | None = module._buffers.get(f"{own}_mask")
    if buffered is not None:
        return buffered
    for parametrization in getattr(getattr(module, "parametrizations", {}), own, ()):
        mask = getattr(parametrization, "mask", None)
        if isinstance(mask, Tensor):
            return mask
    return None
