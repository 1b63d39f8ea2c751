"""Changes besides the edits are saved with them; what `load` could not rebuild is not saved."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import surgery
from surgery.serialization.model_folder import STEPS
from tests.asserts import assert_raises, assert_same_function, assert_untouched
from tests.models import ResidualNet, picture, randomise


class Headed(nn.Module):
    """A body, an auxiliary head in training, and a classifier with an activation of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.act = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()
        self.twice = nn.Sequential(nn.Conv2d(4, 4, 1), self.act)
        self.aux: nn.Module | None = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
        self.classifier = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.twice(self.act(self.bn(self.conv(x)))).mean((2, 3))
        scores: Tensor = self.classifier(x)
        return (scores, self.aux(x)) if self.training and self.aux is not None else scores


class Wrapped(nn.Module):
    """A layer with a parallel layer of low rank."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.base_layer = layer
        self.down = nn.Conv2d(layer.in_channels, 2, layer.kernel_size, padding=layer.padding, bias=False)
        self.up = nn.Conv2d(2, layer.out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.base_layer(x) + self.up(self.down(x))
        return result


def new_last_layer(model: Any) -> None:
    model.classifier[2] = nn.Linear(5, 7)


def new_classifier(model: Any) -> None:
    model.classifier = nn.Sequential(nn.Linear(4, 6), nn.Hardswish(), nn.Linear(6, 2))


def no_auxiliary_head(model: Any) -> None:
    model.aux = None


def counting_buffers(model: nn.Module) -> None:
    for module in list(model.modules()):
        module.register_buffer("total_ops", torch.zeros(1, dtype=torch.float64))


def buffer_outside_the_state(model: nn.Module) -> None:
    model.register_buffer("mean", torch.ones(3), persistent=False)


def low_rank(model: Any) -> None:
    model.conv = Wrapped(model.conv)


def weight_norm(model: Any) -> None:
    parametrizations.weight_norm(model.classifier[2])


def tied(model: Any) -> None:
    model.twice[0].bias = model.conv.bias


def second_name(model: Any) -> None:
    model.stem = model.bn


CHANGES = (new_last_layer, new_classifier, no_auxiliary_head, counting_buffers, buffer_outside_the_state, low_rank,
           weight_norm, tied, second_name)  # fmt: skip


def edited(build: Callable[[], nn.Module] = Headed, *rules: Any) -> nn.Module:
    model = randomise(build())
    for rule in rules or (surgery.swap("prelu", activation="relu"),):
        surgery.transform_(model, rule, picture())
    return model


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_what_was_changed_beside_the_edits_comes_back(change: Callable[[nn.Module], None], tmp_path: Path) -> None:
    model = edited()
    change(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    with assert_untouched(model):
        surgery.save(model, tmp_path)
    fresh = Headed()
    change(fresh)
    assert_same_function(model, surgery.load(tmp_path, fresh), picture())
    assert list(model.state_dict()) == list(fresh.state_dict())
    assert surgery.find_sites(fresh, picture()).to_json() == surgery.find_sites(model, picture()).to_json()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (new_last_layer, ["classifier.2.weight [7, 5], here [3, 5]", "new head"]),
        (no_auxiliary_head, ["missing: aux.0.weight", "change the fresh model"]),
        (tied, ["change it likewise"]),
        (second_name, ["unknown: stem.bias"]),
    ],
)
def test_a_model_that_was_not_changed_likewise_is_refused(
    change: Callable[[nn.Module], None], words: list[str], tmp_path: Path
) -> None:
    model = edited()
    change(model)
    surgery.save(model, tmp_path)
    fresh = Headed()
    with assert_untouched(fresh):
        assert_raises(surgery.WrongModel, lambda: surgery.load(tmp_path, fresh), *words)


def test_buffers_of_a_profiler_come_back_into_a_model_without_them(tmp_path: Path) -> None:
    model: Any = edited()
    counting_buffers(model)
    model.classifier[1].total_ops.fill_(5)
    surgery.save(model, tmp_path)
    fresh = surgery.load(tmp_path, Headed())
    assert fresh.get_buffer("classifier.1.total_ops").item() == 5.0
    assert fresh.get_buffer("classifier.1.total_ops").dtype == torch.float64
    assert_same_function(model, fresh, picture())
    assert fresh.state_dict().keys() == model.state_dict().keys()


def test_another_network_with_the_same_new_head_is_refused(tmp_path: Path) -> None:
    model = edited()
    new_last_layer(model)
    surgery.save(model, tmp_path)
    other: Any = Headed()
    new_last_layer(other)
    other.twice[1] = nn.SiLU()
    with assert_untouched(other):
        assert_raises(surgery.WrongModel, lambda: surgery.load(tmp_path, other), "hint")


def wide_slopes(model: Any) -> None:
    model.classifier[1] = nn.PReLU(5)


def other_activation(model: Any) -> None:
    model.act = nn.SiLU()


def parametrised_slopes(model: Any) -> None:
    nn.utils.parametrize.register_parametrization(model.classifier[1], "weight", nn.Softplus())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (wide_slopes, ["classifier.1 is not the module that the edit put there"]),
        (other_activation, ["act is not the module that the edit put there", "SiLU"]),
        (parametrised_slopes, ["classifier.1", "no such tensor"]),
    ],
)
def test_a_change_at_an_edited_place_is_not_saved(change: Any, words: list[str], tmp_path: Path) -> None:
    model = edited(Headed, surgery.swap("prelu", activation="relu", owner=("classifier", "aux")),
                   surgery.swap("prelu", activation="relu"))  # fmt: skip
    change(model)
    with assert_untouched(model):
        assert_raises(surgery.BadValue, lambda: surgery.save(model, tmp_path / "new"), "could not be loaded", *words)
    assert not (tmp_path / "new").exists()


def test_a_block_in_the_place_of_an_edited_one_is_not_saved_as_if_it_were_edited(tmp_path: Path) -> None:
    model: Any = edited(ResidualNet, surgery.erase_relu())
    model.layer1[0] = ResidualNet().layer1[0]
    surgery.save(model, tmp_path)
    (step,) = json.loads((tmp_path / STEPS).read_text())["steps"]
    assert [edit["site"][0] for edit in step["data"]["edits"]] == ["layer1.1"]
    assert_same_function(model, surgery.load(tmp_path, ResidualNet()), picture())


def test_a_model_of_which_no_edit_is_left_is_not_saved_as_an_edited_one(tmp_path: Path) -> None:
    model: Any = edited(Headed, surgery.swap("prelu", owner="classifier"))
    new_classifier(model)
    assert_raises(surgery.NotEdited, lambda: surgery.save(model, tmp_path / "new"))
    surgery.save(model, tmp_path, name="mine/headed")
    fresh = Headed()
    new_classifier(fresh)
    assert_same_function(model, surgery.load(tmp_path, fresh), picture())


# -- examples whose values decide something ---------------------------------------------------------------------------


class Experts(nn.Module):
    """The rounded sum of the input selects the branch."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(16))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.experts[int(x.double().sum()) % 16](x)
        return result


