"""Folders of rounds: a killed run ends as one that was not, and other folders are refused."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

from pruning.ap.ap import with_ap
from pruning.dead.meter import DeadNeuronMeter
from pruning.masks.masks import Masks
from pruning.pruners.pruners import global_magnitude
from pruning.rounds import checkpoint
from pruning.rounds.round import Round
from pruning.rounds.rounds import run_rounds
from surgery.errors import BadFile, WrongModel
from tests.asserts import assert_bit_equal, assert_raises, assert_untouched
from tests.killing import Clock, Killed, halt, kill
from tests.processes import called, forked
from tests.pruning.rounds.small_rounds import (
    Held,
    Spy,
    Stages,
    batch,
    magnitude,
    net,
    never,
    refused,
    state,
    train,
)


def seeded(seed: int = 5) -> None:
    torch.manual_seed(seed)
    numpy.random.seed(seed)
    random.seed(seed)


def run(model: nn.Module, folder: Path | None, clock: Clock, pruner: Any, rewind: Any) -> Masks:
    """A run in which everything draws from the global generators, and which may end at any moment."""

    def drawing(model: nn.Module) -> None:
        clock.tick()
        x, y = batch()
        nn.functional.cross_entropy(model(x), y).backward()

    def after(number: int, masks: Masks) -> None:
        clock.tick()
        torch.randn(number)
        model.eval()

    with clock.around_files(checkpoint):
        return run_rounds(
            model, partial(train, steps=2, tick=clock.tick), pruner, 0.3, 2, rewind=rewind, gradients=drawing,
            folder=folder, after=after,
        )  # fmt: skip


def result(model: nn.Module, masks: Masks) -> list[Tensor]:
    drawn = torch.tensor([torch.rand(()).item(), numpy.random.random(), random.random()], dtype=torch.float64)
    return [*state(model).values(), *masks.values(), drawn]


STOPPED = {
    "one cut, init": (Spy("gradients"), "init"),
    "one cut, fine-tuned": (Spy("gradients"), None),
    "stages, init": (Stages("movement"), "init"),
    "stages, fine-tuned": (Stages("movement"), None),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", ["one cut, init", "stages, fine-tuned"])
def test_a_run_stopped_at_some_moments_ends_as_if_it_was_not(case: str, tmp_path: Path) -> None:
    stopped_at_every(29, case, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("case", STOPPED)
def test_a_run_stopped_at_any_moment_ends_as_if_it_was_not(case: str, tmp_path: Path) -> None:
    stopped_at_every(1, case, tmp_path)


def stopped_at_every(step: int, case: str, home: Path) -> None:
    pruner, rewind = STOPPED[case]

    def until(moment: int | None, folder: Path | None) -> list[Tensor] | None:
        begun = folder is not None and (folder / checkpoint.INDEX).is_file()
        seeded(99 if begun else 5)  # once begun, it does not matter what the process draws, or which weights it has
        model = net(seed=7 if begun else 0)
        try:
            return result(model, run(model, folder, Clock(moment, halt), pruner, rewind))
        except Killed:
            return None

    seeded()
    clock = Clock(None, halt)
    whole = result(model := net(), run(model, home / "whole", clock, pruner, rewind))
    assert clock.now > 100
    assert_bit_equal(until(None, None) or [], whole)
    for moment in range(1, clock.now + 1, step):
        folder = home / str(moment)
        assert until(moment, folder) is None
        until(13, folder)  # and once more on the way
        assert_bit_equal(until(None, folder) or [], whole)
        assert len(list(folder.iterdir())) == (4 if rewind else 3), "old files stay behind"


def test_what_a_pruner_measured_in_a_training_is_measured_again(tmp_path: Path) -> None:
    """Stopped between a training and the cut that depends on it, also in `after`."""
    whole = metered(tmp_path / "whole", [])
    for stop in (["cut"], ["after"], ["after", "cut"]):
        folder = tmp_path / "-".join(stop)
        with pytest.raises(Killed):
            metered(folder, list(stop))
        while stop := stop[1:]:
            with pytest.raises(Killed):
                metered(folder, list(stop))
        assert_bit_equal(metered(folder, []), whole)


def metered(folder: Path, stop: list[str]) -> list[Tensor]:
    """Two rounds in which AP cuts by the units that were dead in training, stopped the first time at `stop`."""
    seeded()
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 40), nn.ReLU(), nn.Linear(40, 2))
    with torch.no_grad():
        model[1].bias.fill_(-1.0)  # many units are dead
    meter = DeadNeuronMeter(model, every=1, inputs=True)
    with_dead = with_ap(global_magnitude(), 0.1, by="dead", meter=meter, shortfall="host")

    def at(place: str) -> None:
        if stop and stop[0] == place:
            raise Killed

    class Stopped:
        wants = with_dead.wants

        def __call__(self, round: Round, share: float) -> Masks:
            at("cut")
            return with_dead(round, share)

        def __repr__(self) -> str:
            return "stopped"

    def training(model: nn.Module, held: Held) -> None:
        meter.reset()
        with meter:
            train(model, held, steps=2)

    masks = run_rounds(model, training, Stopped(), 0.3, 2, rewind=None, folder=folder, after=lambda *_: at("after"))
    return [*state(model).values(), *masks.values()]


def test_a_killed_process_is_gone_on_with_in_another(tmp_path: Path) -> None:
    pruner, rewind = STOPPED["stages, init"]
    seeded()
    clock = Clock(None, halt)
    whole = result(model := net(), run(model, None, clock, pruner, rewind))
    done = called(kill_and_go_on, tmp_path)
    assert done.returncode == 0, done.stderr
    for moment in KILLED:
        assert_bit_equal(torch.load(tmp_path / str(moment) / "end.pt"), whole)


KILLED = random.Random(4).sample(range(1, 150), 4)


def kill_and_go_on(home: Path) -> None:
    """Kill a run at several moments, each time in a separate process, and let another one finish it."""
    pruner, rewind = STOPPED["stages, init"]

    def until(moment: int | None, folder: Path) -> None:
        seeded()
        ended = result(model := net(), run(model, folder, Clock(moment, kill), pruner, rewind))
        torch.save(ended, folder / "end.pt")

    for moment in KILLED:
        folder = home / str(moment)
        assert forked(partial(until, moment, folder)) == -signal.SIGKILL, moment
        assert forked(partial(until, None, folder)) == 0, moment


@pytest.mark.gpu
def test_a_run_on_a_gpu_goes_on_with_its_random_numbers(tmp_path: Path) -> None:
    def dropping(clock: Clock, model: nn.Module, held: Held) -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        with held(optimizer):
            for _ in range(3):
                clock.tick()
                optimizer.zero_grad()
                model(torch.randn(8, 6, device="cuda")).square().mean().backward()
                optimizer.step()

    def ended(end: int | None, folder: Path | None) -> tuple[Masks, nn.Module]:
        seeded()
        model = nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.5), nn.Linear(16, 2)).cuda()
        clock = Clock(end, halt)
        return run_rounds(model, partial(dropping, clock), magnitude, 0.3, 2, folder=folder), model

    masks, whole = ended(None, None)
    assert_raises(Killed, lambda: ended(5, tmp_path))
    again, model = ended(None, tmp_path)
    assert again == masks
    assert all(mask.is_cuda for mask in again.values())
    for param, other in zip(model.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(param, other)


def finished(folder: Path, **changed: Any) -> Masks:
    asked = {"train": train, "pruner": magnitude, "share": 0.2, "rounds": 1} | changed
    return run_rounds(net(), folder=folder, **asked)


def test_a_finished_folder_gives_its_masks_and_model_at_once(tmp_path: Path) -> None:
    first, second, closures = net(), net(seed=3), []
    for _ in range(2):  # two functions at two addresses, as in two processes
        closures.append(lambda round, share: magnitude(round, share))
    masks = run_rounds(first, train, closures[0], 0.2, 1, folder=tmp_path)
    again = run_rounds(second, never, closures[1], 0.2, 1, folder=tmp_path, after=never)
    assert again == masks
    assert_bit_equal(state(second).values(), state(first).values())
    assert second.training is first.training


def test_other_files_in_a_folder_stay(tmp_path: Path) -> None:
    for name in ("notes.txt", "model.safetensors", "state-final.safetensors"):
        (tmp_path / name).write_text("mine")
    finished(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "masks-3.safetensors", "model.safetensors", "notes.txt", "rewind-0.safetensors", "rounds.json",
        "state-3.safetensors", "state-final.safetensors",
    ]  # fmt: skip
    assert Masks.load(tmp_path / "masks-3.safetensors").alive == 144


def test_what_a_killed_save_left_goes(tmp_path: Path) -> None:
    finished(tmp_path)
    there = sorted(tmp_path.iterdir())
    for name in ("state-2.safetensors", "masks-4.safetensors.tmp"):
        (tmp_path / name).write_text("half")
    finished(tmp_path, train=never)
    assert sorted(tmp_path.iterdir()) == there


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)


def edit_index(path: Path, **changed: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


DAMAGED: dict[str, tuple[str, str, Callable[[Path], object]]] = {
    f"{part} {how}": (f"{part}-*.safetensors", word, change)
    for part in ("state", "masks", "rewind")
    for how, word, change in (
        ("flipped", "damaged", flip),
        ("cut short", "damaged", lambda path: path.write_bytes(path.read_bytes()[:-5])),
        ("empty", "damaged", lambda path: path.write_bytes(b"")),
        ("missing", "missing", lambda path: path.unlink()),
    )
} | {
    "index missing": ("rounds.json", "rounds.json is missing", lambda path: path.unlink()),
    "index empty": ("rounds.json", "cannot be read", lambda path: path.write_text("")),
    "index no table": ("rounds.json", "cannot be read", lambda path: path.write_text("[1]")),
    "index no text": ("rounds.json", "cannot be read", lambda path: path.write_bytes(bytes(range(128, 200)))),
    "index without digest": ("rounds.json", "cannot be read", lambda path: path.write_text("{}")),
    "index altered": ("rounds.json", "modified", lambda path: edit_index(path, count=7)),
    "index of another format": ("rounds.json", "format", lambda path: edit_index(path, format=2)),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_folder_is_refused(case: str, tmp_path: Path) -> None:
    pattern, word, change = DAMAGED[case]
    finished(tmp_path)
    (path,) = tmp_path.glob(pattern)
    change(path)
    there = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with assert_untouched(model := net(seed=3)):
        refused(BadFile, model, word, str(tmp_path), folder=tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == there


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with assert_untouched(model := net()):
        refused(BadFile, model, "not a folder", folder=tmp_path / "run")


OTHER: dict[str, dict[str, Any]] = {
    "share": {"share": 0.3},
    "rounds": {"rounds": 2},
    "pruner": {"pruner": Spy()},
    "rewind": {"rewind": net(seed=2).state_dict()},
    "train_first": {"train_first": False},
    "masks": {"masks": Masks.full(net())},
    "prunable": {"keep": lambda name, _: name == "conv1.weight"},
    "compensate": {"compensate": [torch.zeros(4, 3, 8, 8)]},
    "recalibrate": {"recalibrate": [torch.zeros(4, 3, 8, 8)]},
}


@pytest.mark.parametrize("name", OTHER)
def test_a_folder_of_another_run_is_refused(name: str, tmp_path: Path) -> None:
    finished(tmp_path)
    with assert_untouched(model := net()):
        refused(WrongModel, model, f"another run: {name}", str(tmp_path), folder=tmp_path, **OTHER[name])


def test_a_folder_of_another_model_is_refused(tmp_path: Path) -> None:
    finished(tmp_path)
    with assert_untouched(model := net(width=5)):
        refused(WrongModel, model, "layout", "conv1.weight", "[5, 3, 3, 3]", "[4, 3, 3, 3]", folder=tmp_path)


def test_another_state_to_rewind_to_is_another_run(tmp_path: Path) -> None:
    finished(tmp_path, rewind=net(seed=1).state_dict())
    assert finished(tmp_path, rewind=net(seed=1).state_dict(), train=never).alive == 144
    refused(WrongModel, net(), "rewind", folder=tmp_path, rewind=net(seed=2).state_dict())
