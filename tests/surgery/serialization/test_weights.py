"""Weights in safetensors files: every tensor under all its names, and all or none of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, load_model, save_model
from torch import Tensor, nn

import surgery
from surgery.serialization.weights import Weights, check_before, put_weights, tensors_of, write_weights
from tests.asserts import assert_bit_equal, assert_raises, assert_untouched


class Aliased(nn.Module):
    """A part of the backbone has a second name; its batch norm counts in a tensor without a dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.stem = self.backbone[1]

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.backbone(x)
        return result


class Taught(nn.Module):
    """Its state dict leaves the teacher out."""

    def __init__(self) -> None:
        super().__init__()
        self.student, self.teacher, self.act = nn.Linear(8, 8), nn.Linear(8, 8), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.act(self.student(x)) - self.teacher(x)
        return result

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        whole = super().state_dict(*args, **kwargs)
        return type(whole)((key, value) for key, value in whole.items() if not key.startswith("teacher"))


class Renamed(Taught):
    """Its state dict has other names."""

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        whole = nn.Module.state_dict(self, *args, **kwargs)
        return type(whole)((f"net.{key}", value) for key, value in whole.items())


class Parts(nn.Module):
    """Two weights are rows of one memory."""

    def __init__(self) -> None:
        super().__init__()
        both = torch.rand(6, 4)
        self.first, self.second, self.act = nn.Linear(4, 3), nn.Linear(4, 3), nn.ReLU()
        self.first.weight, self.second.weight = nn.Parameter(both[:3]), nn.Parameter(both[3:])

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.first(x)) + self.second(x)


class Two(nn.Module):
    """Two layers, with one weight or with two."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.first, self.second, self.act = nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU()
        if tied:
            self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.second(self.act(self.first(x)))
        return result


@pytest.mark.parametrize(
    ("build", "example"),
    [(Aliased, torch.rand(2, 3, 8, 8)), (Taught, torch.rand(2, 8)), (Renamed, torch.rand(2, 8)),
     (Parts, torch.rand(2, 4))],
)  # fmt: skip
def test_every_tensor_of_an_edited_model_comes_back(build: Callable[[], Any], example: Tensor, tmp_path: Path) -> None:
    model, _ = surgery.transform(build(), surgery.swap("prelu"), example)
    with torch.no_grad():
        for tensor in tensors_of(model).values():
            tensor.add_(1)
    surgery.save(model, tmp_path)
    fresh = surgery.load(tmp_path, build())
    assert tensors_of(fresh).keys() == tensors_of(model).keys()
    assert_bit_equal(tensors_of(fresh).values(), tensors_of(model).values(), "tensors")
    assert_bit_equal([fresh.eval()(example)], [model.eval()(example)])


def test_names_are_those_of_the_state_dict() -> None:
    model = Aliased()
    model.register_buffer("beside", torch.ones(1), persistent=False)
    assert list(tensors_of(model)) == list(model.state_dict())


def test_the_file_is_one_of_safetensors(tmp_path: Path) -> None:
    model, again, file = Two(tied=True), Two(tied=True), tmp_path / "ours"
    write_weights(model, file, {})
    load_model(again, file)
    assert_bit_equal(again.state_dict().values(), model.state_dict().values(), "weights")
    save_model(model, str(tmp_path / "theirs"))
    assert load_file(file).keys() == load_file(tmp_path / "theirs").keys()
    put_weights(again, Weights.of(tmp_path / "theirs"))


def test_strides_are_no_matter_of_the_file(tmp_path: Path) -> None:
    model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    write_weights(model, tmp_path / "file", {})
    fresh = nn.Conv2d(3, 4, 3)
    put_weights(fresh, Weights.of(tmp_path / "file"))
    assert torch.equal(fresh.weight, model.weight)


def test_what_is_one_tensor_is_not_put_into_two_nor_two_into_one(tmp_path: Path) -> None:
    for tied in (True, False):
        write_weights(Two(tied), tmp_path / "file", {})
        other, words = Two(not tied), "one tensor there, two here" if tied else "one tensor here, two there"
        with assert_untouched(other):
            assert_raises(surgery.WrongModel, lambda other=other: put_weights(other, Weights.of(tmp_path / "file")),
                          words, "weight")  # fmt: skip


class Stateful(nn.Linear):
    def get_extra_state(self) -> dict[str, int]:
        return {"calls": 3}

    def set_extra_state(self, state: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Sequential(Stateful(2, 2)), "0._extra_state, dict"),
        (nn.Linear(2, 2, device="meta"), "weight, on the meta device"),
        (nn.ParameterList([nn.Parameter(torch.eye(2).to_sparse())]), "0, torch.sparse_coo"),
    ],
)
def test_what_no_file_can_hold_is_named(model: nn.Module, words: str, tmp_path: Path) -> None:
    assert_raises(surgery.BadValue, lambda: write_weights(model, tmp_path / "file", {}), words)
    assert not (tmp_path / "file").exists()


def test_other_shapes_are_named_with_both(tmp_path: Path) -> None:
    write_weights(nn.Linear(4, 3), tmp_path / "file", {})
    weights, other, words = Weights.of(tmp_path / "file"), nn.Linear(4, 2), "weight [3, 4], here [2, 4]"
    with assert_untouched(other):
        assert_raises(surgery.WrongModel, lambda: check_before(other, weights), words, "same new head")
        assert_raises(surgery.WrongModel, lambda: put_weights(other, weights), words)


def test_weights_made_for_inference_are_overwritten_too(tmp_path: Path) -> None:
    model, other = Two(tied=False), Two(tied=False)
    write_weights(model, tmp_path / "file", {})
    with torch.inference_mode():
        other.second.bias = nn.Parameter(torch.zeros(4), requires_grad=False)
    put_weights(other, Weights.of(tmp_path / "file"))
    assert_bit_equal(other.state_dict().values(), model.state_dict().values(), "weights")


def test_a_load_that_fails_halfway_leaves_the_model_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = surgery.transform(Two(tied=False), surgery.swap("prelu", fade=True), torch.rand(2, 4))
    surgery.set_progress(model, 0.5)
    surgery.save(model, tmp_path)
    fresh, copy_, copied = Two(tied=False), Tensor.copy_, []

    def failing(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        copied.append(self)
        if len(copied) == 4:
            raise RuntimeError("CUDA out of memory")
        return copy_(self, *args, **kwargs)

    before = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
    monkeypatch.setattr(Tensor, "copy_", failing)
    assert_raises(surgery.WrongModel, lambda: surgery.load(tmp_path, fresh), "CUDA out of memory")
    assert len(copied) > 4 and not surgery.history_of(fresh)
    assert list(fresh.state_dict()) == list(before) and isinstance(fresh.act, nn.ReLU)
    assert_bit_equal(fresh.state_dict().values(), before.values(), "weights")


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0" * 40)
    assert_raises(surgery.BadFile, lambda: Weights.of(tmp_path / "file"), "file cannot be read")
    assert_raises(surgery.BadFile, lambda: Weights.of(tmp_path / "none"), "none cannot be read")
