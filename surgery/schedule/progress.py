"""Fading: move everything in a model that changes over time, and settle it when the time is over."""

from __future__ import annotations

import warnings
from numbers import Integral, Real
from typing import Protocol, runtime_checkable

from torch import nn

from surgery.activations import Fade
from surgery.edit.write import all_or_nothing, keep_progress, rest_weights, settle_children
from surgery.errors import BadValue
from surgery.history.history import histories_of
from surgery.model import M


@runtime_checkable
class Progressing(Protocol):
    """A module that changes over time: it is told the progress in [0, 1] and the number of the step."""

    def set_progress(self, progress: float, step: int = 0) -> None:
        """Become what this progress and step ask for."""


@runtime_checkable
class Finishing(Protocol):
    """A module that changes over time and can stop doing so."""

    def finish(self) -> None:
        """Stay as it is from now on."""


def set_progress(model: nn.Module, progress: float, step: int = 0) -> None:
    """Tell every fading activation of a model how far training has come, from 0 to 1; `step` counts training steps.

    Call it on copies, too (an averaged model has activations of its own); a wrapper round the model will do. Where
    nothing changes over time it does nothing but warn.

    Raises:
        BadValue: progress outside [0, 1], a step that is no whole number, or no model.
    """
    if not isinstance(model, nn.Module):
        raise BadValue("This is not a model.", there=type(model).__name__, try_="a torch.nn.Module")
    if not isinstance(progress, Real) or not 0 <= progress <= 1:
        raise BadValue("`progress` is a fraction of the training.", asked=f"progress={progress!r}", try_="0 to 1")
    if not isinstance(step, Integral) or step < 0:
        raise BadValue("`step` counts steps of the training.", asked=f"step={step!r}", try_="a whole number, 0 or more")
    if not gradual(model) and progress_of(model) is None:
        _tell(f"Nothing in {type(model).__name__} changes over time, so set_progress does nothing.")
    move(model, float(progress), int(step))


@all_or_nothing(progress_only=True)
def move(model: nn.Module, progress: float, step: int = 0) -> None:
    """What `set_progress` does, for callers that do not know whether anything changes over time."""
    for module in model.modules():
        if isinstance(module, Progressing):
            module.set_progress(progress, step)
    rest_weights(model, any(getattr(module, "rests_weights", False) for module in model.modules()))
    keep_progress(model, progress, step)


def progress_of(model: nn.Module) -> tuple[float, int] | None:
    """The progress and step last set on an edited model, or on one inside a wrapper; None if there are none."""
    return next((history.progress for history in histories_of(model)), None)


def gradual(model: nn.Module) -> list[str]:
    """The paths of what changes over time in a model: fades, warm-ups and alternations that have not been settled."""
    return [
        path for path, one in model.named_modules() if isinstance(one, Progressing) and getattr(one, "gradual", True)
    ]


def not_driven(model: nn.Module) -> list[str]:
    """The paths of what changes over time in an edited model, if nobody has moved it from where it began."""
    histories = histories_of(model)
    moved = any(history.progress is not None and history.progress[0] > 0 for history in histories)
    return gradual(model) if histories and not moved else []


def settle(model: M) -> M:
    """Put the final form of everything that fades in its place, in place; returns the model.

    A ReLU that faded to the identity is then erased, a PWLU has warmed up, slopes and weights learn together. The steps
    of the model say so, too: saved and loaded, it has the final form at once. Settling early jumps to the end;
    settling twice does nothing more. Where nobody has called `set_progress` before, all that was to be gradual happens
    at once, and a warning names it.

    Raises:
        BadValue: this is no model.
    """
    if not isinstance(model, nn.Module):
        raise BadValue("This is not a model.", there=type(model).__name__, try_="a torch.nn.Module")
    if idle := not_driven(model):
        _tell(f"{named(idle)} never moved before it was settled: its change comes at once. "
              "Call surgery.set_progress(model, progress) while the model trains.")  # fmt: skip
    elif not gradual(model) and progress_of(model) is None:
        _tell(f"Nothing in {type(model).__name__} changes over time, so there is nothing to settle.")
    return finish(model)


@all_or_nothing()
def finish(model: M) -> M:
    """What `settle` does, for callers that know what comes at once."""
    move(model, 1.0)
    for module in model.modules():
        if isinstance(module, Finishing):
            module.finish()
    settle_children(model, Fade)
    return model


def named(paths: list[str]) -> str:
    """Paths for a message, the first three of them."""
    return ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")


def _tell(text: str) -> None:
    warnings.warn(text, UserWarning, stacklevel=3)
