"""Affine fold: merge affine stand-ins into the norm, convolution or linear layer in front of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from surgery.activations.functions.affine import Affine
from surgery.dataflow.trace import Op, Trace
from surgery.edit.rollback import all_or_nothing
from surgery.edit.write import fold_children, keep_history
from surgery.errors import CannotEdit, NothingPicked, WrongModel
from surgery.history.history import Step, histories_of, steps_of
from surgery.history.plan_data import ended, fingerprint, forget_where_changed, register_step
from surgery.look.example import Example
from surgery.look.finder import find_sites, look_at
from surgery.model import M, check_plain, dtype_of

# Layers whose output channels can be scaled, each on the first axis of its weight.
_FEEDERS = (
    _BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d,
)  # fmt: skip
_PASSING = ("movedim", "to")  # what an Affine does to its input before it multiplies
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class _Fold:
    """One affine stand-in, and the tensors of the module in front with their new values."""

    path: str
    values: tuple[tuple[Tensor, Tensor], ...]


def fold_affine(model: M, example: Any = None) -> M:
    """Fold affine stand-ins into the layer in front of them where that is exact, in place; returns the model.

    Weight and bias of a norm, a convolution or a linear layer absorb slope and intercept, and the stand-in becomes the
    identity: the same function, in train and eval mode, up to rounding, at no cost. The output of the layer must go to
    the stand-in alone, directly, and the layer must have a weight (and a bias, unless all intercepts are 0: a fold adds
    no parameters) that is not used elsewhere. Other stand-ins stay, among them those behind transposed convolutions,
    and the log says why. So do the ends of running fades: call `settle` first.

    The model's history records the fold, so saving and loading work as before; `undo` cannot revert it, because it
    changes weights. See `find_sites` for `example`.

    Raises:
        NothingPicked: the model does not have affine stand-ins, or none that can be folded.
        CannotEdit: the stand-in is in a part of the model that has its own history: fold that part.
    """
    check_plain(model)
    lines = {path: module for path, module in model.named_modules() if isinstance(module, Affine)}
    if not lines:
        raise NothingPicked(
            f"{type(model).__name__} has no affine stand-in to fold.",
            try_="surgery.transform(model, surgery.erase_relu(stand_in='affine')) first",
        )
    steps = steps_of(model)
    if not steps and histories_of(model):
        raise CannotEdit(
            f"Only a part of this {type(model).__name__} was edited, and that part has the history.",
            try_="surgery.fold_affine(that part)",
        )
    sample = Example.of(example, model)
    traces = look_at(model, sample)[0].traces
    folds, reasons = [], []
    for path in lines:
        try:
            folds.append(_fold_of(model, path, list(traces.values())))
        except _NotExact as reason:
            reasons.append(f"{path}: {reason}")
    if not folds:
        raise NothingPicked("No affine stand-in can be folded exactly.", asked="; ".join(reasons[:3]))
    for line in reasons:
        _log.info("not folded: %s", line)
    return _write(model, folds, sample)


@all_or_nothing(lambda model, folds, sample: [tensor for fold in folds for tensor, _ in fold.values])
def _write(model: M, folds: list[_Fold], sample: Example) -> M:
    paths, steps = [fold.path for fold in folds], steps_of(model)
    forget_where_changed(model)
    step = Step("fold", {"folded": paths}, fingerprint(model, find_sites(model, sample)), [], dtype_of(model))
    with torch.no_grad():
        for fold in folds:
            for tensor, value in fold.values:
                tensor.copy_(value)
    fold_children(model, paths)
    if steps:
        _remember(model, step)
    return model


class _NotExact(Exception):
    """Why a stand-in cannot be folded."""


def _fold_of(model: nn.Module, path: str, traces: list[Trace]) -> _Fold:
    """How the stand-in at `path` is folded, the same in all modes."""
    homes = {_feeder(trace, path) for trace in traces}
    if len(homes) > 1:
        raise _NotExact("the layer in front of it differs between eval and train mode")
    home = homes.pop()
    module, line = model.get_submodule(home), model.get_submodule(path)
    assert isinstance(line, Affine)
    if not isinstance(module, _FEEDERS):
        raise _NotExact(f"{home} is a {type(module).__name__}, whose output cannot be scaled by its weight")
    weight, bias = module.weight, getattr(module, "bias", None)
    slope, intercept = line.weight.detach().double(), line.bias.detach().double()
    if len(slope) not in (1, len(weight)) or (isinstance(module, nn.LayerNorm) and weight.dim() > 1):
        raise _NotExact(f"the weight of {home} is not per channel")
    if bias is None and bool(intercept.any()):
        raise _NotExact(f"{home} has no bias to absorb the intercept")
    rows = slope.reshape(-1, *(1 for _ in weight.shape[1:]))
    values = [(weight, weight.detach().double() * rows)]
    if bias is not None:
        values.append((bias, bias.detach().double() * slope + intercept))
    return _Fold(path, tuple(values))


def _feeder(trace: Trace, path: str) -> str:
    """The path of the layer whose output goes to the stand-in at `path` and nowhere else."""
    reads = [op for op in trace.ops if f"{path}.weight" in op.weights]
    if len(reads) != 1:
        raise _NotExact("it is called more than once" if reads else "it is never called as a module")
    readers, op = trace.consumers(), trace.ops[reads[0].inputs[0]]
    while op.name in _PASSING:
        op = trace.ops[op.inputs[0]]
    for passed in _chain(trace, op, reads[0]):
        if len(readers[passed.index]) > 1 or passed.index in trace.outputs:
            raise _NotExact("its input is also used elsewhere")
    home = next((name.rpartition(".")[0] for name in op.weights if name.endswith("weight")), None)
    if home is None or op.kind not in ("norm", "conv", "linear") or "transpose" in op.name:
        raise _NotExact(f"in front of it is {op.name}, not a norm, convolution or linear layer with a weight")
    changed = {f"{home}.weight", f"{home}.bias"}
    if sum(not changed.isdisjoint(op.weights) for op in trace.ops) > 1:
        raise _NotExact(f"the weights of {home} are also used elsewhere")
    if op.axis is None or reads[0].axis != len(reads[0].shape) - 1:
        raise _NotExact(f"its channels are not those of {home}")
    return home


def _chain(trace: Trace, first: Op, last: Op) -> Iterator[Op]:
    """The operations from `first` to the one before `last`."""
    op = last
    while op.index != first.index:
        op = trace.ops[op.inputs[0]]
        yield op


def _remember(model: nn.Module, step: Step) -> None:
    history = histories_of(model)[0]
    keep_history(model, replace(history, steps=[*history.steps, ended(step, model)]))


def _replay_fold(model: nn.Module, step: dict[str, Any]) -> None:
    """Replace the stand-ins that the saved model had folded by the identity; the saved weights contain the fold."""
    paths = step["data"].get("folded", [])
    found = {path for path, module in model.named_modules() if isinstance(module, Affine)}
    if not found.issuperset(paths):
        raise WrongModel(
            "The saved model had stand-ins folded that this one does not have.",
            there=", ".join(sorted(found)) or "no stand-ins",
            try_="build it with the same name, arguments and versions (see surgery.json)",
        )  # fmt: skip
    fold_children(model, paths)
    done = Step("fold", step["data"], step["fingerprint"], [], dtype_of(model))
    _remember(model, done)


register_step("fold", _replay_fold)
