"""Interrupt a run at any moment: by an exception that nothing catches, or by SIGKILL in a separate process."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from surgery import files


class Killed(BaseException):
    """Simulates the end of the process."""


def halt() -> None:
    raise Killed


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Clock:
    """Counts moments, and calls `stop` at one of them."""

    def __init__(self, end: int | None, stop: Callable[[], None]) -> None:
        self.end, self.stop, self.now = end, stop, 0

    def tick(self, *_: object) -> None:
        self.now += 1
        if self.now == self.end:
            self.stop()

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function between two moments."""

        def called(*args: Any, **kwargs: Any) -> Any:
            self.tick()
            result = function(*args, **kwargs)
            self.tick()
            return result

        return called

    @contextmanager
    def around_files(self, writer: ModuleType) -> Iterator[None]:
        """Inside, there is a moment before and after every file that this module writes, renames or removes."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(files.os, "replace", self.around(os.replace))
            patch.setattr(writer, "save_file", self.around(writer.save_file))
            patch.setattr(Path, "unlink", self.around(Path.unlink))
            yield
