"""Write: the only file that modifies module trees. It inserts modules, changes classes, and reverts every change."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.ao.nn.quantized import FloatFunctional

from surgery import activations
from surgery.code.subclass import base_of, rewritten, splices_of
from surgery.edit.change import Change
from surgery.edit.graphs import graphs_of, with_call
from surgery.edit.strategy import Decision, OwnCall, Slot
from surgery.errors import CannotEdit, about
from surgery.history.history import History, Step, histories_of
from surgery.history.settled import mark_settled
from surgery.isolation.meta_copy import shallow
from surgery.isolation.snapshot import Snapshot
from surgery.model import HISTORY, HOOKS
from surgery.plan.plan import Edit
from surgery.tensors import overwrite

_KEPT_BY_GRAPHS = "_user_preserved_attributes"  # torch's name for it


@torch.no_grad()
def put_back(before: Snapshot) -> None:
    """Restore a model: its modules, their classes and attributes, its tensors, its history."""
    for saved in before.modules:
        module = saved.module
        if isinstance(module, fx.GraphModule) and module.graph is not saved.attributes["_graph"]:
            module.graph = saved.attributes["_graph"]  # regenerates the code of its forward
        if type(module) is not saved.kind:
            module.__class__ = saved.kind
        vars(module).clear()
        vars(module).update(saved.attributes)
        for name, held in saved.held.items():
            _refill(vars(module)[name], held)
    for recorded in before.tensors:
        tensor = recorded.tensor
        if tensor.is_leaf:
            if (
                tensor.requires_grad is not recorded.learns
            ):  # torch raises for tensors made in inference mode, even if nothing changes
                tensor.requires_grad_(recorded.learns)
            tensor.grad = recorded.grad
        if recorded.numbers is not None and (tensor.is_inference() or tensor._version != recorded.version):
            overwrite(tensor, recorded.numbers)
    for history, then in before.histories:
        _become(history, then)
    for step, then_step in before.steps:
        _become(step, then_step)


def _become(now: History | Step, then: History | Step) -> None:
    for part in fields(now):
        setattr(now, part.name, getattr(then, part.name))


def _refill(container: Any, held: Any) -> None:
    container.clear()
    if isinstance(container, list):
        container.extend(held)
    else:
        container.update(held)


def carry_out(
    model: nn.Module, decisions: Iterable[Decision], new: Callable[[nn.Module, Edit], nn.Module]
) -> list[Change]:
    """Write the decisions into the model, and return the changes in order. `new` builds the new modules."""
    changes: list[Change] = []
    for decision in decisions:
        with about([decision.edit.site]):
            if isinstance(decision, Slot):
                _fill_slots(changes, model, decision, new)
            else:
                _give_own_call(changes, model, decision, new)
    return changes


def empty_slots(model: nn.Module, paths: Iterable[str]) -> list[Change]:
    """Drop the parameters of modules that are never called; code that checks for the module still finds one."""
    changes: list[Change] = []
    for path in paths:
        parent, _, name = path.rpartition(".")
        unused = activations.Unused().train(model.get_submodule(path).training)
        _put_child(changes, model.get_submodule(parent), name, unused)
    return changes


def take_back(changes: Iterable[Change]) -> None:
    """Undo changes, last first: children, classes, attributes and graphs as they were before."""
    for change in reversed(list(changes)):
        module, name, before = change.module, change.name, change.before
        if change.what == "child":
            current = module._modules.get(name)
            if before is None:
                module._modules.pop(name, None)
            else:
                module._modules[name] = before
                mode = module.training if current is None else current.training
                if before.training is not mode:  # else parts that are kept in another mode stay in it
                    before.train(mode)
        elif change.what == "class":
            module.__class__ = rewritten(*before)
        elif change.what == "graph":
            _put_graph(module, name, before)
        else:
            setattr(module, name, before)


def keep_history(model: nn.Module, history: History | None) -> None:
    """Store the history of a model in the model itself, so that copies and pickles have it; None removes it."""
    if history is None:
        model.__dict__.pop(HISTORY, None)
    else:
        model.__dict__[HISTORY] = history
    if isinstance(model, fx.GraphModule):  # a copy keeps only the plain attributes that `meta` names
        meta = model.__dict__.setdefault("meta", {})
        kept = dict(meta.pop(_KEPT_BY_GRAPHS, {}))
        kept.pop(HISTORY, None)
        if kept := kept | ({HISTORY: history} if history is not None else {}):
            meta[_KEPT_BY_GRAPHS] = kept


def keep_progress(model: nn.Module, progress: float, step: int) -> None:
    """Record the fade progress of an edited model, or of the edited models inside a wrapper."""
    for history in histories_of(model):
        history.progress = (progress, step)


def settle_children(model: nn.Module, kind: type[activations.Fade]) -> None:
    """Replace every fading child by its final form, and update the histories in the model."""
    changes: list[Change] = []
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if isinstance(child, kind):
                settled = child.settled().train(child.training)
                _keep_hooks(child, settled)
                _put_child(changes, parent, name, settled)
    histories = histories_of(model)
    steps = [step for history in reversed(histories) for step in history.steps]  # edited parts first: they are older
    for change in changes if steps else ():
        # Undoing a later step must not restore the module that fades.
        homes = [step for step in steps if any(change.same_slot(made) for made in step.changes)]
        (homes or steps)[-1].changes.append(change)
    for history in histories:
        mark_settled(history)


def _fill_slots(
    changes: list[Change], model: nn.Module, slot: Slot, new: Callable[[nn.Module, Edit], nn.Module]
) -> None:
    made = new(model, slot.edit)
    for path in slot.paths:
        parent_path, _, name = path.rpartition(".")
        parent = _alone(changes, model, parent_path) if slot.alone else model.get_submodule(parent_path)
        old = parent._modules[name]
        if old is not None:
            _keep_hooks(old, made, shared=not slot.alone)
        _put_child(changes, parent, name, made)
        _no_fast_path(changes, model, parent)


def _give_own_call(
    changes: list[Change], model: nn.Module, decision: OwnCall, new: Callable[[nn.Module, Edit], nn.Module]
) -> None:
    made = new(model, decision.edit)
    seen: set[int] = set()
    for path in decision.owners:
        owner = _alone(changes, model, path) if decision.alone else model.get_submodule(path)
        if id(owner) in seen:
            continue
        seen.add(id(owner))
        if type(owner) is FloatFunctional:
            _replace_child(changes, model, owner, activations.Arithmetic(owner, made).train(owner.training))
            continue
        _put_child(changes, owner, decision.splice.child, made)
        if isinstance(owner, fx.GraphModule):
            _edit_graphs(changes, owner, decision)
        else:
            kind = rewritten(base_of(type(owner)), (*splices_of(type(owner)), decision.splice))
            # Not the class itself: a rewritten class cannot be pickled, but its ingredients can.
            changes.append(Change("class", owner, "", (base_of(type(owner)), splices_of(type(owner)))))
            owner.__class__ = kind
        _no_fast_path(changes, model, owner)


def _replace_child(changes: list[Change], model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Replace a module under all its names; the old one may become a child of the new one."""
    for parent in list(model.modules()):
        for name in [name for name, child in parent._modules.items() if child is old]:
            _put_child(changes, parent, name, new)


