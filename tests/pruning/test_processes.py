"""Two processes with different data cut the same weights, by their joint measurements; differences raise in both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn

import pruning
from pruning import processes as module
from pruning.masks.masks import Masks
from pruning.processes import agreed, averaged
from pruning.pruners.pruners import snip
from pruning.rounds.round import Round, snapshot
from pruning.rounds.rounds import Held
from surgery.errors import BadValue
from surgery.processes import gathered
from tests.asserts import assert_raises
from tests.processes import in_two
from tests.pruning.tiny import batch, tiny_net


def two_cut(rank: int, folder: Path) -> None:
    """Masks by gradients, by movement, by units that are dead on the data, and by the weights alone."""
    x = data_of(rank)

    def train(model: nn.Module, held: Held) -> None:
        parallel = nn.parallel.DistributedDataParallel(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        with held(optimizer):
            for _ in range(2):
                optimizer.zero_grad()
                (parallel(x) - 1).square().mean().backward()
                optimizer.step()

    def alone(model: nn.Module, held: Held) -> None:
        """Without averaging, movements and weights differ."""
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
        with held(optimizer):
            optimizer.zero_grad()
            (model(x) - 1).square().mean().backward()
            optimizer.step()
        with torch.no_grad():
            for parameter, start in zip(model.parameters(), tiny_net().parameters(), strict=True):
                parameter.copy_(start * parameter.bool())

    def rounds(pruner: Any, train: Any = train, **more: Any) -> Masks:
        options = {"rewind": None, "gradients": partial(gradients_on, x=x), **more}
        masks = pruning.run_rounds(tiny_net(), train, pruner, 0.3, 2, **options)
        first, second = gathered({name: mask.clone() for name, mask in masks.items()})
        assert all(torch.equal(mask, second[name]) for name, mask in first.items()), pruner
        return masks

    found = rounds(pruning.snip(), train_first=False, rewind="init")
    torch.save(dict(found), folder / f"{rank}.pt")
    rounds(pruning.snip())
    rounds(pruning.in_stages(pruning.global_gradient(), 0.1, "any"))
    rounds(pruning.accumulated_movement(), alone)
    rounds(pruning.with_ap(pruning.global_magnitude(), 0.01, "any", "dead", batches=[x], shortfall="host"))
    rounds(pruning.random_weights())

    model, still = tiny_net(), lambda model, held: None
    pruning.run_rounds(model, still, pruning.lamp(), 0.3, 1, compensate=[x])
    for name, bias in (("0.bias", model[0].bias), ("4.bias", model[4].bias)):
        first, second = gathered(bias.detach().clone())
        assert torch.equal(first, second) and not torch.equal(first, tiny_net().get_parameter(name))

    # What differs is refused in both, and so is what fails in one.
    own = pruning.random_weights(seed=rank)
    differs = ("different weights", "2 different masks in 2 processes")
    assert_raises(BadValue, lambda: rounds(own, train_first=False), *differs)
    start = Masks({"0.weight": torch.ones(4, 2, 3, 3) > rank})
    assert_raises(BadValue, lambda: rounds(pruning.lamp(), masks=start), "different weights")

    def broken(model: nn.Module) -> None:
        if rank == 0:
            raise TypeError("no such images")
        gradients_on(model, x)

    assert_raises(
        BadValue,
        lambda: pruning.run_rounds(tiny_net(), train, pruning.snip(), 0.3, 1, gradients=broken),
        *(["`gradients` fails on Sequential", "no such images"] if rank == 0 else ["Process 0", "`gradients` fails"]),
    )
    assert_raises(BadValue, lambda: averaged(lambda: {"a" if rank else "b": torch.ones(1)}), "different weights")
    # Folders of two moments: the first process has ended, the second one begins.
    pruning.run_rounds(tiny_net(), train, pruning.lamp(), 0.3, 1, folder=folder / f"rounds-{rank}")
    place = folder / ("rounds-0" if rank == 0 else "new")
    assert_raises(
        BadValue,
        lambda: pruning.run_rounds(tiny_net(), train, pruning.lamp(), 0.3, 1, folder=place),
        "different",
        "done",
    )


def one_of_two_fails(rank: int, folder: Path) -> None:
    def refused(own: type[BaseException], *words: str, of: Callable[[], object]) -> None:
        """The second process fails, and the first one raises as well, instead of waiting for it."""
        if rank == 1:
            assert_raises(own, of, *words)
        else:
            assert_raises(BadValue, of, "Process 1 could not", words[0])
        distributed.barrier()

    @torch.no_grad()
    def spoil(model: nn.Module, held: object = None) -> None:
        if rank == 1:
            model.get_parameter("4.weight")[0, 0] = float("nan")

    def foreign(*_: object) -> dict[str, Tensor]:
        if rank == 1:
            raise ZeroDivisionError("a stranger's failure")
        return {}

    def rounds(train: Any = lambda model, held: None, pruner: Any = None) -> Masks:
        return pruning.run_rounds(tiny_net(), train, pruner or pruning.lamp(), 0.3, 1, rewind=None)

    def revive(model: nn.Module, held: Any) -> None:
        if rank == 1 and held.masks.alive < held.masks.size:
            nn.init.ones_(model.get_parameter("0.weight"))

    def failing(round: Round, share: float) -> Masks:
        foreign()
        return round.masks

    # In rounds: numbers that are none, weights that live again, and errors of others.
    refused(BadValue, "4.weight", "not finite", of=lambda: rounds(spoil))
    refused(BadValue, "are not zero any more", of=lambda: rounds(revive))
    refused(ZeroDivisionError, "stranger", of=lambda: rounds(pruner=failing))
    broken = tiny_net()
    spoil(broken)
    refused(BadValue, "4.weight", of=lambda: pruning.run_rounds(broken, lambda *_: None, pruning.lamp(), 0.3, 1))
    refused(ZeroDivisionError, "stranger", of=lambda: averaged(foreign))
    refused(ZeroDivisionError, "stranger", of=lambda: agreed(foreign))  # type: ignore[type-var]

    def batches() -> Iterator[Tensor]:
        yield batch(0)
        foreign()

    refused(ZeroDivisionError, "stranger", of=lambda: pruning.dead_neurons(tiny_net(), batches()))

    masks = Masks.full(tiny_net())
    refused(ZeroDivisionError, "stranger", of=lambda: pruning.compensate(tiny_net(), masks, batches()))

    # In a loop of one's own.
    def loop(change: Callable[[nn.Module], object], **options: Any) -> Masks:
        model = tiny_net()
        ap = pruning.ActivateWhilePruning(model, 0.1, "any", "magnitude", **options)
        ap.begin_round()
        change(model)
        return ap.step()

    def nothing(model: nn.Module) -> None:
        pass

    def other(model: nn.Module) -> None:
        with torch.no_grad():
            model.get_parameter("0.weight").mul_(1 + 100 * rank)

    first, second = gathered({name: mask.tolist() for name, mask in loop(nothing).items()})
    assert first == second
    assert_raises(BadValue, lambda: loop(other), "different weights", "2 different masks in 2 processes")
    distributed.barrier()
    refused(BadValue, "4.weight", of=lambda: loop(spoil))
    asked: list[Any] = [Masks.full, Masks.full, foreign]  # as it is made, as a round begins, as it ends
    refused(ZeroDivisionError, "stranger", of=lambda: loop(nothing, masks=lambda model: asked.pop(0)(model) or None))


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
        found.append({name: param.grad.clone() for name, param in model.named_parameters() if param.grad is not None})
    return {name: (value + found[1][name]) / 2 for name, value in found[0].items()}


def test_what_fails_in_one_process_leaves_no_other_waiting(tmp_path: Path) -> None:
    in_two(one_of_two_fails, tmp_path)


def test_two_processes_cut_the_same_weights(tmp_path: Path) -> None:
    in_two(two_cut, tmp_path)
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
