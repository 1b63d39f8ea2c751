"""Random state: saved and restored around code that draws random numbers."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy
import torch
from torch import Tensor

_States = tuple[Any, ...]


class _Inside(threading.local):
    depth = 0


# The generators belong to the process, so looks take turns. Long operations do not: of several threads inside at the
# same time, the last one restores the state that the first one saved.
_guard = threading.Lock()
_inside = _Inside()
_threads = 0
_found: _States = ()
_turn = threading.RLock()


@contextmanager
def random_state_kept(*, alone: bool = True) -> Iterator[None]:
    """Restore the random generators of torch, numpy and Python afterwards, whatever is drawn inside.

    A loader that shuffles and is read inside gives the same order when it is read again afterwards. With `alone`,
    threads wait for each other; without it, they may disturb each other's random numbers meanwhile.
    """
    with _turn if alone else nullcontext():
        before = _enter()
        try:
            yield
        finally:
            _leave(before)


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """Inside, torch draws the same numbers every time, one thread at a time; the generators are restored."""
    with random_state_kept():
        # Not `torch.manual_seed`: it would also seed devices that are not initialised yet.
        torch.default_generator.manual_seed(seed)
        for accelerator in _in_use():
            accelerator.manual_seed_all(seed)
        if torch.backends.mps.is_available():
            torch.mps.manual_seed(seed)
        yield


def _enter() -> _States:
    global _threads, _found
    with _guard:
        if not _threads:
            _found = _states()
        _threads += not _inside.depth
        _inside.depth += 1
        return _found if _inside.depth == 1 else _states()


def _leave(before: _States) -> None:
    global _threads, _found
    with _guard:
        _inside.depth -= 1
        others = _threads - 1
        if not others:  # else it would reset generators that others still use
            _put_back(before if _inside.depth else _found)
        if not _inside.depth:
            _threads, _found = others, _found if others else ()


def _in_use() -> list[Any]:
    return [device for device in (torch.cuda, torch.xpu) if device.is_initialized()]


def _states() -> _States:
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    accelerators = [(device, device.get_rng_state_all()) for device in _in_use()]
    return random.getstate(), numpy.random.get_state(), torch.get_rng_state(), accelerators, mps


def _put_back(states: _States) -> None:
    python, array, torchs, accelerators, mps = states
    random.setstate(python)
    numpy.random.set_state(array)
    torch.set_rng_state(torchs)
    for device, state in accelerators:
        device.set_rng_state_all(state)
    if mps is not None:
        torch.mps.set_rng_state(mps)


def random_tensors() -> dict[str, Tensor]:
    """The states of the generators of torch, on every device in use, and of numpy."""
    _, keys, position, has_gauss, gauss = numpy.random.get_state()
    found = {
        "torch": torch.get_rng_state(),
        "numpy": torch.from_numpy(numpy.asarray(keys).astype(numpy.int64)),
        "numpy.rest": torch.tensor([position, has_gauss, gauss], dtype=torch.float64),
    }
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return found | {f"cuda.{place}": state for place, state in enumerate(cuda)}


def set_random(states: Mapping[str, Any]) -> None:
    """Set the generators of torch, numpy and Python to the states of `random_tensors`, and "python" among them."""
    kind, numbers, gauss = states["python"]
    random.setstate((kind, tuple(numbers), gauss))
    position, has_gauss, second = states["numpy.rest"].tolist()
    keys = states["numpy"].numpy().astype(numpy.uint32)
    numpy.random.set_state(("MT19937", keys, int(position), int(has_gauss), second))
    torch.set_rng_state(states["torch"])
    for place in range(torch.cuda.device_count()):
        if f"cuda.{place}" in states:
            torch.cuda.set_rng_state(states[f"cuda.{place}"], place)
