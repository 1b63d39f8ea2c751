"""Random generators are restored, however threads and calls overlap."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import numpy
import pytest
import torch

from surgery.rng import random_state_kept, seeded
from tests.asserts import assert_process_untouched


def draw() -> tuple[float, float, float]:
    return random.random(), float(numpy.random.rand()), float(torch.rand(()))


def in_turn(*steps: Callable[[], object]) -> None:
    """Run the steps one after the other: even ones in one thread, odd ones in another."""
    turns = [threading.Semaphore(0) for _ in steps] + [threading.Semaphore(0)]
    failures: list[BaseException] = []

    def work(first: int) -> None:
        for number in range(first, len(steps), 2):
            turns[number].acquire()
            try:
                steps[number]()
            except BaseException as failure:
                failures.append(failure)
            turns[number + 1].release()

    threads = [threading.Thread(target=work, args=(first,)) for first in (0, 1)]
    for thread in threads:
        thread.start()
    turns[0].release()
    for thread in threads:
        thread.join()
    assert not failures


def test_what_is_drawn_inside_leaves_the_generators_as_they_were() -> None:
    with assert_process_untouched(), random_state_kept():
        first = draw()
        with random_state_kept():
            second = draw()
        assert draw() == second != first
    with assert_process_untouched(), pytest.raises(KeyError), random_state_kept():
        draw()
        raise KeyError


def test_threads_inside_at_the_same_time_leave_what_the_first_found() -> None:
    first, other = random_state_kept(alone=False), random_state_kept(alone=False)
    with assert_process_untouched():
        in_turn(first.__enter__, other.__enter__, lambda: first.__exit__(None, None, None), draw,
                lambda: None, lambda: other.__exit__(None, None, None))  # fmt: skip


def test_seeded_threads_take_turns_and_draw_the_same() -> None:
    drawn: list[torch.Tensor] = []

    def work() -> None:
        for _ in range(20):
            with seeded():
                drawn.append(torch.cat([torch.rand(1) for _ in range(50)]))

    with assert_process_untouched():
        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(drawn) == 40
    assert torch.stack(drawn).unique(dim=0).shape == (1, 50)


def test_devices_nobody_used_yet_keep_their_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda _: pytest.fail("the device will begin with our seed"))
    with seeded():
        assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(0)))
