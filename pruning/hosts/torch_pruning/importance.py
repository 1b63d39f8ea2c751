"""Importance: an importance for Torch-Pruning under which dead channels are pruned before active ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn

from pruning.pruners.factories import check_function
from surgery.errors import BadValue, WrongModel

_MAKING = (
    torch_pruning.prune_conv_out_channels, torch_pruning.prune_depthwise_conv_out_channels,
    torch_pruning.prune_linear_out_channels,
)  # fmt: skip


class DeadNeuronImportance:
    """An importance for Torch-Pruning that prunes dead channels first; `base` orders them, and the others.

    `dead_units` says which units are dead: name of a weight -> boolean tensor, one entry per output channel, as
    `pruning.dead_units(model, batches)` measures it. A channel that several layers write (a residual stream) is
    dead if it is dead in all those that were measured. `base` is any importance, by default the magnitude of the group.
    Scores are those of `base` plus 1 for active channels, and below zero for dead ones, so that the order holds across
    groups; NaN from `base` (a group whose weights are all zero) counts as 0.

    Raises:
        WrongModel: a name is not a weight of this model.
        BadValue: an entry is not a row of booleans; when called, it has a different number of channels than the layer
            (after a step: measure again); or `base` is not such a function, for example a class.
    """

    def __init__(self, model: nn.Module, dead_units: Mapping[str, Tensor], base: Any = None) -> None:
        weights = {name for name, _ in model.named_parameters()}
        for name, dead in dead_units.items():
            if name not in weights:
                raise WrongModel(f"The model does not have a weight {name}.", asked=type(model).__name__)
            if dead.dtype != torch.bool or dead.dim() != 1:
                raise BadValue(f"{name} needs a boolean per output channel.", asked=f"{dead.dtype} {tuple(dead.shape)}")
        if base is not None:
            check_function("An importance must be a function of a group.", "base", base, takes=1)
        self._names = {id(module): f"{path}.weight" if path else "weight" for path, module in model.named_modules()}
        self._dead: dict[str, list[bool]] = {name: dead.tolist() for name, dead in dead_units.items()}
        self._base = base if base is not None else torch_pruning.importance.GroupMagnitudeImportance()

    def __call__(self, group: Any) -> Tensor | None:
        """A score per channel of the group, (channels,) in float64; None if `base` returns None."""
        scores: Tensor | None = self._base(group)
        if scores is None:
            return None
        given = scores.double().nan_to_num(nan=0.0)
        positive = torch.where(given >= 0, given + 1, 1 / (1 - given))  # above 0, in the order of `base`
        return torch.where(self._dead_in(group).to(positive.device), -1 / positive, positive)

    def _dead_in(self, group: Any) -> Tensor:
        """Which channels of a group are dead; a layer may have them in another order, or only some of them."""
        roots = group[0].root_idxs
        whole = sorted(roots) == list(
            range(len(roots))
        )  # then importances are indexed by the channels of the first layer
        place = {root: root if whole else at for at, root in enumerate(roots)}
        votes, dead = (torch.zeros(len(place), dtype=torch.long) for _ in range(2))
        for at in range(len(group)):
            dependency, channels = group[at]
            units = self._dead.get(self._names.get(id(dependency.layer), ""))
            if units is None or dependency.pruning_fn not in _MAKING:
                continue
            if len(units) != (there := _channels_of(dependency.layer)):
                raise BadValue(
                    f"{self._names[id(dependency.layer)]} has {there} output channels.", asked=f"{len(units)} units",
                    try_="measure the dead units again: the model has been pruned since",
                )  # fmt: skip
            for channel, root in zip(channels, group[at].root_idxs, strict=True):
                if root in place:
                    votes[place[root]] += 1
                    dead[place[root]] += units[channel]
        return (votes > 0) & (dead == votes)


def _channels_of(layer: nn.Module) -> int:
    return int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)  # type: ignore[arg-type]
