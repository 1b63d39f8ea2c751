"""Search: the points that are measured, and those that are of no interest."""

from __future__ import annotations

import surgery
from surgery.budget.journal import Journal
from surgery.budget.measurement import Measurements
from surgery.budget.pareto import State
from surgery.budget.savings import of_sites
from surgery.budget.search import candidates_of, reported, searched, spaced
from surgery.budget.trial import Trial
from surgery.cost.action import actions_at
from surgery.predictions.damage import reference_of
from tests.surgery.budget.actions import erase
from tests.surgery.budget.networks import as_batches, images, small_net


def test_states_are_spread_over_what_they_save() -> None:
    states = [State((erase(str(k)),) if k else (), float(k), float(k)) for k in range(11)]
    assert [state.saved for state in spaced(states, 5)] == [2, 4, 6, 8, 10]
    assert spaced(states, 99) == states[1:]


def test_points_carry_what_was_predicted_and_what_was_measured() -> None:
    model = small_net()
    sites = surgery.find_sites(model, images(2))
    trial = Trial(model, sites, "relu")
    savings = of_sites(sites, actions_at(trial.groups, sites, ("drop",), "relu"))
    measured = Measurements(trial, reference_of(model, as_batches()), as_batches(), Journal(None, {}), "damage")
    lines: list[str] = []
    candidates = candidates_of(measured, savings, lines.append)
    assert [(str(one.action), one.saved) for one in candidates] == [("drop blocks.0", 2.0), ("drop blocks.1", 2.0)]
    points = searched(measured, savings, candidates, 100.0, 4, None)
    both = points[0]
    assert both.by == "both" and (both.predicted_cost, len(both.actions)) == (1.0, 2)
    assert both.predicted_damage == sum(one.damage.kl for one in candidates)
    assert both.damage == measured.damage(both.actions) and points[-1].actions == ()
    others = reference_of(model, as_batches(9))
    elsewhere = reported(Measurements(trial, others, as_batches(9), Journal(None, {}), "other"), points, None)
    assert elsewhere[0].reported is not None and elsewhere[0].reported.kl != both.damage.kl
    assert lines[-1].startswith("measured alone 2/2")
