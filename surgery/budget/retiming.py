"""Retiming: how much faster a whole network is after several actions, measured against the unedited one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from torch import nn

from surgery.budget.journal import Journal
from surgery.budget.measurement import name_of
from surgery.cost.action import Action, rules_of
from surgery.cost.conditions import Conditions
from surgery.cost.deployed import deployed, running
from surgery.cost.stopwatch import Function, speedup
from surgery.look.site import Sites
from surgery.model import home_of
from surgery.transforms import transform

ROUNDS = 25


class Retiming:
    """Times edited networks in deployed form, in turns with the unedited one, each set of actions once."""

    def __init__(self, model: nn.Module, sites: Sites, conditions: Conditions, journal: Journal) -> None:
        self.model, self.sites, self.conditions, self.journal = model, sites, conditions, journal

    def known(self, actions: Sequence[Action]) -> bool:
        """Whether these actions were timed before."""
        return not actions or self.journal.get(self._topic, name_of(actions)) is not None

    def speedup(self, actions: Sequence[Action]) -> float:
        """How many times faster the network is after these actions."""
        if not actions:
            return 1.0
        if not self.known(actions):
            self.journal.put(self._topic, name_of(actions), self._measured(actions))
        return float(self.journal.get(self._topic, name_of(actions)))

    def _measured(self, actions: Sequence[Action]) -> float:
        edited, _ = transform(self.model, rules_of(actions), self.sites.example)
        return speedup(self._before, self._run(edited), ROUNDS, home_of(self.model))

    @cached_property
    def _before(self) -> Function:
        return self._run(self.model)

    def _run(self, model: nn.Module) -> Function:
        sample = self.sites.example.on(home_of(model))
        return running(deployed(model, sample), (sample.args, sample.kwargs), self.conditions)

    @property
    def _topic(self) -> str:
        return f"speedup, {self.conditions.decisive}"
