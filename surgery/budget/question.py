"""Question: what a choice is made from: a network, what may be done to it, and the images to measure that on."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from torch import nn

from surgery.budget.front import UNITS, Cost
from surgery.budget.measurement import images_in
from surgery.budget.savings import Savings, of_macs, of_relus, of_sites
from surgery.budget.trial import Trial
from surgery.cost.action import MENU, Action, What, actions_at, checked_function, checked_menu
from surgery.cost.editable import editable_groups
from surgery.cost.paddings import paddings_of
from surgery.errors import NothingPicked, UnknownName, nearest
from surgery.look.finder import find_sites
from surgery.look.site import Sites
from surgery.model import check_plain
from surgery.predictions.damage import Reference, reference_of
from surgery.progress import Say
from surgery.repair.batches import Batch, batches_of, check_repeatable
from surgery.schedule.progress import check_settled
from surgery.text import number_of

BY_HEART_ACCURACY, BY_HEART_LOSS = 0.995, 0.05  # of images that a network has learnt by heart


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """A network with its calls, a copy to try actions in, the actions, and its predictions for the batches."""

    model: nn.Module
    sites: Sites
    trial: Trial
    menu: tuple[What, ...]
    cost: Cost
    swap_to: str
    actions: Sequence[Action]
    batches: Sequence[Batch]
    reference: Reference

    @classmethod
    def of(
        cls, model: nn.Module, batches: Iterable[Any], menu: Iterable[str], cost: str, *, swap_to: str = "relu",
        fit: bool = False, example: Any = None, progress: Say | None = None,
    ) -> Question:  # fmt: skip
        """Find everything that may be done; the arguments are those of `surgery.choose`, and so is what is raised."""
        wanted, kind, swap_to = checked_menu(menu), _checked_cost(cost), checked_function(swap_to)
        check_plain(model)
        check_repeatable(batches)
        chosen_on = list(batches_of(batches, model))
        sites = find_sites(model, chosen_on[0].images[:2] if example is None else example)
        check_settled(sites)
        merges = "merge" in wanted and kind in ("latency", "macs")  # of calls, affine maps save as many
        paddings = paddings_of(model, sites, editable_groups(model, sites)) if merges else {}
        trial = Trial(model, sites, swap_to, paddings)
        actions = actions_at(trial.groups, sites, wanted, swap_to, fitted=fit, mergeable=paddings)
        if progress is not None:
            progress(f"{number_of('action', list(map(str, actions)))}; {images_in(chosen_on)} images")
        if fit:
            trial.fit([batch.images for batch in chosen_on])
        reference = reference_of(model, chosen_on)
        _warn_of_known_images(reference)
        return cls(model, sites, trial, wanted, kind, swap_to, actions, chosen_on, reference)

    def counted(self) -> Savings:
        """What each action saves of a cost that is counted, not timed."""
        if self.cost == "macs":
            return of_macs(self.model, self.sites, self.actions)
        return (of_relus if self.cost == "relu_count" else of_sites)(self.sites, self.actions)

    def check_saves(self, savings: Savings) -> None:
        """Check that some action saves something.

        Raises:
            NothingPicked: none does.
        """
        if not savings.saved:
            raise NothingPicked(
                f"Nothing on this menu saves {UNITS[self.cost]} in {type(self.model).__name__}.",
                asked=f"menu={self.menu}, cost={self.cost!r}", try_=f"other entries: {', '.join(MENU)}",
            )  # fmt: skip


def _checked_cost(cost: str) -> Cost:
    known = get_args(Cost)
    if cost not in known:
        raise UnknownName(f"{cost!r} is not a cost.", there=", ".join(known), try_=nearest(str(cost), known))
    return cost  # type: ignore[return-value]


def _warn_of_known_images(reference: Reference) -> None:
    accuracy, loss = reference.accuracy, reference.loss
    if accuracy is not None and loss is not None and (accuracy >= BY_HEART_ACCURACY or loss < BY_HEART_LOSS):
        warnings.warn(
            f"The network knows these images by heart (accuracy {accuracy:.1%}, loss {loss:.3f}): no edit seems to do"
            " damage on them. Choose on images that it was not trained on.", stacklevel=4,
        )  # fmt: skip
