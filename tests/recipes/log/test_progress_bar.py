"""The progress bar of a training, and the lines where there is no terminal."""

from __future__ import annotations

import io
import sys
import time

import pytest

from recipes.log.journal import Journal
from tests.recipes.log.journals import Terminal, clock, trained


def test_on_a_terminal_a_bar_shows_speed_loss_accuracy_and_remaining_time(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, said = Terminal(), []
    monkeypatch.setattr(sys, "stderr", shown)
    journal = Journal(None, say=said.append)
    journal.begin("fit", 2, 5)
    for epoch in range(2):
        for step in range(5):
            time.sleep(0.001)
            journal.step(0.125 if step == 4 else None, 8)
        journal.epoch({"loss": 0.125, "top1": 0.75 + epoch / 8})
    journal.close()
    last = shown.getvalue().rstrip().rsplit("\r", 1)[-1]
    assert "fit 2/2" in last and "100%" in last and "10/10" in last
    assert "images/s" in last and "loss 0.125" in last and "top-1 87.5%" in last
    assert "<" in last.split("[")[1]  # elapsed<remaining
    assert said == []


def test_the_bar_of_a_run_that_goes_on_stands_where_it_stood(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    journal = Journal(None)
    journal.begin("fit", 4, 10, epoch=2, step=5)
    assert "fit 3/4" in shown.getvalue() and "25/40" in shown.getvalue()
    journal.close()
    journal.close()


def test_without_a_terminal_there_is_a_line_for_each_epoch_and_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, said = io.StringIO(), []
    monkeypatch.setattr(sys, "stderr", shown)
    move = clock(monkeypatch)
    journal = Journal(None, say=said.append)
    journal.begin("fit", 2, 1)
    move(0.5)
    journal.step(0.25, 100)
    journal.epoch({"loss": 0.25, "top1": 0.5, "lr": 0.1})
    journal.epoch({"living": 0.8})
    journal.epoch({})
    journal.close()
    assert said == [
        "fit, epoch 1 of 2: loss 0.250, top-1 50.0%, 200 images/s",
        "fit, epoch 2 of 2: density 80.0%",
        "fit, epoch 3 of 2: done",
    ]
    assert shown.getvalue() == ""


@pytest.mark.parametrize("terminal", [True, False])
def test_quiet_can_be_asked_for_or_refused(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    shown = {quiet: Terminal() if terminal else io.StringIO() for quiet in (True, False)}
    for quiet, stream in shown.items():
        monkeypatch.setattr(sys, "stderr", stream)
        journal = Journal(None, quiet=quiet)
        trained(journal, "fit", 1)
        journal.close()
    assert shown[True].getvalue() == "" and "fit 1/1" in shown[False].getvalue()


def test_a_training_without_steps_has_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    journal = Journal(None)
    journal.begin("fit", 0, 5)
    journal.close()
    assert shown.getvalue() == ""
