"""Same traces: prove from two looks at a model that an edit replaced the calls it should, and changed nothing else."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from surgery.activations import Copy
from surgery.dataflow.trace import CallRecord, Op, Trace
from surgery.edit.strategy import Key
from surgery.look.look import Look


def only_these_changed(model: nn.Module, before: Look | None, after: Look | None, children: Mapping[Key, str]) -> bool:
    """True if the traces from before and after an edit show that it changed these calls alone, in every mode.

    `children` are the paths of the new modules, by the keys of the calls. All other operations must be the same, in
    the same order, with the same arguments, weights and sources; each edited call must have become one call of its new
    module, on the same source, whose result is used as the old one was. That is a proof: the same operations on the
    same tensors have the same results.

    False only means that the traces do not prove it: a forward needs values, and may depend on them, or a new module
    is not a single operation.
    """
    if before is None or after is None:
        return False
    if not set(before.traces) == set(before.given) == set(after.traces) == set(after.given):
        return False
    put_in = {key: model.get_submodule(path) for key, path in children.items()}
    return all(_same(model, before.traces[mode], after.traces[mode], put_in) for mode in before.traces)


def _same(model: nn.Module, before: Trace, after: Trace, put_in: Mapping[Key, nn.Module]) -> bool:
    calls_before = {record.op: record for record in before.calls}
    calls_after = {record.op: record for record in after.calls}
    became = {0: 0}  # the operation after the edit, for each before it
    left = iter(after.ops[1:])
    for op in before.ops[1:]:
        old = calls_before.get(op.index)
        child = put_in.get(old.key) if old is not None else None
        sources = tuple(became[source] for source in op.inputs)
        if type(child) is nn.Identity:  # not an operation: its input goes on
            if len(sources) != 1:
                return False
            became[op.index] = sources[0]
            continue
        now = next(left, None)
        if now is None or now.inputs != sources:
            return False
        call = calls_after.get(now.index)
        if child is None:
            if operation_facts(op) != operation_facts(now) or _call(old) != _call(call):
                return False
        elif type(child) is Copy:
            if now.name != "clone":
                return False
        elif call is None or call.module is None or model.get_submodule(call.module) is not child:
            return False
        became[op.index] = now.index
    outputs = tuple(became[op] for op in before.outputs)
    return next(left, None) is None and tuple(filter(None, outputs)) == after.outputs


def operation_facts(op: Op) -> tuple[object, ...]:
    """The part of an operation that an edit elsewhere does not change."""
    return (op.kind, op.name, op.weights, op.shape, op.spelling)


def _call(record: CallRecord | None) -> tuple[object, ...] | None:
    """The part of an activation call that an edit elsewhere does not change; None without a call."""
    if record is None:
        return None
    return (record.key, record.activation, record.options, record.inplace, record.shape, record.dtype)
