"""Target: a runtime that networks are deployed to: how a network is written for it, run there, and read back.

Each has a file in `surgery/deploy/runtimes/`, whose `__init__` lists them.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

from torch import Tensor

from surgery.deploy.network import Network
from surgery.errors import NotInstalled

Run = Callable[[Sequence[Tensor]], list[Tensor]]


@dataclass(frozen=True, slots=True)
class Ran:
    """An operator of a network in 8 bits, fused as it runs; `in_float` if it computes in float, or leads there."""

    name: str
    in_float: bool = False


Quantize = Callable[[Network, Path, Sequence[Sequence[Tensor]]], tuple[Ran, ...]]


@dataclass(frozen=True)
class Target:
    """A runtime, used by its own tools.

    `write(network, folder)` converts a network and writes it into a new folder. `load(folder)` gives a function from
    inputs to outputs that runs on the runtime itself; None where it cannot be run, `not_run` says why.
    `operators(folder)` are the operators of the written network in order, without constants and the like.

    `modules` are what it imports, `distributions` what installs them, `extra` the extra that requires those.
    `any_batch`: a network may be written for every batch size; otherwise it is written for one, and batches are run one
    by one. `half`: networks in half precision may be written. `quantize(network, folder, batches)` makes 8 bits of what
    was written for this network, calibrated on these inputs, and returns the operators that run then, in order, without
    those that only move channels; `quantizer` is what it imports besides.

    `frame` is what max pools of size 1 become, for a converter that has to be shown which axis is the batch: a function
    that is tried alone stands between two of these.
    """

    name: str
    extra: str
    modules: tuple[str, ...]
    distributions: tuple[str, ...]
    write: Callable[[Network, Path], None]
    operators: Callable[[Path], tuple[str, ...]]
    load: Callable[[Path], Run] | None
    not_run: str = ""
    any_batch: bool = False
    half: bool = False
    frame: tuple[str, ...] = ()
    quantize: Quantize | None = None
    quantizer: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<Target {self.name}: {self.versions if self.installed() else 'not installed'}>"

    def installed(self) -> bool:
        """Whether everything it imports is there."""
        return _are_there(self.modules)

    def quantizes(self) -> bool:
        """Whether what is installed can make 8 bits of a network for it."""
        return self.quantize is not None and self.installed() and _are_there(self.quantizer)

    @property
    def versions(self) -> str:
        """Its distributions with their versions."""
        return versions_of(self.distributions)

    def check_installed(self) -> None:
        """Check that it can be used.

        Raises:
            NotInstalled: something it imports is missing.
        """
        if not self.installed():
            raise NotInstalled(
                f"The deployment target {self.name} is not installed.",
                asked=self.versions,
                try_=f'pip install "activation-surgery[{self.extra}]"',
            )


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, converters neither print nor warn nor log; what goes wrong they raise."""
    disabled = logging.root.manager.disable
    with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(disabled)


def numbers_in(name: str) -> tuple[int, ...]:
    """What sorts the names of inputs or outputs by their numbers."""
    return tuple(int(number) for number in re.findall(r"\d+", name))


def versions_of(distributions: Sequence[str]) -> str:
    """These distributions with their versions."""
    return ", ".join(f"{name} {_version(name)}" for name in distributions)


def _are_there(modules: Sequence[str]) -> bool:
    return all(find_spec(name.partition(".")[0]) is not None for name in modules)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(not installed)"
