"""Compensation: keep the mean outputs of the layers of a network that is cut."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from pruning.masks.masks import Masks
from pruning.processes import averaged
from surgery.errors import BadValue, NothingPicked
from surgery.isolation.meta_copy import scratch_copy
from surgery.model import check_plain, home_of, in_eval
from surgery.repair.batches import batch_errors, batches_of


def compensate(model: nn.Module, masks: Masks, batches: Iterable[Any]) -> dict[str, Tensor]:
    """Lay masks over a model, and make up for the mean of what they cut, in place.

    Takes the place of `masks.lay_over(model)`: weights that the masks prune must still have their values. The batches
    run through the network before the cut and after it, in eval mode. The bias of every convolution and linear layer
    gets the difference between the mean outputs, per output channel, and the running mean of every batch norm that
    between its mean inputs, each measured with the earlier differences made up for. So on one batch the mean of
    every layer that is called once is again what it was; over several calls or batches the differences are averaged.
    What cannot take a difference (a layer without a bias, nor a batch norm behind it) stays as cut.

    This holds in eval mode, for means: what a cut takes from the variances stays lost. Where batch norms divide by the
    deviation from before, it adds up over the layers, so that a network with batch norms is for `surgery.recalibrate`,
    which re-estimates both. In training a batch norm subtracts the mean of the batch anyway, and nothing is gained.

    `batches` are tensors (N, ...), pairs (images, labels) or dicts with an "image"; they are read once. Returns what
    was added, by the names of the state dict: "fc.bias", "bn1.running_mean". With torch.distributed, every process must
    call this, and each adds the average over all.

    Raises:
        CannotLook: the model is wrapped or scripted, or cannot be copied.
        NothingPicked: the model has neither a layer with a bias nor a batch norm with a running mean.
        BadValue: there are no batches, one fails in the model, or a mean is not finite. Nothing has changed.
        WrongModel: the masks belong to another model.

    Source: Evci et al. 2018, "Mean Replacement Pruning", for single weights instead of units; layer by layer as the
    bias correction of Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction".
    """
    found = averaged(lambda: differences(model, masks, batches))
    masks.lay_over(model)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    added = {name: value.to(tensors[name]) for name, value in found.items()}
    with torch.no_grad():
        for name, value in added.items():
            tensors[name].add_(value)
    return added


def differences(model: nn.Module, masks: Masks, batches: Iterable[Any]) -> dict[str, Tensor]:
    """What `compensate` adds to which tensor; the model is unchanged. `Raises:` as there."""
    check_plain(model)
    if home_of(model).type == "meta":
        raise BadValue(f"{type(model).__name__} has no values: it is on the meta device.", try_="a model with weights")
    whole, cut = (scratch_copy(model, meta=False) for _ in range(2))
    masks.lay_over(cut)
    named = dict(_adjustable(model))
    if not named:
        raise NothingPicked(
            f"{type(model).__name__} has nowhere to put the mean of what is cut.", asked="compensate",
            there="no bias of a convolution or linear layer, no running mean of a batch norm", try_="masks.lay_over",
        )  # fmt: skip
    places = {path: _Place() for path in named}
    with in_eval(whole), in_eval(cut), ExitStack() as hooks:
        for path, place in places.items():
            hooks.callback(_hooked(whole.get_submodule(path), place.note).remove)
            hooks.callback(_hooked(cut.get_submodule(path), place.adjust).remove)
        for number, batch in enumerate(batches_of(batches, model), 1):
            for place in places.values():
                place.means.clear()  # of calls that the last batch made only before the cut
            with batch_errors(number, model, batch.images):
                whole(batch.images.clone())  # the model may overwrite them
                cut(batch.images.clone())
    return _per_tensor(named, places)


@dataclass(slots=True, eq=False)
class _Place:
    """Where a difference is made up for: the output of a layer, or the input of a norm."""

    means: list[Tensor] = field(default_factory=list)  # before the cut, of the calls of the current batch
    total: Tensor | float = 0.0
    values: int = 0

    def note(self, x: Tensor, axis: int) -> None:
        """Note the mean of a call in the network before the cut."""
        self.means.append(_mean(x, axis))

    def adjust(self, x: Tensor, axis: int) -> Tensor | None:
        """The values of the same call after the cut, with the mean from before."""
        if not self.means:  # this call is made only after the cut
            return None
        difference = self.means.pop(0) - _mean(x, axis)
        values = x.numel() // len(difference)
        self.total, self.values = self.total + difference * values, self.values + values
        return x + difference.to(x.dtype).view(-1, *[1] * (x.dim() - 1 - axis))


def _adjustable(model: nn.Module) -> Iterator[tuple[str, str]]:
    """The path of every module that can take a difference, and the name of the tensor where; one name if it is tied."""
    names: dict[int, str] = {}
    for path, module in model.named_modules():
        own = "running_mean" if isinstance(module, _BatchNorm) else "bias"
        tensor = module._buffers.get(own) if own == "running_mean" else module._parameters.get(own)
        if isinstance(module, _BatchNorm | _ConvNd | nn.Linear) and tensor is not None:
            yield path, names.setdefault(id(tensor), f"{path}.{own}" if path else own)


def _hooked(module: nn.Module, see: Any) -> Any:
    """Show the inputs of a norm, or the outputs of a layer, to `see`, which may return others."""
    if isinstance(module, _BatchNorm):

        def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            first = None if args else next(iter(kwargs))
            seen = see(args[0] if first is None else kwargs[first], 1)
            if seen is None:
                return None
            return ((seen, *args[1:]), kwargs) if first is None else (args, {**kwargs, first: seen})

        return module.register_forward_pre_hook(enter, with_kwargs=True)
    behind = len(module.kernel_size) if isinstance(module, _ConvNd) else 0  # axes behind the channels
    return module.register_forward_hook(lambda _, args, output: see(output, output.dim() - 1 - behind))


def _mean(x: Tensor, axis: int) -> Tensor:
    return x.detach().movedim(axis, 0).reshape(x.shape[axis], -1).mean(1, dtype=torch.float64)


def _per_tensor(named: Mapping[str, str], places: Mapping[str, _Place]) -> dict[str, Tensor]:
    """The mean difference of each tensor that was used, over all places that share it; negative for a running mean."""
    found: dict[str, tuple[Any, int]] = {}
    for path, name in named.items():
        total, values = found.get(name, (0.0, 0))
        found[name] = total + places[path].total, values + places[path].values
    added = {}
    for name, (total, values) in found.items():
        if not values:
            continue
        if not bool(total.isfinite().all()):
            raise BadValue(f"The mean difference at {name} is not finite.", try_="batches and weights without NaN")
        added[name] = (total / values) * (-1 if name.rpartition(".")[2] == "running_mean" else 1)
    return added
