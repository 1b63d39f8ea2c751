"""Device: the device that this process trains on, and its rank."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from recipes.optional import check_torchvision
from surgery.errors import BadValue


@dataclass(frozen=True, slots=True)
class Place:
    """A device, and the rank of this process (from 0) of `world`."""

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0


def place_of(device: str | None = None) -> Place:
    """The device and rank of this process: `device`, by default CUDA if available; with torchrun one of several.

    Processes communicate through NCCL on CUDA and through Gloo elsewhere. Repeated calls change nothing.

    Raises:
        BadValue: the device does not exist.
    """
    try:
        asked = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.zeros((), device=asked).item()  # rejects the device "meta", too
    except (RuntimeError, AssertionError) as error:
        there = f"cpu, cuda: {torch.cuda.device_count()}"
        raise BadValue(f"no device {device!r} to train on.", there=there, try_="--device cpu") from error
    check_torchvision()
    from timm.utils.distributed import init_distributed_device_so, is_distributed_env

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return Place(asked, torch.distributed.get_rank(), torch.distributed.get_world_size())
    if not is_distributed_env():  # type: ignore[no-untyped-call]
        return Place(asked)
    found = init_distributed_device_so(device=asked.type)
    return Place(torch.device(found["device"]), found["global_rank"], found["world_size"])
