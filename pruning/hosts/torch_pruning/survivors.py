"""Survivors: which entries of which parameters remain after a structural step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pruning.masks.masks import Masks
from surgery.errors import CannotEdit, WrongModel
from surgery.isolation.meta_copy import scratch_copy


@dataclass(frozen=True, slots=True, eq=False)
class Survivors(Mapping[str, Tensor]):
    """Name of a parameter -> the old position of each of its entries, as an index into the flattened old tensor.

    For the parameters that a structural step has pruned. `shapes` are the old shapes.
    """

    places: Mapping[str, Tensor]
    shapes: Mapping[str, tuple[int, ...]]

    def __getitem__(self, name: str) -> Tensor:
        return self.places[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)

    def of(self, name: str, old: Tensor) -> Tensor:
        """The remaining entries of a tensor with the old shape of the parameter.

        Raises:
            WrongModel: it has another shape.
        """
        if name not in self:
            return old
        if tuple(old.shape) != self.shapes[name]:
            raise WrongModel(
                f"This tensor does not match {name} before the step.", asked=str(tuple(old.shape)),
                there=str(self.shapes[name]), try_="a tensor from before the step, converted only once",
            )  # fmt: skip
        return old.reshape(-1)[self[name].to(old.device)]

    def masks(self, masks: Masks) -> Masks:
        """The masks for the pruned model, from those of the model before the step.

        Raises:
            WrongModel: they are not masks of the model before the step.
        """
        return Masks({name: self.of(name, mask) for name, mask in masks.items()})


class Places:
    """Copies of the pruned layers that contain the position of each entry instead of its value, pruned the same way.

    Nothing is inferred from shapes: the library's own functions prune the positions as they prune the weights. In
    float64, so that positions are exact in tensors of any realistic size.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._paths = {id(module): path for path, module in model.named_modules()}
        self._layers: dict[str, nn.Module] = {}
        self._loose: dict[str, nn.Parameter] = {}  # parameters pruned on their own, without a layer

    def cut(self, group: Iterable[tuple[Any, Any]]) -> None:
        """Prune the positions as `group.prune()` prunes the weights. The model is unchanged."""
        for dependency, channels in group:
            target = dependency.target.module
            if isinstance(target, nn.Parameter):
                name = next(name for name, param in self._model.named_parameters() if param is target)
                if name not in self._loose:
                    self._loose[name] = nn.Parameter(_numbered(target))
                self._loose[name] = _retargeted(dependency, self._loose[name])(channels)
            elif id(target) in self._paths:  # else it is another node of the graph: an addition, a concatenation
                path = self._paths[id(target)]
                if path not in self._layers:
                    self._layers[path] = _of_places(target)
                _retargeted(dependency, self._layers[path])(channels)

    def left(self) -> dict[str, Tensor]:
        """The remaining positions, by the name of the parameter."""
        found: dict[str, Tensor] = {}
        for path, layer in self._layers.items():
            found |= {f"{path}.{name}" if path else name: param for name, param in layer.named_parameters()}
        return {name: places.detach().long() for name, places in (found | self._loose).items()}

    def survivors(self, before: Mapping[str, nn.Parameter]) -> Survivors:
        """The positions of the entries of the model's parameters in those from `before`.

        Raises:
            CannotEdit: a parameter was pruned in a way that the positions do not reflect.
        """
        left, places = self.left(), {}
        for name, now in self._model.named_parameters():
            if now is before.get(name):
                continue
            if name not in left or name not in before or left[name].shape != now.shape:
                raise CannotEdit(
                    f"{name} was pruned in a way that cannot be followed.", asked="a customised pruner",
                    try_="a new optimiser and new masks: the model has been pruned",
                )  # fmt: skip
            places[name] = left[name].to(now.device)
        return Survivors(places, {name: tuple(before[name].shape) for name in places})


def _of_places(layer: nn.Module) -> nn.Module:
    copied = scratch_copy(layer, meta=True).double().to_empty(device="cpu")
    with torch.no_grad():
        for param in copied.parameters():
            param.copy_(_numbered(param))
    return copied


def _numbered(param: Tensor) -> Tensor:
    return torch.arange(param.numel(), dtype=torch.float64).reshape(param.shape)


def _retargeted(dependency: Any, stand_in: nn.Module | nn.Parameter) -> Any:
    """The same pruning operation on a stand-in."""
    other, other.target = copy(dependency), copy(dependency.target)
    other.target.module = stand_in
    return other
