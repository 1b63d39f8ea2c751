"""Frozen weights: those that rest while only the activations learn."""

from __future__ import annotations

from torch import nn

from surgery.edit.write import keep_history
from surgery.history.history import History
from surgery.model import HISTORY
from surgery.schedule.param_groups import is_activation


def rest_weights(model: nn.Module, rest: bool) -> None:
    """Freeze every trainable weight outside the activations, or unfreeze the weights that were frozen this way.

    Which ones are frozen is recorded in the edited models, and for weights outside these in the model itself.
    """
    homes = [module for module in model.modules() if module.__dict__.get(HISTORY) is not None]
    for home in [*homes, *([model] if rest and model not in homes else [])]:
        history: History = home.__dict__.get(HISTORY) or History()
        named = dict(home.named_parameters())
        if rest:
            slopes = {id(p) for module in home.modules() if is_activation(module) for p in module.parameters()}
            asleep = [name for name, p in named.items() if p.requires_grad and id(p) not in slopes]
            history.resting += asleep
        else:
            asleep, history.resting = history.resting, []
        for name in asleep:
            if name in named:
                named[name].requires_grad_(not rest)
                named[name].grad = None if rest else named[name].grad
        if history.resting or history.steps:
            keep_history(home, history)
        elif not rest:
            keep_history(home, None)
