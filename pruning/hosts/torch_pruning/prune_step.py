"""Prune step: Torch-Pruning removes channels; the optimiser, the masks and the history of the model are updated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
import torch_pruning
from torch import nn
from torch.nn.utils import parametrize, prune
from torch.optim import Optimizer

from pruning.hosts.torch_pruning.history import plain, remember, step_before
from pruning.hosts.torch_pruning.optimizer import follow, optimizers_of
from pruning.hosts.torch_pruning.survivors import Places, Survivors
from pruning.hosts.torch_pruning.traced_layers import check_plain_numbers, check_traced
from pruning.masks.masks import Masks
from surgery.dataflow.reach import reach
from surgery.errors import BadValue, CannotEdit
from surgery.look.example import Example
from surgery.model import check_plain
from surgery.schedule.param_groups import is_activation

_KINDS = torch_pruning.ops.OPTYPE
_COUNTING = (_KINDS.CONCAT, _KINDS.SPLIT, _KINDS.RESHAPE, _KINDS.UNBIND, _KINDS.EXPAND, _KINDS.SLICE)
_REMOVALS = {"WeightNorm": "torch.nn.utils.remove_weight_norm", "SpectralNorm": "torch.nn.utils.remove_spectral_norm"}


def step(pruner: Any, optimizer: Optimizer | Iterable[Optimizer] = (), example: Any = None) -> Survivors:
    """Remove the channels that a pruner of Torch-Pruning chooses for its next step, and update the optimiser.

    Use it instead of `pruner.step()`. The optimiser (or several) gets the new parameters in the groups of the old ones,
    and keeps its state for the remaining entries; schedulers stay attached. Frozen parameters stay frozen, but freeze
    them after creating the pruner, which skips frozen layers. The result says which entries remain, and prunes masks
    the same way. `example` is the input the pruner was created with, see `find_sites`: it is recorded in the history of
    the model with the step, so that `surgery.save` and `surgery.load` work (customised pruners cannot be recorded;
    nothing is recorded for a model of which only a part was edited).

    If Torch-Pruning fails halfway, optimiser and history are consistent with what it removed. Any other error is
    raised before anything changes.

    Raises:
        CannotLook: the model is wrapped, or does not run on the example.
        CannotEdit: masks, parametrisations, tied weights, parameters that are not plain tensors, or activations of
            this library prevent it, or layers that the pruner did not trace because they were frozen; see the hint.
        BadValue: not a pruner, the example is not plain data, or an optimiser cannot follow, such as one inside `held`,
            whose masks have the old shapes.
    """
    model = _checked(pruner)
    optimizers = optimizers_of(optimizer, model)
    done = step_before(pruner, model, example)
    check_traced(pruner, model, Example.of(example, model))
    before, frozen = dict(model.named_parameters()), {n for n, p in model.named_parameters() if not p.requires_grad}
    places, count, turn = Places(model), len(pruner.pruning_history()), pruner.current_step
    try:
        for group in pruner.step(interactive=True):
            places.cut(group)
            group.prune()
    except BaseException:
        if len(pruner.pruning_history()) == count:
            pruner.current_step = turn
        raise
    finally:
        done.data["history"] = [plain(entry) for entry in pruner.pruning_history()[count:]]
        if done.data["history"]:
            remember(model, done)
        for name, param in model.named_parameters():
            param.requires_grad_(name not in frozen)  # pruned parameters are new tensors, which are not frozen
        survivors = places.survivors(before)
        follow(optimizers, model, before, survivors)
    return survivors


def soft(pruner: Any) -> Masks:
    """Masks for what the next step of a pruner would remove: channels, and the weights that read them.

    Nothing is removed or set to zero: hold the masks like any others, or lay them over the model. It counts as one of
    the pruner's steps. Only weights of convolutions and linear layers are masked, so a channel may still be a nonzero
    constant from a bias or the shift of a norm. Layers in the group do not read it, but it enters the statistics of a
    norm over channels (layer norm, group norm).

    Raises:
        CannotLook, NothingPicked, BadValue: as for `prunable`; not a pruner.
        CannotEdit: as for `step`.
    """
    model = _checked(pruner)
    check_traced(pruner, model)
    masks = Masks.full(model)
    heads, channels = dict(pruner.num_heads), dict(pruner.out_channel_groups)
    for group in pruner.step(interactive=True):
        places = Places(model)  # a new object: indices refer to the whole model, since nothing is removed
        places.cut(group)
        kept = {}
        for name, left in places.left().items():
            if name in masks:
                kept[name] = torch.zeros(masks[name].shape, dtype=torch.bool)
                kept[name].view(-1)[left] = True
        masks = masks & kept
    pruner.num_heads.update(heads)
    pruner.out_channel_groups.update(channels)
    return masks


def ignored(model: nn.Module) -> list[nn.Parameter]:
    """Parameters to add to the `ignored_layers` of Torch-Pruning: tables of activations that all channels share.

    Torch-Pruning takes the last axis that is longer than 1 as the channels; in a shared table of a PWLU those are the
    knots. It still counts them if there is no layer between the activation and a flatten or concat, and may then raise
    while the pruner is created, or in `step`: use functions per channel there.
    """
    return list(_shared_tables(model).values())


def _checked(pruner: Any) -> nn.Module:
    """The model of a pruner, after a check that it can be pruned."""
    if not isinstance(pruner, torch_pruning.pruner.BasePruner):
        raise BadValue("This is not a pruner of Torch-Pruning.", asked=type(pruner).__name__,
                       try_="torch_pruning.pruner.BasePruner(model, example_inputs, importance)")  # fmt: skip
    model: nn.Module = pruner.model
    check_plain(model)
    check_plain_numbers(pruner, model)
    for path, module in model.named_modules():
        for call in _in_the_way(path, module):
            raise CannotEdit(
                f"{path or 'The model'} has parametrised weights, which Torch-Pruning cannot prune.",
                asked=type(module).__name__, try_=f"{call} before creating the pruner",
            )  # fmt: skip
        if is_activation(module):
            wide = [name for name, buffer in module.named_buffers(recurse=False) if buffer.numel() > 1]
            if wide:
                raise CannotEdit(
                    f"{path} has buffers per channel that Torch-Pruning does not prune.", asked=", ".join(wide),
                    try_="surgery.settle(model) first; fold it afterwards",
                )  # fmt: skip
    spared, tables = {id(param) for param in pruner.ignored_params}, _shared_tables(model)
    if miscounted := [name for name, param in tables.items() if _is_counted(pruner.DG.module2node.get(param))]:
        raise CannotEdit(
            "Before a flatten or a concat, Torch-Pruning would count the rows of a shared table as channels.",
            asked=", ".join(miscounted), try_="a function per channel there: swap(..., per='channel')",
        )  # fmt: skip
    if cut := [name for name, param in tables.items() if id(param) not in spared]:
        raise CannotEdit(
            "Torch-Pruning would prune a table that all channels share along the wrong axis.", asked=", ".join(cut),
            try_="ignored_layers=[..., *pruning.hosts.torch_pruning.ignored(model)]",
        )  # fmt: skip
    _check_untied(model, {id(module) for module in pruner.ignored_layers})
    return model


def _is_counted(node: Any) -> bool:
    """Whether a parameter reaches, before the next layer, an operation whose channels are inferred from its inputs."""
    start = [node] if node is not None else []
    walked = reach(start, lambda op: op.outputs, lambda op: op.type in (_KINDS.PARAMETER, _KINDS.ELEMENTWISE))
    return any(op.type in _COUNTING for op in walked)


def _in_the_way(path: str, module: nn.Module) -> Iterable[str]:
    """The calls that remove the parametrisations and masks of a module."""
    where = f"model.get_submodule({path!r})" if path else "model"
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, prune.BasePruningMethod):
            yield f"torch.nn.utils.prune.remove({where}, {hook._tensor_name!r})"
        elif type(hook).__name__ in _REMOVALS and type(hook).__module__.startswith("torch.nn.utils"):
            yield f"{_REMOVALS[type(hook).__name__]}({where})"
    if parametrize.is_parametrized(module):
        for name in module.parametrizations:  # type: ignore[union-attr]
            yield f"torch.nn.utils.parametrize.remove_parametrizations({where}, {name!r})"


def _check_untied(model: nn.Module, spared: set[int]) -> None:
    """Check that no two modules share a parameter: each would be pruned separately, and the tie broken."""
    owners = [(param, f"{path}.{name}", module) for path, module in model.named_modules()
              for name, param in module._parameters.items() if param is not None]  # fmt: skip
    count = Counter(id(param) for param, _, _ in owners)
    tied = [name for param, name, module in owners if count[id(param)] > 1 and id(module) not in spared]
    if tied:
        raise CannotEdit(
            "Pruning would break the tie between weights that two layers share.", asked=", ".join(tied),
            try_="both layers in the ignored_layers, or separate weights",
        )  # fmt: skip


def _shared_tables(model: nn.Module) -> dict[str, nn.Parameter]:
    return {
        f"{path}.{name}" if path else name: param
        for path, module in model.named_modules() if is_activation(module)
        for name, param in module.named_parameters(recurse=False)
        if param.dim() > 1 and param.shape[-1] == 1 and param.numel() > 1
    }  # fmt: skip
