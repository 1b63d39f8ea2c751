"""Trackers: log a run to TensorBoard or W&B."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from recipes.optional import missing
from surgery.errors import BadValue, UnknownName, nearest
from surgery.files import write_text

TrackerName = Literal["tensorboard", "wandb"]
TRACKERS: tuple[TrackerName, ...] = get_args(TrackerName)

_ID = "wandb-id"  # file that says which run of W&B a folder is


class Tracker(Protocol):
    """Takes the rows of the log as they come, numbered through all phases from 0."""

    def begin(self, number: int) -> None:
        """Rows start at this number; existing ones from it on are invalid."""
        ...

    def row(self, number: int, phase: str, numbers: Mapping[str, float]) -> None:
        """Log one epoch."""
        ...

    def close(self) -> None:
        """End the log."""
        ...


class TensorBoard:
    """Writes event files into `<folder>/tensorboard`; see them with `tensorboard --logdir`."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise missing("This tracker needs", "tensorboard", "tensorboard") from error
        self._kind: Any = SummaryWriter
        self._folder = folder / "tensorboard"
        self._writer: Any = None
        self._next = 0

    def begin(self, number: int) -> None:
        """Remove the rows from this number on: TensorBoard no longer shows them."""
        if self._writer is not None and number == self._next:
            return
        self.close()
        self._writer, self._next = self._kind(log_dir=str(self._folder), purge_step=number), number

    def row(self, number: int, phase: str, numbers: Mapping[str, float]) -> None:
        """Add a point to each curve, named by phase and number."""
        for name, value in numbers.items():
            self._writer.add_scalar(f"{phase}/{name}", value, global_step=number)
        self._writer.flush()
        self._next = number + 1

    def close(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class WandB:
    """Sends the rows to Weights & Biases, project "activation-surgery", under the account that is logged in here.

    The folder stores the id of the run, so that a killed run can resume. W&B keeps the first of two rows
    with the same number.
    """

    def __init__(self, folder: Path) -> None:
        try:
            import wandb
        except ImportError as error:
            raise missing("This tracker needs", "wandb", "wandb") from error
        self._wandb: Any = wandb
        self._folder = folder
        self._run: Any = None

    def begin(self, number: int) -> None:
        """Start a run, or resume that of the folder."""
        if self._run is not None:
            return
        known = self._folder / _ID
        if number == 0 or not known.is_file():
            known.parent.mkdir(parents=True, exist_ok=True)
            write_text(known, uuid.uuid4().hex[:12])
        self._run = self._wandb.init(
            project="activation-surgery", dir=str(self._folder), id=known.read_text().strip(), resume="allow"
        )

    def row(self, number: int, phase: str, numbers: Mapping[str, float]) -> None:
        """Add a point to each curve, named by phase and number."""
        self._run.log({f"{phase}/{name}": value for name, value in numbers.items()}, step=number)

    def close(self) -> None:
        """Send the remaining rows, and end the run."""
        if self._run is not None:
            self._run.finish()
            self._run = None


def tracker(name: TrackerName, folder: Path | None) -> Tracker:
    """The tracker called "tensorboard" or "wandb" for the run in `folder`; nothing is written before its `begin`.

    Raises:
        UnknownName: an unknown tracker.
        BadValue: the run has no folder.
        SurgeryError: its package is not installed.
    """
    if name not in TRACKERS:
        raise UnknownName(f"Unknown tracker {name!r}.", there=", ".join(TRACKERS), try_=nearest(name, TRACKERS))
    if folder is None:
        raise BadValue(f"The tracker {name} writes into the folder of the run, which has none.", try_="folder=...")
    return TensorBoard(folder) if name == "tensorboard" else WandB(folder)
