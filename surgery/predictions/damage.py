"""Damage: how much an edit changes the predictions of a network, on given images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from surgery.errors import BadFile, BadValue
from surgery.model import in_eval
from surgery.predictions.intervals import SURE, mean_and_error
from surgery.repair.batches import Batch, batch_errors


@dataclass(frozen=True, slots=True)
class Damage:
    """What an edit does to predictions, as means over `images` images.

    `kl` is the Kullback-Leibler divergence of the predictions after the edit from those before it, KL(before || after)
    in nats, `error` its standard error. `accuracy` is how much the top-1 accuracy changes, a fraction that is negative
    where it falls, and `accuracy_error` the standard error of that paired difference; None without labels.
    """

    kl: float
    error: float
    images: int
    accuracy: float | None = None
    accuracy_error: float | None = None

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of `kl`."""
        return max(self.kl - SURE * self.error, 0.0), self.kl + SURE * self.error

    def __str__(self) -> str:
        text = f"{self.kl:.4g} ± {SURE * self.error:.2g}"
        if self.accuracy is None or self.accuracy_error is None:
            return text
        return f"{text}, {100 * self.accuracy:+.2f} ± {SURE * 100 * self.accuracy_error:.2f} points"

    def to_data(self) -> dict[str, Any]:
        """As plain data, for a file."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Damage:
        """The damage that `to_data` described.

        Raises:
            BadFile: the data describe none.
        """
        try:
            found = cls(**data)
        except TypeError as error:
            raise BadFile("This is not a measured damage.", asked=repr(data)[:100]) from error
        return found


NO_DAMAGE = Damage(0.0, 0.0, 0)
FARTHEST = 708.0  # nats: a smaller probability than exp(-708) is 0 in float64; also for NaN


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """The predictions of a network before it is edited: log-probabilities (N, C, ...), and labels (N) if there are any.

    Positions behind the classes, such as the pixels of a segmentation, count as one prediction each.
    """

    logs: Tensor
    labels: Tensor | None = None

    @classmethod
    def of(cls, outputs: Sequence[Tensor], labels: Sequence[Tensor | None]) -> Reference:
        """The reference of the outputs of all batches, and of their labels if every batch has them.

        Raises:
            BadValue: the outputs are not scores of at least two classes, or not finite; or a label is none of them.
        """
        logs = log_probabilities(outputs)
        known = [part for part in labels if part is not None]
        if any(len(part) and not 0 <= int(part.min()) <= int(part.max()) < logs.shape[1] for part in known):
            low, high = min(int(part.min()) for part in known), max(int(part.max()) for part in known)
            raise BadValue("There are labels that are no class of the network.", asked=f"labels {low} to {high}",
                           there=f"{logs.shape[1]} classes", try_="batches of images alone")  # fmt: skip
        return cls(logs, torch.cat(known) if len(known) == len(labels) and logs.dim() == 2 else None)

    @property
    def accuracy(self) -> float | None:
        """The fraction of images whose most likely class is their label."""
        return None if self.labels is None else _right(self.logs, self.labels).mean().item()

    @property
    def entropy(self) -> float:
        """The mean entropy of the predictions, in nats; with the most likely classes it tells networks apart."""
        return -(self.logs.exp() * self.logs).sum(1).mean().item()

    @property
    def loss(self) -> float | None:
        """The mean cross-entropy."""
        if self.labels is None:
            return None
        return -self.logs.gather(1, self.labels.unsqueeze(1)).mean().item()

    def __len__(self) -> int:
        return len(self.logs)

    def first(self, count: int) -> Reference:
        """The reference of the first `count` images alone."""
        return Reference(self.logs[:count], None if self.labels is None else self.labels[:count])

    def damage(self, outputs: Sequence[Tensor]) -> Damage:
        """The damage of the edit after which the network returns these outputs on the same batches.

        Raises:
            BadValue: they have another shape.
        """
        after = log_probabilities(outputs, finite=False)
        if after.shape != self.logs.shape:
            raise BadValue("The edited network returns another shape.", asked=str(tuple(after.shape)),
                           there=str(tuple(self.logs.shape)))  # fmt: skip
        divergence = (self.logs.exp() * (self.logs - after)).sum(1).reshape(len(after), -1).mean(1)
        divergence = torch.where(divergence.isfinite(), divergence, FARTHEST).clamp(max=FARTHEST)
        kl, error = mean_and_error(divergence)
        if self.labels is None:
            return Damage(max(kl, 0.0), error, len(divergence))
        change = _right(after, self.labels) - _right(self.logs, self.labels)
        accuracy, accuracy_error = mean_and_error(change)
        return Damage(max(kl, 0.0), error, len(divergence), accuracy, accuracy_error)


def reference_of(model: nn.Module, batches: Sequence[Batch]) -> Reference:
    """The predictions of a network before any edit.

    Raises:
        BadValue: a batch fails in the model, or it does not return scores of classes.
    """
    return Reference.of(outputs_of(model, batches), [batch.labels for batch in batches])


def outputs_of(model: nn.Module, batches: Sequence[Batch]) -> list[Tensor]:
    """What a network returns for batches, in eval mode.

    Raises:
        BadValue: a batch fails in the model.
    """
    outputs = []
    for number, batch in enumerate(batches, 1):
        with in_eval(model), batch_errors(number, model, batch.images):
            outputs.append(model(batch.images.clone()))
    return outputs


def log_probabilities(outputs: Sequence[Tensor], *, finite: bool = True) -> Tensor:
    """Logarithms of the softmax over the second axis (N, C, ...) of the outputs of all batches, float64.

    Raises:
        BadValue: they are not scores of at least two classes, or not finite.
    """
    first = outputs[0]
    if not isinstance(first, Tensor) or first.dim() < 2 or first.shape[1] < 2 or not first.is_floating_point():
        found = str(tuple(first.shape)) if isinstance(first, Tensor) else type(first).__name__
        raise BadValue("The network does not return scores of classes, (N, C, ...) with at least two.", asked=found)
    whole = torch.cat([part.detach().cpu() for part in outputs]).double()
    if finite and not bool(whole.isfinite().all()):
        raise BadValue("The network returns infinite scores or NaN.", try_="images that the model was made for")
    return whole.log_softmax(1)


def _right(logs: Tensor, labels: Tensor) -> Tensor:
    return (logs.argmax(1) == labels).double()
