"""Replacements: what stands in the place of a merged module, as data and back."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from surgery.errors import BadFile, WrongModel
from surgery.merging.layer import Layer
from surgery.merging.replacement import Replacement

LAYER = Layer(4, 4, (1, 1), (1, 1), (0, 0), (1, 1), 1, False, "zeros")


def built(layer: Layer, old: nn.Module) -> nn.Module:
    return layer.build(old, torch.float32, torch.device("cpu"))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU()), nn.Conv2d(4, 4, 1))
        self.act = nn.PReLU()


CASES = {
    "identity": (Replacement("block"), []),
    "what is left": (Replacement("block", kept=("act",)), ["act"]),
    "a layer": (Replacement("block.conv.1", LAYER), [""]),
    "a block": (Replacement("block", LAYER, "conv.0.0", ("act",)), ["conv.0.0", "act"]),
    "two in one": (Replacement("block", LAYER, "conv.0.0", ("conv.0.1",)), ["conv.0.0", "conv.0.1"]),
    "a function": (Replacement("block", LAYER, "conv.1", (), ("leaky_relu", (("negative_slope", 0.5),))),
                   ["conv.1", "act"]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_names_are_those_of_the_module_before(case: str) -> None:
    replacement, names = CASES[case]
    again = Replacement.from_data(json.loads(json.dumps(replacement.to_data())))
    assert again == replacement
    model = nn.ModuleDict({"block": Block()})
    made = again.build(model, built)
    leaves = [name for name, module in made.named_modules() if not module._modules]
    assert leaves == (names or [""])
    assert type(made) is nn.Identity if case == "identity" else True
    for name in replacement.kept:
        assert made.get_submodule(name) is model["block"].get_submodule(name)


def test_the_function_has_its_parameters() -> None:
    made = CASES["a function"][0].build(nn.ModuleDict({"block": Block()}), built)
    assert isinstance(made.act, nn.LeakyReLU) and made.act.negative_slope == 0.5


def test_another_model_and_another_file_are_refused() -> None:
    with pytest.raises(WrongModel, match="layers merged that this one does not have"):
        Replacement("block", kept=("bn",)).build(nn.ModuleDict({"block": Block()}), built)
    for data in ({}, {**Replacement("x").to_data(), "path": ""}, {**Replacement("x").to_data(), "kept": [1]}):
        with pytest.raises(BadFile, match="a merge that cannot be made"):
            Replacement.from_data(data)
