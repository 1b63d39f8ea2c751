"""Two processes with data of their own cut the same weights, by what both measured; what differs is refused in both."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pruning import processes as module
from pruning.masks.masks import Masks
from pruning.processes import agreed, averaged
from pruning.pruners.pruners import snip
from pruning.rounds.round import Round, snapshot
from surgery.errors import BadValue
from tests.asserts import assert_raises
from tests.pruning.tiny import tiny_net

PROCESS = """
import sys, torch
import torch.distributed as dist
from torch import nn
import pruning
from pruning.processes import averaged
from surgery import BadValue
from tests.asserts import assert_raises
from tests.pruning.test_processes import gradients_on, data_of
from tests.pruning.tiny import tiny_net
torch.set_num_threads(1)
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
x = data_of(rank)

def train(model, held):
    parallel = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    with held(optimizer):
        for _ in range(2):
            optimizer.zero_grad()
            (parallel(x) - 1).square().mean().backward()
            optimizer.step()

def alone(model, held):  # nobody averages: the movements differ, and the weights
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    with held(optimizer):
        optimizer.zero_grad()
        (model(x) - 1).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        for one, start in zip(model.parameters(), tiny_net().parameters()):
            one.copy_(start * one.bool())

def rounds(pruner, train=train, **more):
    masks = pruning.run_rounds(
        tiny_net(), train, pruner, 0.3, 2, gradients=lambda model: gradients_on(model, x), **{"rewind": None, **more}
    )
    told = [None, None]
    dist.all_gather_object(told, {name: mask.clone() for name, mask in masks.items()})
    assert all(torch.equal(one, told[1][name]) for name, one in told[0].items()), pruner
    return masks

# By gradients, by movement, by units that are dead on the data, and by the weights alone.
found = rounds(pruning.snip(), train_first=False, rewind="init")
torch.save(dict(found), f"{folder}/{rank}.pt")
rounds(pruning.snip())
rounds(pruning.in_stages(pruning.global_gradient(), 0.1, "any"))
rounds(pruning.accumulated_movement(), alone)
rounds(pruning.with_ap(pruning.global_magnitude(), 0.01, "any", "dead", batches=[x], shortfall="host"))
rounds(pruning.random_weights())

# What differs is refused in both, and so is what fails in one.
own = pruning.random_weights(seed=rank)
assert_raises(BadValue, lambda: rounds(own, train_first=False), "different weights", "2 different masks in 2 processes")
start = pruning.Masks({"0.weight": torch.ones(4, 2, 3, 3) > rank})
assert_raises(BadValue, lambda: rounds(pruning.lamp(), masks=start), "different weights")

def broken(model):
    if rank == 0:
        raise TypeError("no such images")
    gradients_on(model, x)

assert_raises(
    BadValue, lambda: pruning.run_rounds(tiny_net(), train, pruning.snip(), 0.3, 1, gradients=broken),
    *(["`gradients` fails on Sequential", "no such images"] if rank == 0 else ["Process 0", "`gradients` fails"]),
)
assert_raises(BadValue, lambda: averaged(lambda: {"a" if rank else "b": torch.ones(1)}), "different weights")
# Folders of two moments: the first process has ended, the second one begins.
pruning.run_rounds(tiny_net(), train, pruning.lamp(), 0.3, 1, folder=f"{folder}/rounds-{rank}")
place = f"{folder}/rounds-0" if rank == 0 else f"{folder}/new"
assert_raises(
    BadValue, lambda: pruning.run_rounds(tiny_net(), train, pruning.lamp(), 0.3, 1, folder=place), "different", "done"
)
dist.destroy_process_group()
"""

FAILURES = """
import datetime, sys, torch
import torch.distributed as dist
import pruning
from pruning.processes import agreed, averaged
from surgery import BadValue
from tests.asserts import assert_raises
from tests.pruning.tiny import batch, tiny_net
torch.set_num_threads(1)
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2,
                        timeout=datetime.timedelta(seconds=20))

def refused(own, *words, of):  # the second process fails by itself, and the first is told so
    if rank == 1:
        assert_raises(own, of, *words)
    else:
        assert_raises(BadValue, of, "Process 1 could not", words[0])
    dist.barrier()  # nobody is left waiting for the other

@torch.no_grad()
def spoil(model, held=None):
    if rank == 1:
        model[4].weight[0, 0] = float("nan")

def foreign(*_):
    if rank == 1:
        raise ZeroDivisionError("a stranger's failure")
    return {}

def rounds(train=lambda model, held: None, pruner=pruning.lamp(), **more):
    return pruning.run_rounds(tiny_net(), train, pruner, 0.3, 1, rewind=None, **more)

def revive(model, held):
    if rank == 1 and held.masks.alive < held.masks.size:
        torch.nn.init.ones_(model[0].weight)

def failing(round, share):
    foreign()
    return round.masks

