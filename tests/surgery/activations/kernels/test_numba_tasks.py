"""Tasks: threads, forks, and compiling where nothing can be written."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from ctypes import addressof, c_int64
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("numba")

from surgery.activations.kernels import numba_tasks
from surgery.activations.kernels.numba_kernels import KERNELS
from tests.processes import run_python
from tests.surgery.activations.kernels.beside_torch import assert_near, in_double, outcome, params_of, random


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def assert_same_for_any_number(name: str, x: Tensor, grad: Tensor, threads: Callable[[int], None]) -> None:
    results = []
    for count in (1, 2, 3):
        threads(count)
        results.append(outcome("fused", name, x, 1, params_of(name, x.shape[1]), grad))
    assert all(torch.equal(got, other) for result in results[1:] for got, other in zip(results[0], result, strict=True))
    assert_near(results[0], in_double(name, x, 1, params_of(name, x.shape[1]), grad))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", ["frelu", "pwlu"])
def test_results_do_not_depend_on_the_number_of_threads(
    name: str, channels_last: bool, threads: Callable[[int], None]
) -> None:
    x, grad = random(8, 16, 32, 32), random(8, 16, 32, 32, seed=1)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    assert_same_for_any_number(name, x, grad, threads)


def test_nor_on_whose_threads_they_are(monkeypatch: pytest.MonkeyPatch, threads: Callable[[int], None]) -> None:
    x, grad = random(8, 16, 32, 32), random(8, 16, 32, 32, seed=1)
    threads(2)
    before = outcome("fused", "frelu", x, 1, params_of("frelu", 16), grad)
    monkeypatch.setattr(numba_tasks, "_openmp", lambda: None)
    assert_same_for_any_number("frelu", x, grad, threads)
    assert all(map(torch.equal, before, outcome("fused", "frelu", x, 1, params_of("frelu", 16), grad)))


def _bytes(x: Tensor, answers: Any) -> None:
    answers.put(KERNELS["frelu"].forward(x, 1, *params_of("frelu", 16)).numpy().tobytes())


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="processes are not forked here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own(threads: Callable[[int], None]) -> None:
    threads(2)
    x = random(8, 16, 32, 32)
    wanted = KERNELS["frelu"].forward(x, 1, *params_of("frelu", 16)).numpy().tobytes()
    forking = multiprocessing.get_context("fork")
    answers = forking.SimpleQueue()
    child = forking.Process(target=_bytes, args=(x, answers))
    child.start()
    try:
        child.join(1)  # an answer may be longer than what the queue holds
        assert answers.get() == wanted
    finally:
        child.kill()


def test_where_no_folder_can_be_written_loops_are_compiled_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    cfunc, asked = numba_tasks.cfunc, []

    def refusing(kind: Any, **options: Any) -> Any:
        asked.append(options.get("cache", False))
        if asked[-1]:
            raise RuntimeError("cannot cache function: no locator available")
        return cfunc(kind, **options)

    def double(numbers):  # type: ignore[no-untyped-def]
        numbers[0] = 2 * numbers[0]

    monkeypatch.setattr(numba_tasks, "cfunc", refusing)
    number = c_int64(21)
    numba_tasks.compiled(double).call(addressof(number))
    assert number.value == 42 and asked == [True, False]


ANEW = """
import sys, torch
from surgery.activations.kernels.numba_kernels import KERNELS
y = KERNELS["frelu"].forward(torch.tensor([-2.0, 3.0]), 0, torch.tensor([0.5]), torch.tensor([0.25]))
print(y.tolist(), "numba.np.arraymath" in sys.modules, "scipy.linalg" in sys.modules)
"""


@pytest.mark.slow
def test_what_was_compiled_is_loaded_without_what_only_compiling_needs() -> None:
    run_python(ANEW)
    assert run_python(ANEW).stdout.split("\n")[0] == "[-0.5, 1.5] False False"


def double(numbers):  # type: ignore[no-untyped-def]
    numbers[0] = 2 * numbers[0]


@pytest.mark.parametrize("changed", ["_cache", "_targetdescr"])
def test_where_numba_has_other_insides_it_loads_loops_itself(changed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(numba_tasks.CFunc):  # type: ignore[misc]
        def __getattribute__(self, name: str) -> Any:
            if name == changed:
                raise AttributeError(name)
            return super().__getattribute__(name)

    monkeypatch.setattr(numba_tasks, "CFunc", Other)
    assert numba_tasks._from_disk(double) is None
    number = c_int64(21)
    numba_tasks.compiled(double).call(addressof(number))
    assert number.value == 42


def test_a_loop_is_compiled_again_when_any_file_of_the_kernels_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("numba_loops.py", "numba_tasks.py", "other.py"):
        (tmp_path / name).write_text("FIELDS = 1\n")
    stamps = [numba_tasks._stamp.__wrapped__(tmp_path)]
    for name in ("other.py", "numba_tasks.py"):
        (tmp_path / name).write_text("FIELDS = 2\n")
        stamps.append(numba_tasks._stamp.__wrapped__(tmp_path))
    assert stamps[0] == stamps[1] != stamps[2]

    numba_tasks.compiled(double)
    assert numba_tasks._from_disk(numba_tasks._stamped(double)) is not None
    monkeypatch.setattr(numba_tasks, "_stamp", lambda: stamps[2])
    assert numba_tasks._from_disk(numba_tasks._stamped(double)) is None
