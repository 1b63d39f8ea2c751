"""Running: batches of somebody's images through somebody's model, which is afterwards as it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from surgery.errors import BadValue, SurgeryError, cause_of
from surgery.look.finder import home_of
from surgery.rng import random_state_kept

_IMAGES = ("image", "images", "img", "pixel_values", "input", "inputs", "x")
_LABELS = ("label", "labels", "target", "targets", "y")
# What a forward refuses its input with.
FAILURES = (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError, ArithmeticError)


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Images (N, ...), and their labels as whole numbers (N) where the batch carried such."""

    images: Tensor
    labels: Tensor | None = None


def check_repeatable(batches: Iterable[Any]) -> None:
    """Refuse what can be read once only, and a single tensor, which would be taken for a list of images.

    Raises:
        BadValue: with the sentence that says what to do.
    """
    if isinstance(batches, Tensor):
        raise BadValue("This is one batch.", there=f"a tensor {tuple(batches.shape)}", try_="[images], a list of it")
    if not isinstance(batches, Iterable) or isinstance(batches, Iterator):  # not by `iter`: it would start a loader
        raise BadValue(
            "The batches are gone through more than once.", there=f"{type(batches).__name__}, which can be read once",
            try_="a DataLoader, or list(...) of it",
        )  # fmt: skip


def batches_of(batches: Iterable[Any], model: nn.Module) -> Iterator[Batch]:
    """The batches one by one, on the device of the model: tensors, (images, labels), or dicts with such names.

    Raises:
        BadValue: there are none, or one is something else.
    """
    home, count = home_of(model), 0
    for count, one in enumerate(batches, 1):
        images, labels = _parts(one)
        if not isinstance(images, Tensor) or images.dim() == 0:
            raise BadValue(
                f"Batch {count} holds no images.", there=type(one).__name__,
                try_="a tensor (N, ...), a pair (images, labels), or a dict with 'image' and 'label'",
            )  # fmt: skip
        plain = isinstance(labels, Tensor) and labels.shape == images.shape[:1] and not labels.is_floating_point()
        yield Batch(images.to(home), labels.detach().cpu() if plain else None)
    if not count:
        raise BadValue("There are no batches.", try_="at least one; an exhausted loader yields none")


@contextmanager
def batch_errors(number: int, model: nn.Module, images: Tensor) -> Iterator[None]:
    """Inside, what a forward refuses its batch with becomes a `BadValue` that names the batch, the model and the cause.

    Batches are counted from 1. Errors of this library, and what is no refusal of an input, pass as they are.

    Raises:
        BadValue: the forward inside failed; the error of before is its cause.
    """
    try:
        yield
    except SurgeryError:
        raise
    except FAILURES as error:
        raise BadValue(
            f"Batch {number} does not go through {type(model).__name__}.",
            asked=f"forward({images.dtype} {tuple(images.shape)})",
            there=cause_of(error),
        ) from error


def run_through(model: nn.Module, batches: Iterable[Any]) -> Iterator[Batch]:
    """Run the model on the batches, and hand on each of them when it has gone through.

    Raises:
        BadValue: there are no batches, one is something else, or the model refuses one.
    """
    for number, batch in enumerate(batches_of(batches, model), 1):
        with batch_errors(number, model, batch.images):
            model(batch.images)
        yield batch


def _parts(one: Any) -> tuple[Any, Any]:
    if isinstance(one, dict):
        images, labels = (next((one[key] for key in keys if key in one), None) for keys in (_IMAGES, _LABELS))
        return images, labels
    if isinstance(one, tuple | list):
        return (one[0] if one else None, one[1] if len(one) > 1 else None)
    return one, None


@contextmanager
def in_eval(model: nn.Module) -> Iterator[None]:
    """Inside, every module is in eval mode and nothing is differentiated; afterwards each is in its own mode again.

    Random numbers drawn inside leave the generators as they were.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = False  # not by `train`: shared modules, and modules with a `train` of their own
        # No inference mode: statistics that are written inside would be inference tensors.
        with random_state_kept(alone=False), torch.inference_mode(False), torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