def test_a_small_example_keeps_its_values(tmp_path: Path) -> None:
    rows = torch.full((2, 4), 11 / 8)
    model, report = surgery.transform(randomise(Experts()), surgery.swap("prelu"), rows)
    assert [edit.site.owner for edit in report.plan.edits] == ["experts.11"]
    surgery.save(model, tmp_path)
    fresh = surgery.load(tmp_path, Experts())
    assert_same_function(model, fresh, rows)
    assert isinstance(fresh.get_submodule("experts.11.1"), nn.PReLU)


def test_where_a_large_example_decides_it_is_given_again(tmp_path: Path) -> None:
    (drawn,) = surgery.find_sites(Experts(), torch.empty(512, 4, device="meta"))  # whom numbers drawn anew choose
    rows = torch.full((512, 4), (4 if drawn.owner == "experts.3" else 3) / 2048)
    model, _ = surgery.transform(randomise(Experts()), surgery.swap("prelu"), rows)
    words = "could not be loaded again", "save(..., example=...)"
    assert_raises(surgery.BadValue, lambda: surgery.save(model, tmp_path / "new"), *words)
    assert not (tmp_path / "new").exists()
    surgery.save(model, tmp_path, example=rows)
    fresh = Experts()
    with assert_untouched(fresh):
        assert_raises(surgery.WrongModel, lambda: surgery.load(tmp_path, fresh))
    assert_same_function(model, surgery.load(tmp_path, fresh, example=rows), rows)
