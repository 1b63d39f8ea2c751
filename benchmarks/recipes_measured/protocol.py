"""The protocol: how long networks are trained first, and how a recipe is shortened."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.studies.jobs import by_name
from recipes.format.recipe import Recipe
from recipes.format.settings import Finetune


@dataclass(frozen=True)
class Protocol:
    """How much is trained and tested; one seed decides on everything random.

    Networks without published weights are trained for `first_epochs` on `first_images` from random weights. Then a
    recipe trains for `epochs` on `images`; with pruning, for one epoch before the first cut, after each cut and at the
    end, and `rounds` cuts at most. All accuracies are those on the same `test_images`, and each epoch is watched on
    `watched_images`.
    """

    name: str
    images: int
    epochs: int
    rounds: int
    first_images: int
    first_epochs: int
    test_images: int
    watched_images: int
    batch_size: int = 32
    seeds: int = 1

    def first(self, training: Finetune, passes: int = 1) -> Finetune:
        """How a network is trained from random weights; `passes` multiplies the epochs."""
        return self._short(training, passes * self.first_epochs)

    def shortened(self, recipe: Recipe) -> Recipe:
        """A recipe with the trainings and rounds of the protocol, and everything else as it is."""
        finetune = recipe.finetune or Finetune()
        if finetune.opt == "sgd":  # the usual rule: its rate is proportional to the batch
            finetune = replace(finetune, lr=finetune.lr * self.batch_size / finetune.batch_size)
        if recipe.pruning is None:
            return replace(recipe, finetune=self._short(finetune, self.epochs))
        rounds = min(recipe.pruning.rounds, self.rounds)
        return replace(
            recipe, finetune=self._short(finetune, 1), pruning=replace(recipe.pruning, rounds=rounds, epochs=1)
        )

    def in_words(self) -> str:
        """What was done, for a page."""
        return (
            f"{_times(self.epochs)} over {self.images:,} training images of CIFAR-10 in batches of"
            f" {self.batch_size}, the learning rate without a rise and for SGD in proportion to the batch, all else as"
            f" the recipe says; with pruning once in each of its trainings, and at most {self.rounds} rounds. Networks"
            f" without published weights were trained first, {_times(self.first_epochs)} over"
            f" {self.first_images:,} images, the transformers and ConvNeXt twice as long"
        )

    def _short(self, training: Finetune, epochs: int) -> Finetune:
        return replace(training, epochs=epochs, warmup_epochs=0, batch_size=self.batch_size)


def _times(epochs: int) -> str:
    return {1: "once", 2: "twice"}.get(epochs, f"{epochs} times")


def untouched(recipe: Recipe) -> Recipe:
    """The control of a recipe: its trainings from the same weights, without surgery and cuts.

    A pruned network is rewound: what it learned before its last cut is gone, and two trainings remain.
    """
    assert recipe.finetune is not None
    pruning = None if recipe.pruning is None else replace(recipe.pruning, rounds=0, ap_share=0.0)
    plain = replace(recipe.finetune, fit_affine=0, recalibrate=0)
    return Recipe(name="control", rules=(), finetune=plain, pruning=pruning)


PROTOCOLS = by_name(
    Protocol(
        "smoke", images=128, epochs=1, rounds=1, first_images=128, first_epochs=1, test_images=100, watched_images=100
    ),
    Protocol(
        "reduced", images=2048, epochs=1, rounds=2, first_images=8192, first_epochs=2, test_images=2000,
        watched_images=250,
    ),
    Protocol(
        "full", images=50_000, epochs=10, rounds=10, first_images=50_000, first_epochs=100, test_images=10_000,
        watched_images=10_000,
    ),
)  # fmt: skip
