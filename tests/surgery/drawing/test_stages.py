"""Stages: which blocks stand in one column, and where calls outside of blocks go."""

from __future__ import annotations

import pytest
from torch import Tensor, nn

import surgery
from surgery.drawing.cells import cells_of_sites
from surgery.drawing.stages import Stage, stage_path, stages_of
from tests.models import PlainNet, ResidualNet, ThriceInPlace, TinyVit
from tests.models.stated import Stated, picture


@pytest.mark.parametrize(
    ("block", "stage"),
    [
        ("layer1.0", "layer1"), ("blocks.11.mlp", "blocks"), ("features#2", "features"), ("Mixed_5b", ""),
        ("features.denseblock1.denselayer4", "features.denseblock1"), ("layers.0.blocks.3.mlp", "layers.0.blocks"),
        ("encoder.layers.encoder_layer_7.mlp", "encoder.layers"), ("trunk.block1.block1-0", "trunk.block1"),
    ],
)  # fmt: skip
def test_a_stage_is_what_the_paths_of_its_blocks_share(block: str, stage: str) -> None:
    assert stage_path(block) == stage


def drawn(model: type[Stated]) -> tuple[Stage, ...]:
    sites = surgery.find_sites(model(), model.example)
    return stages_of(cells_of_sites(sites), map(str, sites.blocks), {})


def rows(model: type[Stated]) -> list[tuple[str, str, list[tuple[str, int]]]]:
    return [(one.name, one.size, [(row.path, len(row.cells)) for row in one.rows]) for one in drawn(model)]


def test_stem_and_blocks() -> None:
    stem, layer1 = rows(ResidualNet)
    assert stem == ("stem", "", [("", 1)])
    assert layer1 == ("layer1", "4 \N{MULTIPLICATION SIGN} 4", [("layer1.0", 2), ("layer1.1", 2)])


def test_tokens_are_a_size() -> None:
    (blocks,) = rows(TinyVit)
    assert blocks[1].endswith("tokens") and [path for path, _ in blocks[2]] == ["blocks.0.mlp", "blocks.1.mlp"]


def test_calls_behind_all_blocks_are_the_head() -> None:
    assert [(name, paths) for name, _, paths in rows(PlainNet)] == [
        ("features", [("features#1", 2)]),
        ("features", [("features#2", 3)]),
        ("head", [("classifier", 1)]),
    ]


def test_a_network_without_blocks_is_one_stage() -> None:
    assert rows(ThriceInPlace) == [("", "", [("", 3)])]


class Step(nn.Module):
    """A convolution and a ReLU, with a shortcut where the width stays."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.conv, self.act, self.adds = nn.Conv2d(width_in, width, 1), nn.ReLU(), width_in == width

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.conv(x))
        return x + y if self.adds else y


def test_a_module_like_a_block_that_joins_nothing_is_a_row_of_its_own() -> None:
    sites = surgery.find_sites(nn.Sequential(Step(3, 4), Step(4, 4), Step(4, 6)), picture())
    assert [site.block for site in sites] == [None, "1", None]
    (stage,) = stages_of(cells_of_sites(sites), map(str, sites.blocks), {"1": "dropped"})
    assert [(row.path, row.is_block, row.mark) for row in stage.rows] == [
        ("0", True, ""), ("1", True, "dropped"), ("2", True, ""),
    ]  # fmt: skip
