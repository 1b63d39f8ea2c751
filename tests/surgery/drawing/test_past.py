"""Past: an edited model as it was, and what its history says."""

from __future__ import annotations

from torch import nn

import surgery
from surgery.drawing.past import as_it_was, notes_of, rules_of
from tests.models import ResidualNet

RULES = [
    surgery.erase(block="layer1.1", position=1),
    surgery.move_padding(block="layer1.1"),
    surgery.drop(block="layer1.0"),
]


def test_an_edited_model_as_it_was() -> None:
    model = ResidualNet()
    edited, _ = surgery.transform(model, surgery.erase_relu(), ResidualNet.example)
    past = as_it_was(edited)
    assert past is not None and type(past) is ResidualNet and past.state_dict().keys() == model.state_dict().keys()
    assert len(surgery.find_sites(past, ResidualNet.example)) == 5 and len(surgery.history_of(edited)) == 1


def test_there_is_none_without_an_edit_or_if_it_cannot_be_undone() -> None:
    assert as_it_was(ResidualNet()) is None
    edited, _ = surgery.transform(ResidualNet(), surgery.swap("prelu", site="relu"), ResidualNet.example)
    edited.relu = nn.GELU()
    assert as_it_was(edited) is None


def test_blocks_are_known_by_what_was_made_of_them() -> None:
    edited, _ = surgery.transform(ResidualNet().eval(), RULES, ResidualNet.example)
    steps = surgery.history_of(edited)
    assert notes_of(steps) == {"layer1.1": "padding moved", "layer1.0": "dropped"}
    assert rules_of(steps) == tuple(map(str, RULES))
    merged, _ = surgery.merge(edited, example=ResidualNet.example)
    assert notes_of(surgery.history_of(merged))["layer1.1"] == "merged into one layer"
