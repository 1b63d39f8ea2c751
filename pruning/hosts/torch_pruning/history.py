"""History: removed channels as a step of a model's history, which is saved and replayed when loading."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch_pruning
from torch import nn

from surgery.edit.write import keep_history
from surgery.errors import BadFile, BadValue, WrongModel
from surgery.history.history import History, Step, histories_of, steps_of
from surgery.history.plan_data import ended, fingerprint, forget_where_changed, register_step
from surgery.look.example import Example, unwritten
from surgery.look.finder import find_sites
from surgery.model import dtype_of, home_of, in_eval

KIND = "torch_pruning"
PACKAGE = "pruning.hosts.torch_pruning"


def step_before(pruner: Any, model: nn.Module, example: Any) -> Step:
    """The step of a pruner as it will be saved, without the pruning history, which is not known yet.

    Raises:
        CannotLook: the model does not run on the example.
        BadValue: the example is not plain data.
    """
    sample = Example.of(example, model)
    shapes = sample.to_data()
    if kinds := unwritten(shapes):
        raise BadValue("Only an example of plain data can be saved.", asked=", ".join(kinds),
                       there="tensors, numbers, strings, lists, tuples, dicts")  # fmt: skip
    forget_where_changed(model)
    names = {id(param): name for name, param in model.named_parameters()}
    graph = pruner.DG
    nodes = {names[id(module)]: node for module, node in graph.module2node.items() if isinstance(module, nn.Parameter)}
    data = {
        "package": PACKAGE, "example": shapes, "history": [],
        "unwrapped": {name: node.pruning_dim for name, node in nodes.items()},
        "ignored": [names[id(param)] for param in graph.ignored_params],
        "customised": [getattr(kind, "__name__", type(kind).__name__) for kind in graph.CUSTOMIZED_PRUNERS],
    }  # fmt: skip
    return Step(KIND, data, fingerprint(model, find_sites(model, sample)), [], dtype_of(model))


def plain(entry: Any) -> list[Any]:
    """An entry of a pruner's history as plain data: the layer, whether output channels were removed, and which."""
    name, out, channels = entry
    return [str(name), bool(out), [int(channel) for channel in channels]]


def remember(model: nn.Module, done: Step) -> None:
    """Add a step to the history of a model, unless only a part of the model has a history."""
    histories, steps = histories_of(model), steps_of(model)
    if steps or not histories:
        history = histories[0] if steps else History()
        keep_history(model, replace(history, steps=[*history.steps, ended(done, model)]))


def _replay(model: nn.Module, step: dict[str, Any]) -> None:
    """Prune a fresh model like the saved one."""
    data = step["data"]
    _check_data(data)
    sample = step.get("example") or Example.from_data(data["example"])
    if step["fingerprint"] is not None and fingerprint(model, find_sites(model, sample)) != step["fingerprint"]:
        raise WrongModel(
            f"This {type(model).__name__} is not the model that was pruned: its calls or its weights differ.",
            asked=f"{sum(1 for _ in model.parameters())} parameters",
            try_="build it with the same name, arguments and versions (see surgery.json)",
        )
    named = dict(model.named_parameters())
    if unknown := sorted({*data["unwrapped"], *data["ignored"]} - named.keys()):
        raise WrongModel("The saved model had other parameters.", there=", ".join(unknown))
    done = Step(KIND, data, step["fingerprint"], [], dtype_of(model))
    with in_eval(model), _nothing_frozen(model), torch.enable_grad():
        graph = torch_pruning.DependencyGraph().build_dependency(
            model, sample.on(home_of(model)), forward_fn=lambda net, given: net(*given.args, **given.kwargs),
            unwrapped_parameters=[(named[name], axis) for name, axis in data["unwrapped"].items()],
            ignored_params=[named[name] for name in data["ignored"]], verbose=False,
        )  # fmt: skip
        try:
            graph.load_pruning_history(data["history"])
        except (AttributeError, ValueError, AssertionError, IndexError) as error:
            raise WrongModel("The saved model was pruned in other layers.", asked=str(error)) from error
    remember(model, done)


@contextmanager
def _nothing_frozen(model: nn.Module) -> Iterator[None]:
    """Inside, every parameter requires a gradient, since Torch-Pruning skips frozen ones; restored afterwards."""
    frozen = {name for name, param in model.named_parameters() if not param.requires_grad}
    try:
        for _, param in model.named_parameters():
            param.requires_grad_(param.is_floating_point() or param.is_complex())
        yield
    finally:
        for name, param in model.named_parameters():
            param.requires_grad_(name not in frozen)


def _check_data(data: dict[str, Any]) -> None:
    parts = {"example": dict, "history": list, "unwrapped": dict, "ignored": list, "customised": list}
    for name, kind in parts.items():
        if not isinstance(data.get(name), kind):
            raise BadFile(f"In a step of Torch-Pruning, {name!r} is missing or has the wrong type.",
                          asked=repr(data.get(name)))  # fmt: skip
    for entry in data["history"]:
        kinds = [type(part) for part in entry] if isinstance(entry, list) else []
        if kinds != [str, bool, list] or not all(type(channel) is int for channel in entry[2]):
            raise BadFile("In a step of Torch-Pruning, the history is damaged.", asked=repr(entry))
    if data["customised"]:
        raise BadFile(
            "The model was pruned by customised pruners, which cannot be saved.", asked=", ".join(data["customised"]),
            try_="pruner.load_pruning_history on a pruner with them, then load the weights",
        )  # fmt: skip


register_step(KIND, _replay)
