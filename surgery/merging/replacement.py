"""Replacement: what takes the place of a module that was merged, as data for a file, and built from it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from surgery import activations
from surgery.errors import BadFile, WrongModel
from surgery.merging.layer import Layer

# Builds the module of a layer: the layer, and the module whose place it takes.
Build = Callable[[Layer, nn.Module], nn.Module]


@dataclass(frozen=True, slots=True)
class Replacement:
    """What stands at `path` after merging: a layer, children that are kept, both in this order, or the identity.

    A layer called `name` and the children in `kept` are put into a sequence, each under the name that it had in the
    module before; a layer without a name is put at the path itself. `function` is an activation that was called
    without a module: its name and parameters, a child called "act".
    """

    path: str
    layer: Layer | None = None
    name: str = ""
    kept: tuple[str, ...] = ()
    function: tuple[str, tuple[tuple[str, float], ...]] | None = None

    @classmethod
    def from_data(cls, data: Any) -> Replacement:
        """The replacement that a file describes.

        Raises:
            BadFile: it does not describe one.
        """
        try:
            layer = None if data["layer"] is None else Layer.from_data(data["layer"])
            function = data["function"] and (data["function"][0], tuple(map(tuple, data["function"][1])))
            made = cls(data["path"], layer, data["name"], tuple(data["kept"]), function)
            if not all(isinstance(name, str) for name in (made.path, made.name, *made.kept)) or not made.path:
                raise TypeError
        except (TypeError, KeyError, IndexError) as error:
            raise BadFile("The file describes a merge that cannot be made.", asked=repr(data)[:200]) from error
        return made

    def to_data(self) -> dict[str, Any]:
        """The replacement as plain data."""
        layer = None if self.layer is None else self.layer.to_data()
        return {"path": self.path, "layer": layer, "name": self.name, "kept": self.kept, "function": self.function}

    @property
    def layer_path(self) -> str:
        """The path of its layer in the model."""
        return f"{self.path}.{self.name}" if self.name else self.path

    def replaced(self, model: nn.Module) -> nn.Module:
        """The module whose place the layer takes."""
        return model.get_submodule(self.layer_path)

    def build(self, model: nn.Module, build: Build) -> nn.Module:
        """The module to put at the path; `build` makes that of the layer.

        Raises:
            WrongModel: the model has no such module, or not the children to be kept.
        """
        try:
            old = model.get_submodule(self.path)
            parts = {name: old.get_submodule(name) for name in self.kept}
            replaced = self.replaced(model)
        except AttributeError as error:
            raise WrongModel(
                "The saved model has layers merged that this one does not have.", asked=str(error),
                try_="build it with the same name, arguments and versions (see surgery.json)",
            ) from error  # fmt: skip
        if self.layer is None:
            return _sequence(list(parts.items())) if parts else nn.Identity()
        made = build(self.layer, replaced)
        behind = list(parts.items())
        if self.function is not None:
            name, options = self.function
            params: dict[str, Any] = dict(options)
            behind.append(("act", activations.build(name, **params)))
        return _sequence([(self.name, made), *behind]) if self.name else made


def _sequence(named: Sequence[tuple[str, nn.Module]]) -> nn.Sequential:
    """These modules one after the other, under their names; those with dots are nested."""
    heads = OrderedDict[str, list[tuple[str, nn.Module]]]()
    for name, module in named:
        head, _, rest = name.partition(".")
        heads.setdefault(head, []).append((rest, module))
    return nn.Sequential(OrderedDict((head, _joined(parts)) for head, parts in heads.items()))


def _joined(parts: Iterable[tuple[str, nn.Module]]) -> nn.Module:
    parts = list(parts)
    return parts[0][1] if parts[0][0] == "" else _sequence(parts)
