"""Processes: combine measurements over the processes of a training, and check that they cut the same weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch import distributed as dist

from pruning.masks.masks import Masks
from pruning.rounds.rewind import digest_of
from surgery.errors import BadValue
from surgery.processes import gathered_or_raised, processes

T = TypeVar("T")


def jointly(make: Callable[[], T], doing: str = "go on") -> T:
    """The result of `make` in this process, if it fails in no process; so none is left waiting for another.

    Every process must call this, even if its `make` fails. `make` itself must not wait for other processes.

    Raises:
        Exception: the failure of this process, whatever it is.
        BadValue: another process failed.
    """
    if processes() == 1:
        return make()
    made, failure = _tried(make)
    gathered_or_raised(None, failure, doing)
    return cast("T", made)


def averaged(measure: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
    """The tensors that this process measures, by name, each averaged over all processes.

    Every process must call this, even if its `measure` fails.

    Raises:
        Exception: the failure of this process, whatever it is.
        BadValue: another process failed, or measured something else.
    """
    if processes() == 1:
        return measure()
    tensors, failure = _tried(measure)
    mine = {name: list(tensor.shape) for name, tensor in (tensors or {}).items()}
    if any(shapes != mine for shapes in gathered_or_raised(mine, failure)):
        raise BadValue("The processes measured different weights.", try_="one model, and one call, in all of them")
    if not tensors:
        return {}
    dtype = torch.float32
    for tensor in tensors.values():
        dtype = torch.promote_types(dtype, tensor.dtype)
    whole = torch.cat([tensor.detach().to(dtype).flatten() for tensor in tensors.values()])
    dist.all_reduce(whole)
    whole /= dist.get_world_size()
    parts = whole.split([tensor.numel() for tensor in tensors.values()])
    return {
        name: part.view(tensor.shape).to(tensor.dtype)
        for (name, tensor), part in zip(tensors.items(), parts, strict=True)
    }


def agreed(make: Callable[[], Masks], place: Any = None) -> Masks:
    """The masks that this process computes, if all processes compute the same, at the same `place` in the run.

    Every process must call this, even if its `make` fails.

    Raises:
        Exception: the failure of this process, whatever it is.
        BadValue: another process failed, or the processes differ.
    """
    if processes() == 1:
        return make()
    masks, failure = _tried(make)
    reports = gathered_or_raised((place, None if masks is None else digest_of(masks)), failure, "cut")
    if any(there != place for there, _ in reports):
        raise BadValue(
            "The processes are at different points of the run.", asked=", ".join(str(at) for at, _ in reports),
            try_="folders saved at the same time, or new ones",
        )  # fmt: skip
    count = len({digest for _, digest in reports})
    if masks is None or count > 1:
        raise BadValue(
            "The processes cut different weights, and would train different networks.",
            asked=f"{count} different masks in {len(reports)} processes",
            try_="equal weights and the same seed in all of them; average a data-dependent criterion over them",
        )  # fmt: skip
    return masks


def _tried(make: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return make(), None
    except Exception as error:  # passed to the others, and raised again
        return None, error
