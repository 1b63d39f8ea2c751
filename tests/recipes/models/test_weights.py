"""Weights from files: bit for bit, and only where they fit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import surgery
from recipes.models.build import build, load_weights
from surgery.errors import BadFile, WrongModel
from tests.recipes.models.same import same


def test_weights_from_a_file_are_loaded_bit_for_bit(tmp_path: Path) -> None:
    source = build("cifar/resnet20").eval()
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    for path in (tmp_path / "weights.safetensors", str(tmp_path / "weights.safetensors")):
        loaded = build("cifar/resnet20", pretrained=path).eval()
        x = torch.rand(2, 3, 32, 32)
        assert torch.equal(loaded(x), source(x))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"linear.bias": None}, "linear.bias missing"),
        ({"linear.scale": torch.ones(3)}, "linear.scale unknown"),
        ({"linear.bias": torch.ones(3)}, "linear.bias of another shape"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    model = build("cifar/resnet20")
    weights = {name: value for name, value in (model.state_dict() | change).items() if value is not None}
    save_file(weights, tmp_path / "weights.safetensors")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(WrongModel, match=says):
        load_weights(model, tmp_path / "weights.safetensors")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_files_that_are_not_plain_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="no weights file"):
        build("cifar/resnet20", pretrained=tmp_path / "none.safetensors")
    torch.save(build("cifar/resnet20").state_dict(), tmp_path / "weights.pth")
    with pytest.raises(BadFile, match=r"weights\.pth is not a safetensors file"):
        build("cifar/resnet20", pretrained=tmp_path / "weights.pth")
    (tmp_path / "broken.safetensors").write_bytes(b"no header")
    with pytest.raises(BadFile, match="cannot be read as safetensors"):
        build("cifar/resnet20", pretrained=tmp_path / "broken.safetensors")


def test_weights_of_an_edited_model_are_refused(tmp_path: Path) -> None:
    model, _ = surgery.transform(build("cifar/resnet20"), surgery.erase_relu())
    surgery.save(model, tmp_path / "saved")
    copied = shutil.copy(tmp_path / "saved" / "model.safetensors", tmp_path)  # away from its surgery.json
    with pytest.raises(BadFile, match="weights of an edited model"):
        build("cifar/resnet20", pretrained=copied)


def test_tied_weights_are_loaded_under_both_names(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)
            self.two.weight = self.one.weight

    source, model = Tied(), Tied()
    surgery.save(source, tmp_path, name="mine/tied")
    load_weights(model, tmp_path / "model.safetensors")
    assert same(model, source)