def _keep_hooks(old: nn.Module, new: nn.Module, *, shared: bool = True) -> None:
    """Move the user's hooks to the replacement; both modules share them, so that undo loses none.

    Where the old module stays in use under another name, the new one gets a copy of the hooks.
    """
    for name in HOOKS:
        if name in old.__dict__:
            new.__dict__[name] = old.__dict__[name] if shared else copy.copy(old.__dict__[name])


def _put_child(changes: list[Change], parent: nn.Module, name: str, child: nn.Module) -> None:
    changes.append(Change("child", parent, name, parent._modules.get(name), child))
    parent._modules[name] = child


def _edit_graphs(changes: list[Change], owner: fx.GraphModule, decision: OwnCall) -> None:
    for name in graphs_of(owner, decision.edit.site.modes):
        before = getattr(owner, name)
        after = with_call(before, decision.splice.callee, decision.splice.child)
        if after is None:
            raise CannotEdit(f"{decision.edit.site} has no node {decision.splice.callee} in its {name}.")
        changes.append(Change("graph", owner, name, before))
        _put_graph(owner, name, after)


def _put_graph(owner: Any, name: str, graph: fx.Graph) -> None:
    """Replace one of the graphs, and activate it if it is the one for the current mode."""
    if name == "graph" or name == ("train_graph" if owner.training else "eval_graph"):
        owner.graph = graph
    if name != "graph":
        setattr(owner, name, graph)


