"""Batches: run a user's batches through a model, and restore its state afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from surgery.errors import BadValue, SurgeryError, cause_of
from surgery.model import home_of

_IMAGES = ("image", "images", "img", "pixel_values", "input", "inputs", "x")
_LABELS = ("label", "labels", "target", "targets", "y")
# The exceptions that a forward raises for unsuitable input.
FAILURES = (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError, ArithmeticError)


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Images (N, ...), and their integer labels (N) if the batch has them."""

    images: Tensor
    labels: Tensor | None = None


def check_repeatable(batches: Iterable[Any]) -> None:
    """Check that batches can be iterated repeatedly, and are not a single tensor, which would be read as single images.

    Raises:
        BadValue: they are not; the hint says what to pass instead.
    """
    if isinstance(batches, Tensor):
        raise BadValue("This is one batch.", asked=f"a tensor {tuple(batches.shape)}", try_="[images], a list of it")
    if not isinstance(batches, Iterable) or isinstance(batches, Iterator):  # without `iter`, which would start a loader
        raise BadValue(
            "The batches are iterated more than once.", asked=f"{type(batches).__name__}, which can be read once",
            try_="a DataLoader, or list(...) of it",
        )  # fmt: skip


def batches_of(batches: Iterable[Any], model: nn.Module) -> Iterator[Batch]:
    """Iterate over the batches, on the device of the model: tensors, (images, labels), or dicts with such names.

    Raises:
        BadValue: no batches, or a batch of another type.
    """
    home, count = home_of(model), 0
    for count, batch in enumerate(batches, 1):
        images, labels = _parts(batch)
        if not isinstance(images, Tensor) or images.dim() == 0:
            raise BadValue(
                f"Batch {count} contains no images.", asked=type(batch).__name__,
                try_="a tensor (N, ...), a pair (images, labels), or a dict with 'image' and 'label'",
            )  # fmt: skip
        plain = isinstance(labels, Tensor) and labels.shape == images.shape[:1] and not labels.is_floating_point()
        yield Batch(images.to(home), labels.detach().cpu() if plain else None)
    if not count:
        raise BadValue("No batches.", try_="at least one; an exhausted loader yields none")


@contextmanager
def batch_errors(number: int, model: nn.Module, images: Tensor) -> Iterator[None]:
    """Turn an error of a forward inside into a `BadValue` that names the batch, the model and the cause.

    Batches are counted from 1. Errors of this library, and those that do not concern the input, pass unchanged.

    Raises:
        BadValue: the forward inside failed; the original error is its cause.
    """
    try:
        yield
    except SurgeryError:
        raise
    except FAILURES as error:
        raise BadValue(
            f"Batch {number} fails in {type(model).__name__}: {cause_of(error)}.",
            asked=f"forward({images.dtype} {tuple(images.shape)})",
        ) from error


def run_through(model: nn.Module, batches: Iterable[Any]) -> Iterator[Batch]:
    """Run the model on the batches, and yield each batch after its forward.

    Raises:
        BadValue: no batches, a batch of another type, or one that fails in the model.
    """
    for number, batch in enumerate(batches_of(batches, model), 1):
        with batch_errors(number, model, batch.images):
            model(batch.images)
        yield batch


def _parts(batch: Any) -> tuple[Any, Any]:
    if isinstance(batch, dict):
        images, labels = (next((batch[key] for key in keys if key in batch), None) for keys in (_IMAGES, _LABELS))
        return images, labels
    if isinstance(batch, tuple | list):
        return (batch[0] if batch else None, batch[1] if len(batch) > 1 else None)
    return batch, None
