"""Recipe: rules for a model, and settings for pruning and fine-tuning. Data only.

`parse` has the keys of a file, `write` puts them back into one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import surgery
from recipes.format.settings import Choice as Choice
from recipes.format.settings import Finetune as Finetune
from recipes.format.settings import Pruning as Pruning


@dataclass(frozen=True, slots=True)
class Recipe(surgery.Recipe):
    """A surgery recipe with what may follow: pruning and fine-tuning.

    `expects` says, per rule and by the full name of a model, how many sites the rule picks there. With
    `skip_uneditable`, calls that cannot be edited are left alone and reported, as in `surgery.transform`. `choice` says
    how the rules were chosen, if `surgery.choose` did.
    """

    expects: tuple[Mapping[str, int], ...] = ()
    pruning: Pruning | None = None
    finetune: Finetune | None = None
    skip_uneditable: bool = False
    choice: Choice | None = None

    @property
    def left_out(self) -> tuple[str, ...]:
        """The parts that surgery alone leaves out."""
        parts = (("pruning", self.pruning), ("fine-tuning", self.finetune))
        return tuple(name for name, part in parts if part is not None)

    def rules_for(self, model: str) -> tuple[surgery.Rule, ...]:
        """The rules, each with the number of sites it must pick on the model of this full name, if known."""
        expects = self.expects or ({},) * len(self.rules)
        return tuple(
            replace(rule, expect=expected.get(model, rule.expect))
            for rule, expected in zip(self.rules, expects, strict=True)
        )
