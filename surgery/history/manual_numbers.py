"""By hand: whole numbers that somebody sets on layers after a step, such as the heads left to a pruned attention."""

from __future__ import annotations

from typing import Any

from torch import nn

from surgery.dataflow.operations import activation_of_module
from surgery.errors import BadFile, WrongModel
from surgery.history.history import Step, steps_of

SET_BY_HAND = "set_by_hand"  # the key in the data of a step

Numbers = dict[str, dict[str, int]]


def numbers_of(model: nn.Module) -> Numbers:
    """The whole numbers that the layers of a model keep as public attributes, by path and name."""
    found = {
        path: {name: value for name, value in vars(module).items() if type(value) is int and not name.startswith("_")}
        for path, module in model.named_modules() if activation_of_module(module) is None
    }  # fmt: skip
    return {path: numbers for path, numbers in found.items() if numbers}


def set_since(model: nn.Module, step: Step) -> Numbers:
    """The numbers that others have set since a step, as they are now."""
    ours = {(id(change.module), change.name) for one in steps_of(model) for change in one.changes}
    modules, before = dict(model.named_modules()), step.numbers
    found = {
        path: {name: value for name, value in numbers.items() if before.get(path, {}).get(name, value) != value
               and (id(modules[path]), name) not in ours}
        for path, numbers in numbers_of(model).items()
    }  # fmt: skip
    return {path: numbers for path, numbers in found.items() if numbers}


def check_numbers(model: nn.Module, numbers: Any) -> Numbers:
    """Numbers read from a file, if the layers of the model have such attributes.

    Raises:
        BadFile: they are no numbers, or larger than any size in the model can be.
        WrongModel: the model has no such layer, or it keeps no number of this name.
    """
    tables = numbers.values() if isinstance(numbers, dict) else [None]
    if not all(isinstance(one, dict) and all(type(value) is int for value in one.values()) for one in tables):
        raise BadFile("The file sets what is no whole number on a layer.", there=repr(numbers)[:200])
    most = max(1, sum(one.numel() for one in model.parameters() if not nn.parameter.is_lazy(one)))
    if too_large := [value for one in numbers.values() for value in one.values() if abs(value) > most]:
        raise BadFile("The file sets a number on a layer that no size in this model can have.",
                      asked=str(too_large[0])[:40], there=f"{most} parameters")  # fmt: skip
    there = numbers_of(model)
    lacking = [f"{path}.{name}" for path, one in numbers.items() for name in one if name not in there.get(path, {})]
    if lacking:
        raise WrongModel("The saved model had numbers set by hand that this one does not have.",
                         asked=", ".join(lacking[:3]))  # fmt: skip
    checked: Numbers = numbers
    return checked
