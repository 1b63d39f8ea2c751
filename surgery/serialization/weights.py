"""Weights: write the tensors of a model to a plain safetensors file, and load them into a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from surgery.dataflow.operations import activation_of_module
from surgery.errors import BadFile, BadValue, WrongModel
from surgery.model import parents_of
from surgery.tensors import identical, overwrite

Shape = tuple[int, ...]

_LIKEWISE = "change the fresh model like the saved one (for example the same new head), then load"


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """The header of a weights file: shapes by name, and its metadata; the tensors are not read yet.

    Of several names of one tensor only one is in the file; `same` maps the others to it.
    """

    path: Path
    shapes: Mapping[str, Shape]
    same: Mapping[str, str]

    @classmethod
    def of(cls, path: Path) -> Weights:
        """Read the header of a file.

        Raises:
            BadFile: it is not a safetensors file.
        """
        try:
            with safe_open(str(path), framework="pt") as file:
                shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
                metadata = file.metadata() or {}
        except (SafetensorError, OSError, ValueError) as error:
            raise BadFile(f"{path.name} cannot be read.", asked=f"{type(error).__name__}: {error}") from error
        return cls(path, shapes, {name: kept for name, kept in metadata.items() if kept in shapes})

    def shape_of(self, name: str) -> Shape | None:
        """The shape of a tensor; None if it is not in the file."""
        return self.shapes.get(self.same.get(name, name))

    def below(self, path: str) -> list[Shape]:
        """The shapes of the tensors of the module at this path."""
        names = [name for name in (*self.shapes, *self.same) if name.startswith(f"{path}.")]
        return [self.shapes[self.same.get(name, name)] for name in names]

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Read these tensors, by name.

        Raises:
            BadFile: the file cannot be read.
        """
        try:
            with safe_open(str(self.path), framework="pt") as file:
                return {name: file.get_tensor(self.same.get(name, name)) for name in names}
        except (SafetensorError, OSError, ValueError) as error:
            raise BadFile(f"{self.path.name} cannot be read.", asked=f"{type(error).__name__}: {error}") from error


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and persistent buffer, by its names in the state dict: a shared tensor under each name."""
    return {
        f"{path}.{name}" if path else name: tensor
        for path, module in model.named_modules(remove_duplicate=False)
        for name, tensor in (*module._parameters.items(), *module._buffers.items())
        if tensor is not None and name not in module._non_persistent_buffers_set
    }


def write_weights(model: nn.Module, path: Path, metadata: Mapping[str, str]) -> None:
    """Write the tensors of a model into a file, as `safetensors.torch.load_model` reads it.

    Raises:
        BadValue: a tensor that such a file cannot hold, or a state that is not a tensor; the message names it.
    """
    tensors = tensors_of(model)
    _check_written(model, tensors)
    first: dict[object, str] = {}
    same = {name: kept for name in sorted(tensors) if (kept := first.setdefault(_place(tensors[name]), name)) != name}
    memories: set[object] = set()
    plain = {}
    for name in [name for name in tensors if name not in same]:
        tensor = tensors[name].detach().cpu().contiguous()
        if _memory(tensor) in memories:  # views of one storage: each becomes a separate tensor
            tensor = tensor.clone()
        memories.add(_memory(tensor))
        plain[name] = tensor
    try:
        save_file(plain, path, {**same, **metadata})
    except (SafetensorError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise BadValue("The weights cannot be written to a safetensors file.", asked=str(error)) from error


def check_before(model: nn.Module, weights: Weights, dropped: Iterable[str] = ()) -> None:
    """Check that the tensors that no edit touches are in the file, before anything is edited.

    The modules at the paths in `dropped` will be gone.

    Raises:
        WrongModel: naming the missing or mismatched ones, with both shapes.
    """
    called = {path for path, module in model.named_modules(remove_duplicate=False) if activation_of_module(module)}
    called |= set(dropped)
    untouched = {n: tensor for n, tensor in tensors_of(model).items() if not any(at in called for at in parents_of(n))}
    wrong = _other_shapes(untouched, weights)
    _refuse(model, {"other shape": wrong, "missing": [n for n in untouched if weights.shape_of(n) is None]})


def put_weights(model: nn.Module, weights: Weights) -> None:
    """Copy all tensors of a file into a model, in place, once all of them fit.

    Raises:
        WrongModel: naming what does not fit.
        BadFile: the file cannot be read.
    """
    own = tensors_of(model)
    apart = [f"{name} and {kept}" for name, kept in weights.same.items()
             if name in own and kept in own and _place(own[name]) != _place(own[kept])]  # fmt: skip
    _refuse(model, {
        "missing": [name for name in own if weights.shape_of(name) is None],
        "other shape": _other_shapes(own, weights),
        "unknown": sorted({*weights.shapes, *weights.same} - own.keys()),
        "one tensor there, two here": apart,
    })  # fmt: skip
    wanted = weights.read(own)
    first: dict[object, str] = {}
    shared = {name: kept for name, tensor in own.items() if (kept := first.setdefault(_place(tensor), name)) != name}
    merged = [f"{kept} and {name}" for name, kept in shared.items() if not identical(wanted[name], wanted[kept])]
    _refuse(model, {"one tensor here, two there": merged})
    for name, tensor in own.items():
        overwrite(tensor, wanted[name])


def _check_written(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    memories = {_memory(value) for value in tensors.values()}
    for name, value in model.state_dict().items():
        if name not in tensors and (not isinstance(value, Tensor) or _memory(value) not in memories):
            raise BadValue(
                f"{type(model).__name__} has extra state besides parameters and buffers, which the file cannot hold.",
                asked=f"{name}, {type(value).__name__}", try_="torch.save(model.state_dict(), path) for that part",
            )  # fmt: skip
    for name, tensor in tensors.items():
        if tensor.is_meta or tensor.layout is not torch.strided or tensor.is_quantized:
            kind = (
                "on the meta device" if tensor.is_meta else "quantised" if tensor.is_quantized else str(tensor.layout)
            )
            raise BadValue("Only dense tensors with values can be saved.", asked=f"{name}, {kind}")


def _memory(tensor: Tensor) -> object:
    """Equal for tensors that share memory."""
    if tensor.is_meta or tensor.layout is not torch.strided or not tensor.numel():
        return id(tensor)
    return (tensor.device, tensor.untyped_storage().data_ptr())


def _place(tensor: Tensor) -> object:
    """Equal for tensors that are the same view: the same start and the same strides."""
    if tensor.is_meta or tensor.layout is not torch.strided or not tensor.numel():
        return id(tensor)
    return (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)


def _other_shapes(own: Mapping[str, Tensor], weights: Weights) -> list[str]:
    there = {name: weights.shape_of(name) for name in own}
    return [
        f"{name} {list(shape)}, here {list(own[name].shape)}"
        for name, shape in there.items() if shape is not None and shape != tuple(own[name].shape)
    ]  # fmt: skip


def _refuse(model: nn.Module, problems: Mapping[str, list[str]]) -> None:
    if any(problems.values()):
        raise WrongModel(
            f"The saved weights do not fit this {type(model).__name__}.",
            asked="; ".join(
                f"{what}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
                for what, names in problems.items()
                if names
            ),
            try_=_LIKEWISE,
        )
