"""Survivors: which entries of which parameters a structural step has left."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pruning.masks.masks import Masks
from surgery.errors import CannotEdit, WrongModel
from surgery.isolation.meta_copy import twin


@dataclass(frozen=True, slots=True, eq=False)
class Survivors(Mapping[str, Tensor]):
    """Name of a parameter -> where each of its entries stood before, counted in the flattened old tensor.

    Of the parameters that a structural step has cut. `shapes` are those from before.
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
        """What has survived of a tensor with an entry for each entry of the parameter before.

        Raises:
            WrongModel: it has another shape than the parameter had.
        """
        if name not in self:
            return old
        if tuple(old.shape) != self.shapes[name]:
            raise WrongModel(
                f"This is nothing of {name} as it was before the step.", asked=str(tuple(old.shape)),
                there=str(self.shapes[name]), try_="what belongs to the model before the step, and each thing once",
            )  # fmt: skip
        return old.reshape(-1)[self[name].to(old.device)]

    def masks(self, masks: Masks) -> Masks:
        """The masks of the model as it is now, from those of the model before.

        Raises:
            WrongModel: they are not masks of the model before.
        """
        return Masks({name: self.of(name, mask) for name, mask in masks.items()})


class Places:
    """Copies of the layers that groups cut, with the place of each entry instead of its value, cut the same way.

    No shape is compared and nothing is searched for: the library's own functions cut the places as they cut the
    weights. In float64, so that places are exact in tensors of any size that fits into a machine.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._paths = {id(module): path for path, module in model.named_modules()}
        self._layers: dict[str, nn.Module] = {}
        self._loose: dict[str, nn.Parameter] = {}  # parameters that groups cut by themselves, without a layer

    def cut(self, group: Iterable[tuple[Any, Any]]) -> None:
        """Cut the places as `group.prune()` cuts the weights. The model stays as it is."""
        for dependency, channels in group:
            target = dependency.target.module
            if isinstance(target, nn.Parameter):
                name = next(name for name, param in self._model.named_parameters() if param is target)
                if name not in self._loose:
                    self._loose[name] = nn.Parameter(_numbered(target))
                self._loose[name] = _beside(dependency, self._loose[name])(channels)
            elif id(target) in self._paths:  # else it is a node of the graph: an addition, a concatenation
                path = self._paths[id(target)]
                if path not in self._layers:
                    self._layers[path] = _of_places(target)
                _beside(dependency, self._layers[path])(channels)

    def left(self) -> dict[str, Tensor]:
        """The places left, by the name of the parameter."""
        found: dict[str, Tensor] = {}
        for path, layer in self._layers.items():
            found |= {f"{path}.{name}" if path else name: param for name, param in layer.named_parameters()}
        return {name: places.detach().long() for name, places in (found | self._loose).items()}

    def survivors(self, before: Mapping[str, nn.Parameter]) -> Survivors:
        """Where the entries of the model's parameters stood in those from `before`.

        Raises:
            CannotEdit: a parameter was cut in a way that the places do not show.
        """
        left, places = self.left(), {}
        for name, now in self._model.named_parameters():
            if now is before.get(name):
                continue
            if name not in left or name not in before or left[name].shape != now.shape:
                raise CannotEdit(
                    f"{name} was cut by something that cannot be followed.", there="a customised pruner",
                    try_="a new optimiser and new masks: the model has been pruned",
                )  # fmt: skip
            places[name] = left[name].to(now.device)
        return Survivors(places, {name: tuple(before[name].shape) for name in places})


def _of_places(layer: nn.Module) -> nn.Module:
    copied = twin(layer, meta=True).double().to_empty(device="cpu")
    with torch.no_grad():
        for param in copied.parameters():
            param.copy_(_numbered(param))
    return copied


def _numbered(param: Tensor) -> Tensor:
    return torch.arange(param.numel(), dtype=torch.float64).reshape(param.shape)


def _beside(dependency: Any, stand_in: nn.Module | nn.Parameter) -> Any:
    """The same cut, of something else."""
    other, other.target = copy(dependency), copy(dependency.target)
    other.target.module = stand_in
    return other
