"""Weights that are frozen while only the activations learn."""

from __future__ import annotations

import torch
from torch import nn

import surgery
from surgery.history.history import histories_of
from surgery.schedule.frozen_weights import rest_weights


def test_weights_rest_and_wake_as_they_were() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.PReLU(), nn.Linear(2, 2))
    model[2].weight.requires_grad_(False)  # frozen by the user
    before = {name: param.requires_grad for name, param in model.named_parameters()}
    rest_weights(model, True)
    assert [name for name, param in model.named_parameters() if param.requires_grad] == ["1.weight"]
    rest_weights(model, True)  # again changes nothing
    rest_weights(model, False)
    assert {name: param.requires_grad for name, param in model.named_parameters()} == before
    assert histories_of(model) == []


def test_an_edited_model_records_what_rests() -> None:
    edited, _ = surgery.transform(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), surgery.swap("prelu"), torch.zeros(2, 2))
    rest_weights(edited, True)
    assert [history.resting for history in histories_of(edited)] == [["0.weight", "0.bias"]]
    rest_weights(edited, False)
    assert [history.resting for history in histories_of(edited)] == [[]]
