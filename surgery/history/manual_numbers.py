"""Manual numbers: integers set on layers after a step, such as the number of heads of a pruned attention."""

from __future__ import annotations

from typing import Any

from torch import nn

from surgery.dataflow.operations import activation_of_module
from surgery.errors import BadFile, WrongModel
from surgery.history.history import Step, steps_of

SET_BY_HAND = "set_by_hand"  # the key in the data of a step

Numbers = dict[str, dict[str, int]]


def numbers_of(model: nn.Module) -> Numbers:
    """The integer public attributes of the layers of a model, by path and name."""
    found = {
        path: {name: value for name, value in vars(module).items() if type(value) is int and not name.startswith("_")}
        for path, module in model.named_modules() if activation_of_module(module) is None
    }  # fmt: skip
    return {path: numbers for path, numbers in found.items() if numbers}


def set_since(model: nn.Module, step: Step) -> Numbers:
    """The current values of the integers that were set by other code since a step."""
    ours = {(id(change.module), change.name) for step in steps_of(model) for change in step.changes}
    modules, before = dict(model.named_modules()), step.numbers
    found = {
        path: {name: value for name, value in numbers.items() if before.get(path, {}).get(name, value) != value
               and (id(modules[path]), name) not in ours}
        for path, numbers in numbers_of(model).items()
    }  # fmt: skip
    return {path: numbers for path, numbers in found.items() if numbers}


def check_numbers(model: nn.Module, numbers: Any) -> Numbers:
    """Check integers read from a file against the layers of the model.

    Raises:
        BadFile: they are not integers, or larger than any size in the model can be.
        WrongModel: the model does not have such a layer, or the layer does not have this integer attribute.
    """
    tables = numbers.values() if isinstance(numbers, dict) else [None]
    if not all(isinstance(table, dict) and all(type(value) is int for value in table.values()) for table in tables):
        raise BadFile("The file sets something other than integers on a layer.", asked=repr(numbers)[:200])
    most = max(1, sum(param.numel() for param in model.parameters() if not nn.parameter.is_lazy(param)))
    if too_large := [value for table in numbers.values() for value in table.values() if abs(value) > most]:
        raise BadFile("The file sets an integer on a layer that is too large for this model.",
                      asked=str(too_large[0])[:40], there=f"at most {most}, the number of parameters")  # fmt: skip
    there = numbers_of(model)
    lacking = [f"{path}.{name}" for path, table in numbers.items() for name in table if name not in there.get(path, {})]
    if lacking:
        raise WrongModel("The saved model has integers set on layers that this one does not have.",
                         asked=", ".join(lacking[:3]))  # fmt: skip
    checked: Numbers = numbers
    return checked
