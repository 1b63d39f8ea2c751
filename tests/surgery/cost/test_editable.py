"""Editable: every nonlinearity that can be edited, runs of the same code together."""

from __future__ import annotations

import surgery
from surgery.cost.editable import editable, groups_of
from tests.models.loops import HeadOnLevels
from tests.surgery.budget.networks import images, small_net


def test_calls_of_a_shared_module_are_edited_one_by_one() -> None:
    model = small_net()
    plan, decisions = editable(model, surgery.find_sites(model, images(2)))
    assert [len(group) for group in groups_of(model, plan, decisions)] == [1] * 5


def test_runs_of_the_same_code_are_edited_as_one() -> None:
    model = HeadOnLevels()
    sites = surgery.find_sites(model, HeadOnLevels.example)
    plan, decisions = editable(model, sites)
    groups = groups_of(model, plan, decisions)
    assert [len(group) for group in groups] == [len(sites)] and {site.run for site in groups[0]} == {1, 2, 3}
