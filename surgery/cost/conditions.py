"""Conditions: under which times were measured; nothing else about the machine."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from surgery.errors import BadFile, UnknownName, nearest

Runtime = Literal["eager", "compiled", "onnxruntime"]
MemoryLayout = Literal["channels_last", "contiguous"]

# What times depend on, beside versions.
_DECISIVE = ("processor", "runtime", "layout", "dtype", "batch", "threads")


@dataclass(frozen=True, slots=True)
class Conditions:
    """What runs the network, on which processor, in which layout, dtype and batch size, with how many threads."""

    processor: str
    runtime: Runtime
    layout: MemoryLayout
    dtype: str
    batch: int
    threads: int
    versions: str
    date: str

    @classmethod
    def here(
        cls, runtime: Runtime, layout: MemoryLayout, dtype: torch.dtype, batch: int, device: torch.device
    ) -> Conditions:
        """Those of this process, today."""
        named = processor() if device.type != "cuda" else torch.cuda.get_device_name(device)
        packages = ("torch", *(("onnxruntime",) if runtime == "onnxruntime" else ()))
        versions = ", ".join(f"{package} {_version(package)}" for package in packages)
        today = datetime.now(UTC).date().isoformat()
        kind = str(dtype).removeprefix("torch.")
        return cls(named, runtime, layout, kind, batch, torch.get_num_threads(), versions, today)

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Conditions:
        """The conditions of a file.

        Raises:
            BadFile: the data describe none.
        """
        try:
            return cls(**data)
        except TypeError as error:
            raise BadFile("These are not the conditions of a measurement.", asked=repr(data)[:100]) from error

    def to_data(self) -> dict[str, Any]:
        """As plain data, for a file."""
        return asdict(self)

    def differences(self, other: Conditions) -> list[str]:
        """What makes times of other conditions useless here, such as "layout contiguous, not channels_last"."""
        pairs = [(name, getattr(self, name), getattr(other, name)) for name in _DECISIVE]
        return [f"{name} {theirs}, not {ours}" for name, ours, theirs in pairs if ours != theirs]

    @property
    def decisive(self) -> str:
        """What times depend on, in a line: equal lines have comparable times."""
        return ", ".join(f"{name} {getattr(self, name)}" for name in _DECISIVE)

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' if self.threads != 1 else ''}"
        return (
            f"{self.runtime}, {self.layout}, {self.dtype}, batch {self.batch}, {threads}, {self.processor},"
            f" {self.versions}, {self.date}"
        )


def checked(runtime: str, layout: str) -> tuple[Runtime, MemoryLayout]:
    """A runtime and a layout.

    Raises:
        UnknownName: one of them does not exist.
    """
    for value, kind, what in ((runtime, Runtime, "runtime"), (layout, MemoryLayout, "layout")):
        if value not in get_args(kind):
            known = get_args(kind)
            raise UnknownName(f"{value!r} is not a {what}.", there=", ".join(known), try_=nearest(str(value), known))
    return runtime, layout  # type: ignore[return-value]


def processor() -> str:
    """The model name of the processor."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text(encoding="utf-8").splitlines() if listing.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"