# In rounds: numbers that are none, weights that live again, and errors of others.
refused(BadValue, "4.weight", "not finite", of=lambda: rounds(spoil))
refused(BadValue, "are not zero any more", of=lambda: rounds(revive))
refused(ZeroDivisionError, "stranger", of=lambda: rounds(pruner=failing))
broken = tiny_net()
spoil(broken)
refused(BadValue, "4.weight", of=lambda: pruning.run_rounds(broken, lambda model, held: None, pruning.lamp(), 0.3, 1))
refused(ZeroDivisionError, "stranger", of=lambda: averaged(foreign))
refused(ZeroDivisionError, "stranger", of=lambda: agreed(foreign))

# Batches that fail in one.
def batches():
    yield batch(0)
    foreign()

refused(ZeroDivisionError, "stranger", of=lambda: pruning.dead_neurons(tiny_net(), batches()))

# In a loop of one's own.
def loop(change, **options):
    model = tiny_net()
    ap = pruning.ActivateWhilePruning(model, 0.1, "any", "magnitude", **options)
    ap.begin_round()
    change(model)
    return ap.step()

def nothing(model):
    pass

def other(model):
    with torch.no_grad():
        model[0].weight.mul_(1 + 100 * rank)

told = [None, None]
dist.all_gather_object(told, {name: mask.tolist() for name, mask in loop(nothing).items()})
assert told[0] == told[1]
assert_raises(BadValue, lambda: loop(other), "different weights", "2 different masks in 2 processes")
dist.barrier()
refused(BadValue, "4.weight", of=lambda: loop(spoil))
asked = [pruning.Masks.full, pruning.Masks.full, foreign]  # as it is made, as a round begins, as it ends
refused(ZeroDivisionError, "stranger", of=lambda: loop(nothing, masks=lambda model: asked.pop(0)(model) or None))
dist.destroy_process_group()
"""


def data_of(rank: int) -> Tensor:
    """Images of one process."""
    return torch.randn(6, 2, 6, 6, generator=torch.Generator().manual_seed(10 + rank)) * (1 + 5 * rank)


def gradients_on(model: nn.Module, x: Tensor) -> None:
    """Forward and backward."""
    (model(x) - 1).square().mean().backward()


def mean_gradients() -> dict[str, Tensor]:
    """By hand: the mean over two processes."""
    found: list[dict[str, Tensor]] = []
    for rank in (0, 1):
        model = tiny_net()
        gradients_on(model, data_of(rank))
        found.append({name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None})
    return {name: (one + found[1][name]) / 2 for name, one in found[0].items()}


def run_two(code: str, folder: Path) -> None:
    """The same code in two processes, which are told their rank and a folder."""
    ranks = [
        subprocess.Popen([sys.executable, "-c", code, str(rank), str(folder)], stderr=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    try:
        for one in ranks:
            _, problems = one.communicate(timeout=300)
            assert one.returncode == 0, problems
    finally:
        for one in ranks:
            one.kill()


@pytest.mark.slow
def test_what_fails_in_one_process_leaves_no_other_waiting(tmp_path: Path) -> None:
    run_two(FAILURES, tmp_path)


@pytest.mark.slow
def test_two_processes_cut_the_same_weights(tmp_path: Path) -> None:
    run_two(PROCESS, tmp_path)
    model = tiny_net()
    first = snip()(Round.of(model, snapshot(model), gradients=mean_gradients()), 0.3)
    for rank in (0, 1):
        ended = Masks(torch.load(tmp_path / f"{rank}.pt"))
        assert ended.alive == 264 - 79 - 55
        assert all(not (ended[name] & ~first[name]).any() for name in first), "its first cut is by the mean gradients"


@pytest.mark.parametrize(
    ("others", "words"),
    [
        (("other masks", None), ["different weights", "2 different masks in 2 processes"]),
        (("same", (1, "cut")), ["different points", "(1, 'cut')"]),
    ],
)
def test_what_another_process_tells_is_compared(
    monkeypatch: pytest.MonkeyPatch, others: tuple[str, object], words: list[str]
) -> None:
    digest, place = others
    monkeypatch.setattr(module, "processes", lambda: 2)
    monkeypatch.setattr(
        module, "gathered_or_raised", lambda mine, *_: [mine, (place, mine[1] if digest == "same" else digest)]
    )
    masks = Masks.full(tiny_net())
    assert_raises(BadValue, lambda: agreed(lambda: masks), *words)
    monkeypatch.setattr(module, "gathered_or_raised", lambda mine, *_: [mine, mine])
    assert agreed(lambda: masks, (1, "cut")) is masks


def test_one_process_asks_nobody() -> None:
    masks = Masks.full(tiny_net())
    tensors = {"a": torch.ones(2)}
    assert agreed(lambda: masks) is masks
    assert averaged(lambda: tensors) is tensors

    def fails() -> Masks:
        raise BadValue("no masks")

    assert_raises(BadValue, lambda: agreed(fails), "no masks")
    with pytest.raises(BadValue, match="no masks"):
        averaged(fails)  # type: ignore[arg-type]
