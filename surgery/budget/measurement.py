"""Measurement: what sets of actions do to the predictions of a network on batches, each measured once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from torch import Tensor

from surgery.budget.journal import Journal
from surgery.budget.prefix import Prefix
from surgery.budget.trial import Trial
from surgery.cost.action import Action
from surgery.errors import NotProved
from surgery.predictions.damage import NO_DAMAGE, Damage, Reference
from surgery.repair.batches import Batch

_FEW = 32  # images that are needed to know that a damage is too large,
_CLEARLY = 4.0  # and by how many standard errors it must be
_ROUNDING = 1e-3  # of the largest score: how far the copy with switches may be from the network


class Measurements:
    """Measures damages on batches, and keeps them in a journal under a topic.

    With `enter_at`, paths of blocks, what is in front of a block is computed once for all actions behind it. Where the
    first images show clearly that a damage exceeds `worst`, it is that on these images.
    """

    def __init__(
        self, trial: Trial, reference: Reference, batches: Sequence[Batch], journal: Journal, topic: str,
        enter_at: Iterable[str] = (), worst: float = math.inf,
    ) -> None:  # fmt: skip
        self.trial, self.reference, self.journal, self.topic = trial, reference, journal, topic
        self.batches, self.worst = batches, worst
        trial.set_to(())
        self.prefix = Prefix(trial.network, [batch.images for batch in batches], enter_at)
        self._check_copy(reference)

    def on_first(self, images: int) -> Measurements:
        """The same on the first images alone, kept under a topic of their own."""
        batches = first_images(self.batches, images)
        reference = self.reference.first(images_in(batches))
        topic = f"{self.topic} on the first {len(reference)} images"
        cuts, worst = self.prefix.cuts, self.worst
        return Measurements(self.trial, reference, batches, self.journal, topic, enter_at=cuts, worst=worst)

    def known(self, actions: Iterable[Action]) -> Damage | None:
        """The damage of these actions together if it was measured before."""
        listed = list(actions)
        if not listed:
            return NO_DAMAGE
        data = self.journal.get(self.topic, name_of(listed))
        found = None if data is None else Damage.from_data(data)
        return found if found is None or found.images == len(self.reference) or self._exceeds(found) else None

    def damage(self, actions: Iterable[Action]) -> Damage:
        """The damage of these actions together."""
        listed = list(actions)
        return self.known(listed) or self._measured(listed)

    def close(self) -> None:
        """Forget what entered the blocks."""
        self.trial.set_to(())
        self.prefix.close()

    def _measured(self, actions: Sequence[Action]) -> Damage:
        self.trial.set_to(())
        starts = self.prefix.calls.starts
        paths = sorted(map(self.trial.path_of, actions), key=lambda path: starts.get(path, -1))
        self.prefix.move_to(self.prefix.cut_for(paths[0]))
        self.trial.set_to(actions)
        outputs: list[Tensor] = []
        seen, due = 0, _FEW
        for output in self.prefix.outputs():
            outputs.append(output)
            seen += len(output)
            if seen >= due:
                if self._exceeds(self.reference.first(seen).damage(outputs)):
                    break
                due = 2 * seen  # each look goes over all outputs so far
        found = self.reference.first(seen).damage(outputs)
        self.trial.set_to(())
        self.journal.put(self.topic, name_of(actions), found.to_data())
        return found

    def _exceeds(self, damage: Damage) -> bool:
        """Whether a damage is clearly larger than the worst that is of interest."""
        return damage.images >= _FEW and damage.kl - _CLEARLY * damage.error > self.worst

    def _check_copy(self, reference: Reference) -> None:
        """Check that the copy in which actions are tried computes what the network computes."""
        first = next(self.prefix.outputs()).double().cpu()
        expected, found = reference.logs[: len(first)].softmax(1), first.softmax(1)
        if not bool((expected - found).abs().max() <= _ROUNDING):
            raise NotProved("A copy of this network with a switch at every call predicts something else.",
                            try_="surgery.transform, which proves every single edit")  # fmt: skip


def name_of(actions: Iterable[Action]) -> str:
    """The name of a set of actions in a journal."""
    return " + ".join(sorted(map(str, actions)))


def first_images(batches: Sequence[Batch], count: int) -> list[Batch]:
    """The batches with the first `count` images, the last of them shorter if need be."""
    found: list[Batch] = []
    for batch in batches:
        left = count - images_in(found)
        if left > 0:
            labels = None if batch.labels is None else batch.labels[:left]
            found.append(Batch(batch.images[:left], labels))
    return found


def images_in(batches: Sequence[Batch]) -> int:
    """The number of images."""
    return sum(len(batch.images) for batch in batches)
