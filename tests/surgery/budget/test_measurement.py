"""Measurement: damages of sets of actions are those of edited networks, measured once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import surgery
from surgery.budget import measurement
from surgery.budget.journal import Journal
from surgery.budget.measurement import Measurements, first_images, images_in, name_of
from surgery.budget.trial import Trial
from surgery.cost.action import Action, actions_at, rules_of
from surgery.errors import NotProved
from surgery.predictions.damage import NO_DAMAGE, Reference, outputs_of, reference_of
from tests.surgery.budget.networks import as_batches, images, small_net

MENU = ("keep", "erase", "affine", "drop")


def measurements(model: nn.Module, path: Path | None = None) -> tuple[Measurements, dict[str, Action]]:
    sites = surgery.find_sites(model, images(2))
    trial = Trial(model, sites, "relu")
    actions = {str(action): action for action in actions_at(trial.groups, sites, MENU, "relu")}
    reference = reference_of(model, as_batches())
    blocks = [str(block) for block in sites.blocks]
    return Measurements(trial, reference, as_batches(), Journal(path, {}), "damage", enter_at=blocks), actions


def by_hand(model: nn.Module, actions: list[Action]) -> float:
    """KL(before || after) over all images, from the edited network."""
    edited, _ = surgery.transform(model, rules_of(actions), images(2))
    whole = torch.cat([batch.images for batch in as_batches()])
    with torch.no_grad():
        before, after = (network(whole).double().log_softmax(1) for network in (model, edited))
    return (before.exp() * (before - after)).sum(1).mean().item()


def test_damages_are_those_of_the_edited_network() -> None:
    model = small_net()
    found, actions = measurements(model)
    for action in actions.values():
        assert found.damage([action]).kl == pytest.approx(by_hand(model, [action]), rel=1e-4, abs=1e-9), str(action)
    together = [actions["erase blocks.1.relu 1/2"], actions["drop blocks.0"]]
    assert found.damage(together).kl == pytest.approx(by_hand(model, together), rel=1e-4)
    assert found.damage(together).images == images_in(as_batches()) == 18


def test_each_set_is_measured_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first, actions = measurements(small_net(), tmp_path / "journal.json")
    pair = [actions["erase relu"], actions["drop blocks.0"]]
    damage = first.damage(pair)
    again, _ = measurements(small_net(), tmp_path / "journal.json")
    monkeypatch.setattr(again, "_measured", None)
    assert again.damage(pair[::-1]) == damage and again.known(pair[:1]) is None
    assert again.damage([]) == NO_DAMAGE


def test_what_is_clearly_too_much_is_not_measured_on_all_images(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(measurement, "_FEW", 6)
    found, actions = measurements(small_net(), tmp_path / "journal.json")
    action = [max(actions.values(), key=lambda action: found.damage([action]).kl)]
    whole, found.worst = found.damage(action), 1e-6
    found.journal.found.clear()
    assert found.damage(action).images < whole.images and found.known(action) == found.damage(action)
    found.worst = 1e6  # it is of interest now
    assert found.known(action) is None and found.damage(action) == whole


def test_the_first_images_alone_are_measured_apart(tmp_path: Path) -> None:
    whole, actions = measurements(small_net(), tmp_path / "journal.json")
    action = [actions["drop blocks.0"]]
    few = whole.on_first(8)
    found = few.damage(action)
    few.close()
    assert found.images == 8 and whole.known(action) is None and whole.damage(action).images == 18
    assert [len(batch.images) for batch in first_images(as_batches(), 8)] == [6, 2]
    assert len(first_images(as_batches(), 99)) == 3


def test_the_name_of_a_set_does_not_depend_on_its_order() -> None:
    _, actions = measurements(small_net())
    pair = [actions["erase relu"], actions["drop blocks.0"]]
    assert name_of(pair) == name_of(pair[::-1]) == "drop blocks.0 + erase relu"


def test_a_copy_that_predicts_something_else_is_refused() -> None:
    model = small_net()
    sites = surgery.find_sites(model, images(2))
    other = Reference.of(outputs_of(small_net(1), as_batches()), [None] * 3)
    with pytest.raises(NotProved, match="predicts something else"):
        Measurements(Trial(model, sites, "relu"), other, as_batches(), Journal(None, {}), "damage")
