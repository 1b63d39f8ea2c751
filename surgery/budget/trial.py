"""Trial: a copy of a network with a switch at every call, in which any set of actions is tried in no time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from surgery.activations import Affine
from surgery.cost.action import Action
from surgery.cost.editable import editable, groups_of
from surgery.edit.change import Change
from surgery.edit.replacement import new_activation, same_activation
from surgery.edit.strategy import children_of
from surgery.edit.write import carry_out, replace_children, set_paddings, take_back
from surgery.isolation.meta_copy import copied
from surgery.look.site import Sites
from surgery.merging.padding import Paddings
from surgery.model import in_eval
from surgery.plan.plan import Edit
from surgery.repair.affine_fit import LineFit
from surgery.repair.batches import run_through


class Switch(nn.Module):
    """One of several functions, by the name of what was chosen; "keep" is the original one."""

    def __init__(self, functions: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.functions = nn.ModuleDict(functions)
        self.chosen = "keep"

    @property
    def line(self) -> Affine:
        """The affine map among its functions."""
        found = self.functions["affine"]
        assert isinstance(found, Affine)
        return found

    def forward(self, input: Tensor) -> Tensor:
        """What the chosen function returns."""
        value: Tensor = self.functions[self.chosen](input)
        return value


class Dropped(nn.Module):
    """What is left of a residual block: its input."""

    def forward(self, input: Any, *_: Any, **__: Any) -> Any:
        """Return the first argument."""
        return input


class Trial:
    """A private copy of a network, in eval mode, that can be set to any actions, and back.

    `groups` are the calls that are edited as one: the runs of the same code, and calls of modules with shared code.
    `paddings` are those of the convolutions in blocks that are merged.
    """

    def __init__(
        self, model: nn.Module, sites: Sites, swap_to: str, paddings: Mapping[str, Paddings] = MappingProxyType({})
    ) -> None:
        self.network = copied(model).eval().requires_grad_(False)
        plan, decisions = editable(self.network, sites)
        self.left_out = tuple((site, reason) for site, reason in plan.kept if reason.startswith("cannot be edited"))
        carry_out(self.network, decisions, _switches(swap_to, sites))
        paths = children_of(decisions, plan.edits)
        self._paths = {str(edit.site): paths[edit.site.key] for edit in plan.edits}
        self.groups = groups_of(self.network, plan, decisions)
        self._switches = {name: self._switch(name) for name in self._paths}
        self._away: dict[str, nn.Module] = {}  # blocks that are replaced at present
        self._paddings, self._moved = paddings, list[Change]()

    def set_to(self, actions: Iterable[Action]) -> None:
        """Carry out these actions, and no others."""
        replace_children(self.network, self._away)
        take_back(self._moved)
        self._away, self._moved = {}, []
        for switch in self._switches.values():
            switch.chosen = "keep"
        for action in actions:
            if action.what == "drop":
                self._away[action.place] = self.network.get_submodule(action.place)
            else:
                for name in action.sites:
                    self._switches[name].chosen = "affine" if action.what == "merge" else action.what
            if action.what == "merge":
                self._moved += set_paddings(self.network, self._paddings[action.place])
        replace_children(self.network, {path: Dropped() for path in self._away})

    def fit(self, batches: Iterable[Any]) -> None:
        """Fit all affine maps by least squares to what enters them in the unedited network.

        Raises:
            BadValue: a batch fails in the network, or an input is not finite.
        """
        self.set_to(())
        fits = {name: LineFit(switch.line) for name, switch in self._switches.items()}
        handles = [
            self._switches[name].register_forward_pre_hook(lambda _, args, fit=fit: fit.add(args[0]))
            for name, fit in fits.items()
        ]
        try:
            with in_eval(self.network):
                for _ in run_through(self.network, batches):
                    pass
        finally:
            for handle in handles:
                handle.remove()
        for name, fit in fits.items():
            if fit.count:
                fit.solve(name)

    def path_of(self, action: Action) -> str:
        """The path of the first module that an action concerns."""
        return action.place if action.what in ("drop", "merge") else self._paths[action.sites[0]]

    def _switch(self, name: str) -> Switch:
        found = self.network.get_submodule(self._paths[name])
        assert isinstance(found, Switch)
        return found


def _switches(swap_to: str, sites: Sites) -> Callable[[nn.Module, Edit], nn.Module]:
    """How a switch is made for a call: its functions are those that a plan would put there."""

    def new(model: nn.Module, edit: Edit) -> nn.Module:
        makes = {"erase": "identity", "affine": "affine", "swap": swap_to}
        functions = {
            what: new_activation(model, replace(edit, make=make), {}, {}, sites) for what, make in makes.items()
        }
        return Switch({"keep": same_activation(model, edit), **functions}).eval()

    return new
