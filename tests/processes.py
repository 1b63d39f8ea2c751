"""Processes for tests: each starts with torch and the model zoos imported, but not this library.

Importing them takes seconds, so these processes are forked from one that has done nothing else.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import torch
from torch import distributed

_CLEAN = multiprocessing.get_context("forkserver")
_CLEAN.set_forkserver_preload(["torch", "torchvision", "timm"])
_PATIENCE = 300.0  # seconds


class Started:
    """A process that calls a function of a module, with arguments that can be pickled."""

    def __init__(self, function: Callable[..., object], *args: Any) -> None:
        self._streams = tempfile.TemporaryDirectory()
        self._process = _CLEAN.Process(target=_call, args=(self._streams.name, function, args), daemon=True)
        self._process.start()

    def ended(self) -> CompletedProcess[str]:
        """Wait for its end; returns its output and its exit status, negative after a signal."""
        with self._streams as folder:
            self._process.join(_PATIENCE)
            code = self._process.exitcode
            self._process.kill()
            self._process.join()
            self._process.close()
            assert code is not None, f"the process was still running after {_PATIENCE:g} s"
            out, err = (Path(folder, name).read_text() for name in ("out", "err"))
        return CompletedProcess([], code, out, err)


def called(function: Callable[..., object], *args: Any) -> CompletedProcess[str]:
    """The output of a process that calls the function."""
    return Started(function, *args).ended()


def run_python(code: str, *args: object) -> CompletedProcess[str]:
    """The output of `python -c code args`."""
    return called(_run_code, code, *map(str, args))


def in_two(function: Callable[..., object], folder: Path, *args: Any) -> None:
    """Call `function(rank, folder, *args)` in two processes connected by Gloo; neither may fail."""
    ranks = [Started(_join, function, rank, folder, args) for rank in (0, 1)]
    ends = [rank.ended() for rank in ranks]
    assert [end.returncode for end in ends] == [0, 0], "\n".join(end.stderr for end in ends)


def forked(call: Callable[[], object]) -> int:
    """The exit status of a call in a fork of this process, negative after a signal.

    Only for a process of one thread, such as a called one: where autograd has run, there may be more.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks among threads: none of them is ours
        child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        call()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _call(streams: str, function: Callable[..., object], args: tuple[Any, ...]) -> None:
    for name, stream in (("out", sys.stdout), ("err", sys.stderr)):
        with open(Path(streams, name), "w") as file:
            os.dup2(file.fileno(), stream.fileno())
    torch.set_num_threads(1)
    function(*args)


def _run_code(code: str, *args: str) -> None:
    sys.argv = ["-c", *args]
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})


def _join(function: Callable[..., object], rank: int, folder: Path, args: tuple[Any, ...]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    function(rank, folder, *args)
    distributed.destroy_process_group()
