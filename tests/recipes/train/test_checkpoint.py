"""Checkpoints of a training: complete or rejected, and never those of another training."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from pruning.rounds.rewind import tensors_of
from recipes.format.settings import OPTIMIZERS, Finetune
from recipes.train.checkpoint import INDEX, Checkpoint, Moment, Parts
from recipes.train.setup import optimizer_of
from surgery.errors import BadFile, WrongModel
from tests.asserts import assert_bit_equal, assert_raises

START = {"phase": "fit", "options": {"lr": 0.1, "opt": "sgd"}, "weights": "abc"}
MOMENT = Moment(epoch=1, batch=2, update=7, loss=0.1 + 0.2, progress=0.35, step=7)


def net(seed: int = 0, width: int = 3) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.Linear(width, 2, bias=False))


def moved(opt: str = "adam", seed: int = 0, steps: int = 3) -> Parts:
    """A model, its average and an optimiser after some steps."""
    model, average = net(seed), net(seed + 1)
    parts = Parts(model, average, optimizer_of(model, Finetune(opt=opt, lr=0.05)))
    for _ in range(steps):
        step(parts)
    return parts


def step(parts: Parts) -> None:
    assert parts.optimizer is not None
    drawn = torch.Generator().manual_seed(1)
    parts.model(torch.randn(5, 4, generator=drawn)).square().mean().backward()
    parts.optimizer.step()
    parts.optimizer.zero_grad()


def values(parts: Parts) -> list[Tensor]:
    modules = [parts.model, *([parts.average] if parts.average is not None else [])]
    return [tensor.clone() for module in modules for tensor in tensors_of(module).values()]


def kept(folder: Path) -> Checkpoint:
    found = Checkpoint(folder, START)
    found.save(moved(), MOMENT)
    return found


@pytest.mark.parametrize("opt", OPTIMIZERS)
def test_what_is_loaded_goes_on_as_what_was_saved(opt: str, tmp_path: Path) -> None:
    parts = moved(opt)
    Checkpoint(tmp_path, START).save(parts, MOMENT)
    drawn = torch.rand(3)
    saved = Checkpoint(tmp_path, START).load()
    assert saved is not None and saved.moment == MOMENT
    other = moved(opt, seed=8, steps=0)
    saved.restore(other)
    assert torch.equal(torch.rand(3), drawn)
    assert_bit_equal(values(other), values(parts))
    for _ in range(3):
        step(parts)
        step(other)
    assert_bit_equal(values(other), values(parts))
    groups = [side.optimizer.state_dict()["param_groups"] for side in (parts, other) if side.optimizer is not None]
    assert str(groups[0]) == str(groups[1])


def test_the_scale_of_a_scaler_is_kept(tmp_path: Path) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=512.0)
    scaler.scale(torch.ones(()))
    Checkpoint(tmp_path, START).save(Parts(net(), scaler=scaler), MOMENT)
    other = torch.amp.GradScaler("cpu")
    saved = Checkpoint(tmp_path, START).load()
    assert saved is not None
    saved.restore(Parts(net(), scaler=other))
    assert other.state_dict() == scaler.state_dict() and other.state_dict()["scale"] == 512.0


def test_an_empty_folder_holds_nothing(tmp_path: Path) -> None:
    assert Checkpoint(tmp_path / "none", START).load() is None
    (tmp_path / "mine.txt").write_text("kept")
    assert Checkpoint(tmp_path, START).load() is None
    (tmp_path / "weights-0.safetensors").write_bytes(b"cut short")
    assert Checkpoint(tmp_path, START).load() is None
    kept(tmp_path).save(moved(), MOMENT)
    names = sorted(path.name for path in tmp_path.iterdir())
    files = [f"{name}-1.safetensors" for name in ("optimizer", "random", "weights")]
    assert names == sorted(["mine.txt", *files, INDEX])


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert_raises(BadFile, Checkpoint(tmp_path / "file", START).load, "not a folder")


PARTS = ("weights", "optimizer", "random", INDEX)
HARMS: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "flipped": lambda path: path.write_bytes(_flipped(path.read_bytes(), path.stat().st_size // 2, 0)),
    "missing": lambda path: path.unlink(),
    "of another": lambda path: save_file({"model/0.weight": torch.zeros(3, 4)}, path),
}


def _flipped(content: bytes, place: int, bit: int) -> bytes:
    return content[:place] + bytes([content[place] ^ (1 << bit)]) + content[place + 1 :]


def path_of(folder: Path, part: str) -> Path:
    return folder / INDEX if part == INDEX else next(folder.glob(f"{part}-*"))


@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("part", PARTS)
def test_a_damaged_checkpoint_is_refused_by_name(part: str, harm: str, reuse: bool, tmp_path: Path) -> None:
    kept(tmp_path).save(moved(), MOMENT)
    path = path_of(tmp_path, part)
    HARMS[harm](path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert_raises(BadFile, Checkpoint(tmp_path, START, reuse).load, path.name)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@given(st.data())
def test_no_flipped_bit_goes_unseen(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    home = tmp_path_factory.getbasetemp() / "flips"
    if not home.exists():
        kept(home)
    part = data.draw(st.sampled_from(PARTS))
    path = path_of(home, part)
    content = path.read_bytes()
    place, bit = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 7))
    try:
        path.write_bytes(_flipped(content, place, bit))
        if part == INDEX and _means_the_same(content, path.read_bytes()):
            return
        assert_raises((BadFile, WrongModel), Checkpoint(home, START).load, path.name)
    finally:
        path.write_bytes(content)


def _means_the_same(first: bytes, other: bytes) -> bool:
    """A space instead of a newline, or an upper-case exponent, does not change the JSON."""
    try:
        return bool(json.loads(first) == json.loads(other))
    except ValueError:
        return False


def test_an_index_of_another_format_is_refused(tmp_path: Path) -> None:
    kept(tmp_path)
    text = (tmp_path / INDEX).read_text().replace('"format": 1', '"format": 2')
    (tmp_path / INDEX).write_text(text)
    assert_raises(BadFile, Checkpoint(tmp_path, START).load, "unknown format")
    (tmp_path / INDEX).write_text("[]")
    assert_raises(BadFile, Checkpoint(tmp_path, START).load, INDEX)


def test_another_training_is_refused_by_what_differs_or_replaced(tmp_path: Path) -> None:
    kept(tmp_path)
    for what, other in {"phase": "final", "weights": "xyz"}.items():
        start = {**START, what: other}
        assert_raises(WrongModel, Checkpoint(tmp_path, start).load, what, other)
    other_options = {**START, "options": {"lr": 0.2, "opt": "sgd"}}
    assert_raises(WrongModel, Checkpoint(tmp_path, other_options).load, "options differs", "lr 0.2", "lr 0.1")
    assert Checkpoint(tmp_path, other_options, reuse=True).load() is None
    assert Checkpoint(tmp_path, START).load() is not None  # only a save replaces it
    Checkpoint(tmp_path, other_options, reuse=True).save(moved(), replace(MOMENT, epoch=5))
    assert_raises(WrongModel, Checkpoint(tmp_path, START).load, "options differs")
    saved = Checkpoint(tmp_path, other_options).load()
    assert saved is not None and saved.moment.epoch == 5


def test_weights_of_another_model_are_refused_and_nothing_changes(tmp_path: Path) -> None:
    kept(tmp_path)
    saved = Checkpoint(tmp_path, START).load()
    assert saved is not None
    for other in (Parts(net(width=5), net(width=5)), Parts(net(), net(width=5)), Parts(nn.Linear(4, 3))):
        before = values(other)
        assert_raises(WrongModel, lambda other=other: saved.restore(other), "another model")
        assert_bit_equal(values(other), before)


def test_a_folder_may_be_moved(tmp_path: Path) -> None:
    kept(tmp_path / "old")
    shutil.move(tmp_path / "old", tmp_path / "new")
    assert Checkpoint(tmp_path / "new", START).load() is not None
    text = (tmp_path / "new" / INDEX).read_text()
    assert str(tmp_path) not in text
