"""Weights: load them from files, completely or not at all, and never silently those of another model."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from surgery.errors import BadFile, WrongModel
from surgery.serialization.model_folder import EDITED

if TYPE_CHECKING:
    from torch import Tensor, nn


class NewHead(UserWarning):
    """The classifier was initialised at random, because the weights have another number of classes."""

    def __init__(self, name: str, classes: int, was: int) -> None:
        super().__init__(f"the classifier of {name} is new: {classes} classes, where the weights have {was}; train it.")


def load_weights(model: nn.Module, file: str | Path) -> None:
    """Load a safetensors file with exactly the weights of `model`: the same names and shapes.

    Raises:
        BadFile: it is not a readable safetensors file, or contains the weights of an edited model.
        WrongModel: it contains the weights of another model.
    """
    weights = read_weights(file)
    if odd := misfit(model, weights):
        raise WrongModel(f"the weights in {Path(file).name} are not those of this {type(model).__name__}.", asked=odd)
    model.load_state_dict(weights, strict=True)


def read_weights(file: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file of an unedited model, on the CPU; tied ones under all their names.

    Raises:
        BadFile: it is not a readable safetensors file, or contains the weights of an edited model.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    path = Path(file)
    if path.suffix != ".safetensors":
        raise BadFile(f"{path.name} is not a safetensors file.", try_="a file that ends in .safetensors")
    if not path.is_file():
        raise BadFile(f"no weights file {path}.")
    try:
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise BadFile(f"{path.name} cannot be read as safetensors.", asked=first_line(error)) from error
    if EDITED in metadata:
        # An edited model has the same weight names as the unedited one: they would load, and be wrong.
        raise BadFile(
            f"{path.name} contains the weights of an edited model.",
            try_="surgery.load(folder, model=...), with the folder that surgery.save wrote",
        )
    # Of tied tensors, safetensors writes one; the metadata lists the names that it stands for.
    return weights | {name: weights[kept] for name, kept in metadata.items() if kept in weights}


def misfit(model: nn.Module, weights: Mapping[str, Tensor]) -> str:
    """Why these are not the weights of this model; "" if they are."""
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in weights.items()}
    # Counters of batch norm are absent from older files; torch fills them in.
    missing = [name for name in wanted if name not in given and not name.endswith("num_batches_tracked")]
    unknown = [name for name in given if name not in wanted]
    resized = [name for name in given if name in wanted and given[name] != wanted[name]]
    facts = (("missing", missing), ("unknown", unknown), ("of another shape", resized))
    return "; ".join(f"{_some(which)} {what}" for what, which in facts if which)


def classes_of(model: nn.Module, weights: Mapping[str, Tensor]) -> int | None:
    """The number of classes that the weights seem to have, from the tensors whose shapes differ; None if they disagree.

    This is a guess until a model with that many classes accepts the weights.
    """
    wanted = {name: value.shape for name, value in model.state_dict().items()}
    sizes = {tensor.shape[:1] for name, tensor in weights.items() if name in wanted and tensor.shape != wanted[name]}
    return next(iter(sizes))[0] if len(sizes) == 1 and all(sizes) else None


def load_body(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load the tensors whose shapes match, that is, all but the head; the names must be those of the model."""
    wanted = {name: value.shape for name, value in model.state_dict().items()}
    model.load_state_dict(
        {name: tensor for name, tensor in weights.items() if tensor.shape == wanted[name]}, strict=False
    )


@contextmanager
def weights_only() -> Iterator[None]:
    """Inside, torch.load unpickles nothing but tensors, whatever its caller requests."""
    # torchvision, and timm before 1.0.25, pass weights_only=False, which their callers cannot change.
    forced, forbidden = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
    before = {name: os.environ.pop(name, None) for name in (forced, forbidden)}
    os.environ[forced] = "1"
    try:
        yield
    finally:
        del os.environ[forced]
        os.environ.update({name: value for name, value in before.items() if value is not None})


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _some(names: Iterable[str], shown: int = 3) -> str:
    listed = list(names)
    return ", ".join(listed[:shown]) + (f" and {len(listed) - shown} more" if len(listed) > shown else "")
