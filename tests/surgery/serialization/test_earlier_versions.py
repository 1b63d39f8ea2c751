"""Folders of an earlier version: parameters per channel whose number depends on the size of the images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import surgery
from surgery.serialization.model_folder import read_steps, write_folder
from tests.asserts import assert_same_function


class Flattened(nn.Module):
    """Two activations whose channels are pixels: a module and a function."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.conv(x).flatten(1))
        x = nn.functional.adaptive_avg_pool2d(x.unflatten(1, (4, 8, 8)), 2).flatten(1)
        return self.fc(torch.relu(x.unflatten(1, (4, 4)).flatten(1)))  # type: ignore[no-any-return]


X = torch.linspace(-1, 1, 384).view(2, 3, 8, 8)


@pytest.fixture(params=["prelu", "pwlu"])
def earlier(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, nn.Module]:
    """A folder as version 0.1 wrote it, and the model in it."""
    model = Flattened()
    plan = surgery.make_plan(surgery.find_sites(model, X), surgery.swap(request.param, activation="relu"))
    assert plan.edits[0].site.channels_vary and plan.edits[0].site.channels == 256
    surgery.apply_plan(model, replace(plan, edits=tuple(replace(edit, per_channel=True) for edit in plan.edits)))
    assert all(param.shape[-1] == 256 for param in model.act.parameters())
    with torch.no_grad():
        for param in model.act.parameters():
            param.add_(torch.linspace(0, 0.1, param.numel()).view(param.shape))
    surgery.save(model, tmp_path)
    data = read_steps(tmp_path)
    for edit in data["steps"][0]["data"]["edits"]:
        del edit["per_channel"]
    write_folder(tmp_path, model, data)
    return tmp_path, model


@pytest.mark.filterwarnings("ignore:.*never moved")
def test_they_load_and_are_saved_again(earlier: tuple[Path, nn.Module], tmp_path: Path) -> None:
    folder, model = earlier
    loaded = surgery.load(folder, Flattened())
    assert_same_function(loaded, model, X)
    surgery.save(loaded, tmp_path / "again")
    assert_same_function(surgery.load(tmp_path / "again", Flattened()), model, X)
    surgery.undo(loaded)
    assert isinstance(loaded.act, nn.ReLU)


def test_what_is_saved_today_shares_parameters_there(tmp_path: Path) -> None:
    edited, _ = surgery.transform(Flattened(), surgery.swap("prelu"), X)
    assert edited.act.weight.shape == (1,)
    surgery.save(edited, tmp_path)
    assert all("per_channel" not in edit for edit in read_steps(tmp_path)["steps"][0]["data"]["edits"])
    assert_same_function(surgery.load(tmp_path, Flattened()), edited, X)
