"""One graph per mode, as torchvision's feature extractors have: both are edited."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torchvision.models.feature_extraction import create_feature_extractor

import surgery
from surgery.errors import CannotEdit
from tests.asserts import assert_bit_equal, assert_raises
from tests.models import picture


class Net(nn.Module):
    """A shared ReLU, one of its calls made in training only, and a functional one."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.act, self.only = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.ELU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.a(x))
        if self.training:
            x = self.only(x)
        return F.relu(self.act(self.b(x)) - 0.25)


def by_hand(net: Net, x: Tensor, mode: str, act: nn.Module) -> Tensor:
    x = act(net.a(x))
    return act(act(net.b(net.only(x) if mode == "train" else x)) - 0.25)


def extractor(net: Net) -> fx.GraphModule:
    made: fx.GraphModule = create_feature_extractor(net, {"relu": "out"}, suppress_diff_warning=True)
    return made


def out(model: nn.Module, mode: str) -> Tensor:
    result: Tensor = model.train(mode == "train")(picture())["out"]
    return result


@pytest.mark.slow
@pytest.mark.parametrize("begun", ["train", "eval"])
@pytest.mark.parametrize("around", [False, True], ids=["alone", "part"])
def test_both_graphs_are_edited_and_come_back(begun: str, around: bool, tmp_path: Path) -> None:
    net = Net()
    model: nn.Module = extractor(net)
    if around:
        model = nn.Sequential(model)  # as the backbone of a detector
    model.train(begun == "train")
    for rule, act in (
        (surgery.swap("elu", activation="relu", alpha=0.5), nn.ELU(0.5)),
        (surgery.erase(activation="relu"), nn.Identity()),
    ):
        edited, _ = surgery.transform(model, rule, picture())
        assert edited.training is model.training
        for mode in ("train", "eval", "train"):
            assert_bit_equal([out(edited, mode)], [by_hand(net, picture(), mode, act)])
            assert_bit_equal([out(copy.deepcopy(edited), mode)], [by_hand(net, picture(), mode, act)])
        surgery.save(edited, tmp_path / type(act).__name__)
        fresh = nn.Sequential(extractor(net)) if around else extractor(net)
        loaded = surgery.load(tmp_path / type(act).__name__, model=fresh)
        assert_bit_equal([out(loaded, "eval")], [out(edited, "eval")])
        edited.train(begun != "train")
        surgery.undo(edited)
        for mode in ("train", "eval", "train"):
            assert_bit_equal([out(edited, mode)], [out(model, mode)])
        model.train(begun == "train")


def test_one_of_two_calls_and_one_of_two_modes() -> None:
    net = Net()
    model = extractor(net)
    edited, _ = surgery.transform(model, surgery.swap("silu", site="act 2/2"), picture())
    for mode in ("train", "eval"):
        x = net.act(net.a(picture()))
        x = net.b(net.only(x) if mode == "train" else x)
        assert_bit_equal([out(edited, mode)], [F.relu(F.silu(x) - 0.25)])
    edited, _ = surgery.transform(model, surgery.erase(activation="elu"), picture())
    for mode in ("train", "eval"):
        assert_bit_equal([out(edited, mode)], [out(model, "eval")])


def test_a_rebuilt_copy_cannot_be_taken_back() -> None:
    class Deep(nn.Module):
        """A network whose activation is inside a child, which copying creates anew."""

        def __init__(self) -> None:
            super().__init__()
            self.part, self.last = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.last(self.part(x)))

    edited, _ = surgery.transform(create_feature_extractor(Deep(), {"relu": "out"}), surgery.swap("gelu"), picture())
    again = copy.deepcopy(edited)
    assert torch.equal(out(again, "eval"), out(edited, "eval"))
    assert_raises(CannotEdit, lambda: surgery.undo(again), "copy", "copied from")
    assert torch.equal(out(again, "eval"), out(edited, "eval"))