def _no_fast_path(changes: list[Change], model: nn.Module, module: nn.Module) -> None:
    """Make an edited encoder layer of torch call its children, on tensors that these can read.

    Its fast path is one fused operation that supports only ReLU and GELU, and never calls the child. An encoder of
    such layers packs a padded batch into a nested tensor, which only that operation accepts.
    """
    if not isinstance(module, nn.TransformerEncoderLayer):
        return
    _switch_off(changes, module, "activation_relu_or_gelu", 0)
    for encoder in model.modules():
        if isinstance(encoder, nn.TransformerEncoder) and any(part is module for part in encoder.modules()):
            _switch_off(changes, encoder, "use_nested_tensor", False)


def _switch_off(changes: list[Change], module: nn.Module, name: str, off: int) -> None:
    before = module.__dict__.get(name)
    if before:
        changes.append(Change("attribute", module, name, before))
        setattr(module, name, off)


def _alone(changes: list[Change], model: nn.Module, path: str) -> nn.Module:
    """The module at a path, made unshared: shared modules on the way are replaced by shallow copies."""
    module = model
    for name in path.split(".") if path else ():
        child = module._modules[name]
        assert child is not None
        slots = [
            (id(parent), key) for parent in model.modules() for key, value in parent._modules.items() if value is child
        ]
        if len(slots) > 1:
            child = shallow(child)
            _put_child(changes, module, name, child)
        module = child
    return module


def drop_children(model: nn.Module, paths: Iterable[str]) -> list[Change]:
    """Replace the children at these paths by the identity, which takes over mode and hooks; other names keep them."""
    changes: list[Change] = []
    for path in paths:
        parent, _, name = path.rpartition(".")
        dropped = model.get_submodule(path)
        passing = nn.Identity().train(dropped.training)
        _keep_hooks(dropped, passing)
        _put_child(changes, _alone(changes, model, parent), name, passing)
    return changes


def set_paddings(model: nn.Module, paddings: Mapping[str, tuple[int, ...]]) -> list[Change]:
    """Set the zero padding of the convolutions at these paths."""
    changes: list[Change] = []
    for path, padding in paddings.items():
        layer = model.get_submodule(path)
        both = [size for size in reversed(padding) for _ in range(2)]  # as torch keeps it for other padding modes
        for name, value in (("padding", padding), ("_reversed_padding_repeated_twice", both)):
            changes.append(Change("attribute", layer, name, getattr(layer, name)))
            setattr(layer, name, value)
    return changes


def add_buffers(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Register buffers of these names that were added to the saved model, such as the counters of a profiler."""
    for name, value in values.items():
        path, _, last = name.rpartition(".")
        module = model.get_submodule(path)
        near = next(module.parameters(recurse=False), next(model.parameters(), value))
        module.register_buffer(last, value.to(near.device))


def set_numbers(model: nn.Module, numbers: Mapping[str, Mapping[str, int]]) -> None:
    """Set integer attributes of layers, by path and name."""
    for path, named in numbers.items():
        for name, value in named.items():
            setattr(model.get_submodule(path), name, value)


def fold_children(model: nn.Module, paths: Iterable[str]) -> None:
    """Replace the children at these paths by the identity, under all their names: they were folded into others."""
    replace_children(model, {path: nn.Identity() for path in paths})


def replace_children(model: nn.Module, made: Mapping[str, nn.Module]) -> None:
    """Replace the children at these paths, under all their names; the new ones take over mode and hooks."""
    for child, new in [(model.get_submodule(path), new) for path, new in made.items()]:
        _keep_hooks(child, new)
        _replace_child([], model, child, new.train(child.training))


def put_modules(model: nn.Module, made: Mapping[str, nn.Module]) -> list[Change]:
    """Put these modules at their paths, under all their names, and return the changes; they take over the mode."""
    changes: list[Change] = []
    for child, new in [(model.get_submodule(path), new) for path, new in made.items()]:
        _replace_child(changes, model, child, new.train(child.training))
    return changes
