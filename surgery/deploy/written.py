"""Written: a network in a target's files, in a folder that is written whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor

from surgery.deploy.facts import write_facts
from surgery.deploy.network import Network
from surgery.deploy.target import Run, Target, quiet
from surgery.errors import BadFile, DynamicShapes, NotConvertible, SurgeryError, cause_of, root_cause_of


@dataclass(frozen=True)
class Written:
    """A network in a target's files: the folder, and the network as it was written, for any batch or for one."""

    folder: Path
    network: Network
    target: Target
    output: Path | None = None

    @property
    def operators(self) -> tuple[str, ...]:
        """The operators in the files, in order."""
        return self.target.operators(self.folder)

    def loaded(self) -> Run:
        """What runs it on the target.

        Raises:
            NotConvertible: the target cannot load what was written for it, or, raised by what is returned, run it.
        """
        assert self.target.load is not None
        with _refusals(f"{self.target.name} cannot load what was written for it."), quiet():
            forward = self.target.load(self.folder)

        def run(inputs: Sequence[Tensor]) -> list[Tensor]:
            with _refusals(f"{self.target.name} cannot run what was written for it."):
                return forward(inputs)

        return run

    def keep(self) -> None:
        """Rename the folder to where it was asked for.

        Raises:
            BadFile: it cannot be put there.
        """
        if self.output is None:
            return
        with _writing(self.output):
            self.output.parent.mkdir(parents=True, exist_ok=True)
            if self.output.exists():
                self.output.rmdir()  # it is empty
            self.folder.rename(self.output)


@contextmanager
def written(network: Network, target: Target, output: Path | None = None) -> Iterator[Written]:
    """Write a network for a target; afterwards the folder is removed, unless it was kept.

    It is written for every batch size where target and network allow that, else for a batch of one.

    Raises:
        BadFile: there is something at `output`, or no folder can be made there.
        NotConvertible, DynamicShapes: torch.export or the target cannot convert the network.
    """
    if output is not None:
        check_free(output)
        output = output.resolve()  # a converter may run in a folder of its own, and a link stays one
    with _scratch(output) as scratch:
        folder = Path(scratch, "network")
        folder.mkdir()
        made = _converted(network, target, folder)
        write_facts(made, target, folder)
        yield Written(folder, made, target, output)


def check_free(output: Path) -> None:
    """Check that a folder can be made there.

    Raises:
        BadFile: there is a file, or a folder that is not empty; or one of its parents is a file.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise BadFile(f"{output} is not empty.", try_="another folder")
    if not (parent := _nearest_parent(output)).is_dir():
        raise BadFile(f"{output} cannot be made, since {parent} is a file.", try_="another folder")


def _nearest_parent(output: Path) -> Path:
    return next(parent for parent in output.absolute().parents if parent.exists())


def _scratch(output: Path | None) -> TemporaryDirectory[str]:
    """A folder on the disk of the output, so that what is in it can be renamed."""
    if output is None:
        return TemporaryDirectory(prefix="deploy-")
    with _writing(output):
        return TemporaryDirectory(prefix="deploy-", dir=_nearest_parent(output))


@contextmanager
def _writing(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BadFile(f"{output} cannot be written.", asked=cause_of(error), try_="another folder") from error


def _convert(network: Network, target: Target, folder: Path) -> None:
    """Let a target write a network into a folder.

    Raises:
        NotConvertible: it cannot.
    """
    with _refusals(f"{target.name} cannot convert the network."), quiet():
        target.write(network, folder)


@contextmanager
def _refusals(problem: str) -> Iterator[None]:
    """Turns whatever a converter or a runtime raises into one error."""
    try:
        yield
    except SurgeryError:
        raise
    except Exception as error:
        raise NotConvertible(problem, asked=root_cause_of(error)) from error


def _converted(network: Network, target: Target, folder: Path) -> Network:
    """Write it for every batch size, or, where that fails, for one; the network that was written."""
    if target.any_batch:
        try:
            free = network.for_any_batch()
            _convert(free, target, folder)
            return free
        except (NotConvertible, DynamicShapes):
            for file in folder.iterdir():
                file.unlink() if file.is_file() else shutil.rmtree(file)
    single = network.one_by_one()
    _convert(single, target, folder)
    return single
