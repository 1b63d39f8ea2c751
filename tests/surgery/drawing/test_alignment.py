"""Alignment: calls that correspond, also if others were erased, swapped, added, or merged away."""

from __future__ import annotations

import pytest
from torch import nn

import surgery
from surgery.drawing.alignment import aligned
from tests.models import ResidualNet, ThriceInPlace, TwiceUsed
from tests.models.stated import Stated, picture


@pytest.mark.parametrize(
    ("model", "rule", "gone"),
    [
        (ResidualNet, surgery.erase(position=1), {1, 3}),
        (ResidualNet, surgery.erase(position=2), {2, 4}),
        (ResidualNet, surgery.erase(block="layer1.0"), {1, 2}),
        (ResidualNet, surgery.swap("gelu"), set()),
        (ResidualNet, surgery.drop(block="layer1.0"), {1, 2}),
        (TwiceUsed, surgery.erase(site="act 1/2"), {0}),
        (TwiceUsed, surgery.erase(site="act 2/2"), {1}),
        (ThriceInPlace, surgery.erase(site="act 2/3"), {1}),
    ],
)
def test_what_is_left_corresponds_to_what_it_was(model: type[Stated], rule: surgery.Rule, gone: set[int]) -> None:
    edited, report = surgery.transform(model(), rule, model.example)
    pairs = aligned(report.before, surgery.find_sites(edited, model.example))
    assert [pair[0] for pair in pairs] == list(report.before)
    assert {number for number, pair in enumerate(pairs) if pair[1] is None} == gone


@pytest.mark.parametrize("stand_in", ["identity", "affine"])
def test_a_merged_block_keeps_the_call_behind_its_sum(stand_in: str) -> None:
    rules = [surgery.erase(block="layer1.0", position=1, stand_in=stand_in), surgery.move_padding(block="layer1.0")]
    edited, report = surgery.transform(ResidualNet().eval(), rules, ResidualNet.example)
    merged, _ = surgery.merge(edited, example=ResidualNet.example)
    pairs = aligned(report.before, surgery.find_sites(merged, ResidualNet.example), ["layer1.0"])
    assert [str(old) for old, new in pairs if new is None] == ["layer1.0.relu 1/2"]


def test_what_was_not_there_is_behind_what_is_called_before_it() -> None:
    short, long = nn.Sequential(nn.ReLU(), nn.Conv2d(3, 3, 1)), nn.Sequential(nn.ReLU(), nn.Conv2d(3, 3, 1), nn.GELU())
    pairs = aligned(surgery.find_sites(short, picture()), surgery.find_sites(long, picture()))
    assert [(old is None, str(new)) for old, new in pairs] == [(False, "0"), (True, "2")]
