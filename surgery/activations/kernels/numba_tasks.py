"""Tasks: compiled loops that share the parts of a tensor out among torch's own threads.

A second pool of threads would compete with torch's, which spin for milliseconds after each operation in case there is
another one. So loops are handed to the library that torch's threads come from, OpenMP, as the loops of torch are.
The parts depend on shapes alone, so results do not depend on the number of threads.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from numba import cfunc, types
from numba.core.ccallback import CFunc
from numba.core.compiler_lock import global_compiler_lock
from numba.core.runtime import rtsys
from numba.core.sigutils import normalize_signature

# What the loops are told: the next task, the number of tasks, addresses, sizes.
NEXT, TASKS, GRAD, X, OUT, TABLE, SUMS, SIZE, CHANNELS, INNER, UNITS, ROWS, SECOND, FIELDS = range(14)


@dataclass(frozen=True)
class Loop:
    """A compiled loop."""

    call: Callable[[int], None]  # with the address of a job
    owner: Any  # of its code


def compiled(code: Callable[..., None]) -> Loop:
    """Compile a loop over a job, and cache the result on disk, if there is a writable folder."""
    code = _stamped(code)
    loop = _from_disk(code)
    if loop is not None:
        return loop
    try:
        made = cfunc(_KIND, cache=True, **_OPTIONS)(code)
    except RuntimeError:  # no folder can be written
        made = cfunc(_KIND, **_OPTIONS)(code)
    return Loop(_LOOP(made.address), made)


def _stamped(code: Callable[..., None]) -> Callable[..., None]:
    """The same function under a name that is another one when any file of the kernels has changed.

    Numba finds what it has cached by the name, and notices only changes of the file of the function itself, not of
    those that it calls: a loop that was compiled for other fields of a job would write anywhere.
    """
    found = FunctionType(code.__code__, code.__globals__, code.__name__, code.__defaults__, code.__closure__)
    found.__qualname__ = f"{code.__qualname__}_{_stamp()}"
    return found


@cache
def _stamp(folder: Path = Path(__file__).parent) -> str:
    sources = b"".join(file.read_bytes() for file in sorted(folder.glob("numba_*.py")))
    return hashlib.sha256(sources).hexdigest()[:16]


def _from_disk(code: Callable[..., None]) -> Loop | None:
    """A loop that an earlier process has compiled.

    Numba would load all it can compile first, which takes much longer than to load the loop. This needs its insides:
    where they are other ones, it does that.
    """
    try:
        loop: Any = CFunc(code, normalize_signature(_KIND), {}, _OPTIONS)
        loop.enable_caching()
        context = loop._targetdescr.target_context
        with global_compiler_lock:
            rtsys.initialize(context)  # what memory is allocated by
            found = loop._cache._load_overload(loop._sig, context)
        if found is None:
            return None
        address = found.library.get_pointer_to_function(found.fndesc.llvm_cfunc_wrapper_name)
    except (AttributeError, OSError, RuntimeError, TypeError):
        return None
    return Loop(_LOOP(address), found)


def call(loop: Loop, fields: list[int]) -> None:
    """Let one thread do a job that is not divided."""
    job = (ctypes.c_ssize_t * len(fields))(*fields)
    loop.call(ctypes.addressof(job))


def run(loop: Loop, fields: list[int], tasks: int) -> None:
    """Let as many threads as torch may use take tasks until none is left."""
    job = (ctypes.c_ssize_t * FIELDS)(*fields)
    address, threads = ctypes.addressof(job), min(torch.get_num_threads(), tasks)
    parallel = None if threads == 1 or _forked else _openmp()
    if threads == 1:
        loop.call(address)
    elif parallel is not None:
        parallel(loop.call, address, threads, 0)
    else:
        others = [_pool(threads - 1).submit(loop.call, address) for _ in range(threads - 1)]
        loop.call(address)
        for other in others:
            other.result()


_KIND = types.void(types.CPointer(types.intp))
_OPTIONS = {"error_model": "numpy"}
_LOOP = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_forked = False


@cache
def _openmp() -> Callable[..., None] | None:
    """Start a loop on torch's threads; None if they are not OpenMP's."""
    try:
        start = ctypes.CDLL(torch._C.__file__).GOMP_parallel
    except (AttributeError, OSError):
        return None
    start.argtypes, start.restype = [_LOOP, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
    return start


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "activations")


def _after_fork() -> None:
    """Threads do not survive a fork, and OpenMP would wait for its own forever."""
    global _forked
    _forked = True
    _pool.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
