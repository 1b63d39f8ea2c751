"""Progress: drive everything in a model that changes over the training, and settle it at the end."""

from __future__ import annotations

import warnings
from numbers import Integral, Real
from typing import Protocol, runtime_checkable

from torch import nn

from surgery.activations import Fade
from surgery.edit.rollback import all_or_nothing
from surgery.edit.write import keep_progress, settle_children
from surgery.errors import BadValue
from surgery.history.history import histories_of
from surgery.look.site import Sites
from surgery.model import M
from surgery.schedule.frozen_weights import rest_weights


@runtime_checkable
class Progressing(Protocol):
    """A module that changes over the training, as a function of the progress in [0, 1] and the step number."""

    def set_progress(self, progress: float, step: int = 0) -> None:
        """Move to this progress and step."""


@runtime_checkable
class Finishing(Protocol):
    """A module that changes over the training and can be settled."""

    def finish(self) -> None:
        """Take the final form."""


def set_progress(model: nn.Module, progress: float, step: int = 0) -> None:
    """Set the training progress, from 0 to 1, of every fading activation of a model; `step` counts training steps.

    Call it on copies, too (an averaged model has its own activations); the model may be wrapped. If nothing in the
    model changes over the training, it only warns.

    Raises:
        BadValue: progress outside [0, 1], a step that is not an integer, or not a model.
    """
    if not isinstance(model, nn.Module):
        raise BadValue("This is not a model.", asked=type(model).__name__, try_="a torch.nn.Module")
    if not isinstance(progress, Real) or not 0 <= progress <= 1:
        raise BadValue("`progress` must be a fraction of the training.", asked=f"progress={progress!r}", try_="0 to 1")
    if not isinstance(step, Integral) or step < 0:
        raise BadValue(
            "`step` must be a number of training steps.", asked=f"step={step!r}", try_="a whole number, 0 or more"
        )
    if not gradual(model) and progress_of(model) is None:
        _warn(f"Nothing in {type(model).__name__} changes over the training, so set_progress does nothing.")
    move(model, float(progress), int(step))


@all_or_nothing(progress_only=True)
def move(model: nn.Module, progress: float, step: int = 0) -> None:
    """Like `set_progress`, without the check and the warning."""
    for module in model.modules():
        if isinstance(module, Progressing):
            module.set_progress(progress, step)
    rest_weights(model, any(getattr(module, "rests_weights", False) for module in model.modules()))
    keep_progress(model, progress, step)


def progress_of(model: nn.Module) -> tuple[float, int] | None:
    """The progress and step last set on an edited model, or on one inside a wrapper; None if unset."""
    return next((history.progress for history in histories_of(model)), None)


def gradual(model: nn.Module) -> list[str]:
    """The paths of the modules that change over the training: fades, warm-ups and alternations, unless settled."""
    return [
        path
        for path, module in model.named_modules()
        if isinstance(module, Progressing) and getattr(module, "gradual", True)
    ]


def not_driven(model: nn.Module) -> list[str]:
    """The paths of the modules that change over the training in an edited model, if set_progress never moved them."""
    histories = histories_of(model)
    moved = any(history.progress is not None and history.progress[0] > 0 for history in histories)
    return gradual(model) if histories and not moved else []


def check_settled(sites: Sites) -> None:
    """Check that no call of a model fades, so that each computes one function.

    Raises:
        BadValue: some do; `sites` are these.
    """
    fading = tuple(site for site in sites if site.activation == "fade")
    if fading:
        error = BadValue(
            f"{sites.model_kind} still fades from one function to another.",
            asked=named([str(site) for site in fading]), try_="surgery.settle(model), or of a copy of it",
        )  # fmt: skip
        error.sites = fading
        raise error


def settle(model: M) -> M:
    """Replace everything that fades by its final form, in place; returns the model.

    A ReLU that faded to the identity is then erased, a PWLU has warmed up, slopes and weights learn together. The
    model's history records it: saved and loaded, it has the final form at once. Settling early jumps to the end;
    settling twice has no further effect. If `set_progress` was never called, the whole change happens at once, and a
    warning names the modules.

    Raises:
        BadValue: not a model.
    """
    if not isinstance(model, nn.Module):
        raise BadValue("This is not a model.", asked=type(model).__name__, try_="a torch.nn.Module")
    if idle := not_driven(model):
        _warn(f"{named(idle)} never moved before it was settled: the change happens at once. "
              "Call surgery.set_progress(model, progress) while the model trains.")  # fmt: skip
    elif not gradual(model) and progress_of(model) is None:
        _warn(f"Nothing in {type(model).__name__} changes over the training, so settle does nothing.")
    return finish(model)


@all_or_nothing()
def finish(model: M) -> M:
    """Like `settle`, without the checks and warnings."""
    move(model, 1.0)
    for module in model.modules():
        if isinstance(module, Finishing):
            module.finish()
    settle_children(model, Fade)
    return model


def named(paths: list[str]) -> str:
    """The first three paths, for a message."""
    return ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")


def _warn(text: str) -> None:
    warnings.warn(text, UserWarning, stacklevel=3)
