"""The history of a model and its text."""

from __future__ import annotations

from pathlib import Path

import torch

import surgery
from surgery.history.history import histories_of
from tests import models


def test_the_steps_that_are_handed_out_are_copies(tmp_path: Path) -> None:
    net = models.ResidualNet().eval()
    edited, _ = surgery.transform(net, surgery.swap("silu"), net.example)
    (step,) = surgery.history_of(edited)
    assert step.kind == "surgery" and step.data["edits"]
    step.data["edits"].clear()
    step.changes.clear()
    assert surgery.history_of(edited)[0].data["edits"]
    surgery.save(edited, tmp_path)
    loaded = surgery.load(tmp_path, models.ResidualNet()).eval()
    assert torch.equal(loaded(net.example), edited(net.example))
    assert torch.equal(surgery.undo(edited)(net.example), net(net.example))


def test_a_step_says_what_was_done() -> None:
    net = models.ResidualNet().eval()
    assert surgery.history_of(net) == ()
    edited, _ = surgery.transform(net, surgery.swap("silu", block="layer1.1", fade=True), net.example)
    text = "Step('surgery', 2 edits, swap('silu', block='layer1.1', role='nonlinearity', fade=True))"
    assert repr(surgery.history_of(edited)) == f"({text},)"
    surgery.set_progress(edited, 0.5, step=7)
    assert repr(histories_of(edited)) == f"[History([{text}], progress=(0.5, 7))]"
