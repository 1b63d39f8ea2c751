"""Look: every activation call of a model, with all its facts, and no trace left."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from surgery.blocks import block_facts
from surgery.errors import CannotLook
from surgery.example import Example
from surgery.kinds import SQUASHING
from surgery.sites import Site, Sites
from surgery.trace import SCALING, TRANSPARENT, Heard, Op, Trace
from surgery.twin import random_state_kept, twin
from surgery.watch import hear

MODES = ("eval", "train")


def find_sites(model: nn.Module, example: Any = None) -> Sites:
    """List every activation call of one forward, in order of execution, in eval and train mode.

    Module calls, calls of a shared module one by one, functional calls and tensor methods. The model is not run:
    a twin of it is, on the meta device where that works, else on its own weights. Nothing of the model changes.

    `example` is a tensor (one argument), a tuple (positional arguments) or a dict (keywords); by default a batch of
    two of the size in the model's configuration, else 224 pixels.

    Raises:
        CannotLook: the model is wrapped or scripted, cannot be copied, or runs in neither mode.
    """
    check_plain(model)
    sample = Example.of(example, model)
    traces, unseen = traced(model, sample)
    return Sites(_sites(model, traces), sample, type(model).__name__, unseen)


def check_plain(model: nn.Module) -> None:
    """Refuse a model that hides its modules behind a wrapper.

    Raises:
        CannotLook: with the sentence that says what to do.
    """
    cures = {
        "DistributedDataParallel": "transform model.module first, then wrap the result",
        "DataParallel": "transform model.module first, then wrap the result",
        "FullyShardedDataParallel": "transform the model first, then shard it",
        "FSDPModule": "transform the model first, then shard it",
        "OptimizedModule": "transform model._orig_mod first, then compile the result",
        "ScriptModule": "transform the Python model first, then script or trace it",
    }
    for path, module in model.named_modules():
        for parent in type(module).__mro__:
            if parent.__name__ in cures and parent.__module__.startswith("torch."):
                name = f"{type(module).__name__}, {path} of the model," if path else type(module).__name__
                raise CannotLook(
                    f"{name} hides the calls of the model inside it.", there=parent.__name__,
                    try_=cures[parent.__name__],
                )  # fmt: skip


def traced(model: nn.Module, sample: Example) -> tuple[dict[str, Trace], tuple[tuple[str, str], ...]]:
    """The trace of a forward per mode, and per mode that could not be run the reason.

    Raises:
        CannotLook: no mode could be run.
    """
    traces, unseen, errors = {}, [], []
    for mode in MODES:
        try:
            traces[mode] = _run(model, sample, mode)
        except CannotLook:
            raise
        except Exception as error:  # whatever a forward may raise; it is handed on or reported below
            errors.append(error)
            unseen.append((mode, f"{type(error).__name__}: {error}".splitlines()[0]))
    if not traces:
        raise CannotLook(
            f"{type(model).__name__} does not run on this example, in eval or in train mode.",
            asked=f"forward({sample})", there=unseen[0][1], try_="pass example= with inputs the model accepts",
        ) from errors[0]  # fmt: skip
    return traces, tuple(unseen)


def _run(model: nn.Module, sample: Example, mode: str) -> Trace:
    with random_state_kept():
        try:
            meta = twin(model, meta=True).train(mode == "train")
            arguments = sample.on(torch.device("meta"))
            with torch.device("meta"):
                return hear(meta, arguments.args, arguments.kwargs)
        except Exception:
            # Values decide something in this model, or an operation has no meta version: look at a small real run.
            home = home_of(model)
            if home.type == "meta":
                raise
            real = twin(model, meta=False).train(mode == "train")
            arguments = sample.on(home)
            return hear(real, arguments.args, arguments.kwargs)


def home_of(model: nn.Module) -> torch.device:
    """The device of the model's first parameter or buffer, else the processor."""
    tensor = next(model.parameters(), next(model.buffers(), None))
    return tensor.device if tensor is not None else torch.device("cpu")


# -- from traces to sites ---------------------------------------------------------------------------------------------


def _sites(model: nn.Module, traces: dict[str, Trace]) -> tuple[Site, ...]:
    keys = {mode: [heard.key for heard in trace.heard] for mode, trace in traces.items()}
    order = _merged(*keys.values())
    kind_of = {path: type(module).__name__ for path, module in model.named_modules(remove_duplicate=False)}
    facts = {mode: _Facts(trace, kind_of) for mode, trace in traces.items()}
    where = {mode: {key: k for k, key in enumerate(mode_keys)} for mode, mode_keys in keys.items()}
    turns: dict[tuple[str, str, int], int] = {}
    runs: dict[tuple[str, str], int] = {}
    heards = [next(traces[m].heard[where[m][key]] for m in traces if key in where[m]) for key in order]
    for heard in heards:
        named = (heard.owner, heard.target, heard.run)
        turns[named] = turns.get(named, 0) + 1
        method = (heard.owner, heard.method)
        runs[method] = max(runs.get(method, 1), heard.run)
    devices = {path: tensor.device for path, tensor in (*model.named_parameters(), *model.named_buffers())}
    home = home_of(model)
    seen: dict[tuple[str, str, int], int] = {}
    sites = []
    for key, heard in zip(order, heards, strict=True):
        named = (heard.owner, heard.target, heard.run)
        seen[named] = seen.get(named, 0) + 1
        modes = tuple(mode for mode in traces if key in where[mode])
        told = facts[modes[0]].of(where[modes[0]][key])
        device = next((devices[path] for path in told["weights"] if path in devices), home)
        axis = heard.axis if heard.axis is not None else _usual_axis(len(heard.shape))
        sites.append(
            Site(
                *key, runs=runs[heard.owner, heard.method], target=heard.target, turn=seen[named],
                turns=turns[named], owner_kind=heard.owner_kind, module=heard.module, activation=heard.activation,
                inplace=heard.inplace, options=heard.options, shape=heard.shape, channels=heard.shape[axis] if heard.shape else 1,
                channel_axis=axis, dtype=str(heard.dtype).removeprefix("torch."), device=str(device), modes=modes,
                overwrites=heard.overwrites, locked=heard.locked, **told,
            )
        )  # fmt: skip
    return tuple(sites)


def _merged(first: list[Any], second: list[Any] | None = None) -> list[Any]:
    """One order of execution out of two: what only the second has stands after what preceded it there."""
    merged, place = list(first), 0
    known = set(first)
    for key in second or ():
        if key in known:
            place = merged.index(key) + 1
        else:
            merged.insert(place, key)
            known.add(key)
            place += 1
    return merged


def _usual_axis(dims: int) -> int:
    """Where channels usually stand: second in images, last in rows of tokens."""
    return dims - 1 if dims in (1, 2, 3) else min(1, dims)


class _Facts:
    """What the operations around each activation call of a trace say about it."""

    def __init__(self, trace: Trace, kind_of: dict[str, str]) -> None:
        self.trace = trace
        self.readers = trace.consumers()
        self.calls = {heard.op: k for k, heard in enumerate(trace.heard)}
        self.roles = self._roles()
        self.blocks = block_facts(trace, self.readers, self.roles, kind_of)

    def of(self, index: int) -> dict[str, Any]:
        """The facts of one call, as fields of `Site`."""
        heard = self.trace.heard[index]
        readers = {op.kind for op in self.trace.forth(heard.op, _looked_through, self.readers)}
        reaches_end = {heard.op} | set(self._after(heard.op, _looked_through))
        if reaches_end & set(self.trace.outputs):
            readers.add("output")
        sources = [op.kind for op in self.trace.back(heard.op, _looked_through) if op.data]
        return {
            "role": self.roles[index],
            "fed_by": tuple(sorted(set(sources))),
            "feeds": tuple(sorted(readers)),
            "weights": self._weights(heard),
            **self.blocks[index],
        }

    def _weights(self, heard: Heard) -> tuple[str, ...]:
        """Weights of the convolutions and linear layers whose sums arrive here through norms, adds and scalings."""
        found: dict[str, None] = {}
        for op in self.trace.back(heard.op, lambda op: op.kind in (*SCALING, "add", "concat") or _gated(op)):
            if op.kind in ("conv", "linear"):
                found.update(dict.fromkeys(self._weight_of(op)))
        return tuple(found)

    def _weight_of(self, op: Op) -> list[str]:
        """The weight an operation reads: its own parameter, or those a computed weight was made of."""
        paths: dict[str, None] = {}
        todo, seen = [op], {op.index}
        while todo:
            now = todo.pop()
            paths.update(dict.fromkeys(now.weights))
            for made in (self.trace.ops[source] for source in now.inputs if source not in seen):
                seen.add(made.index)
                todo += [made] if not made.data else []
        kernels = [path for path in paths if not path.endswith("bias")]
        return kernels or list(paths)

    def _after(self, start: int, through: Any) -> set[int]:
        todo, found = [start], set[int]()
        while todo:
            for reader in self.readers[todo.pop()]:
                if reader not in found and through(self.trace.ops[reader]):
                    found.add(reader)
                    todo.append(reader)
        return found

    def _roles(self) -> list[str]:
        """Gates multiply other data; what only leads to gates is one; a squashing function at the end is the head."""
        roles = ["nonlinearity"] * len(self.trace.heard)
        for index in reversed(range(len(roles))):
            heard = self.trace.heard[index]
            reaches_end = set(self.trace.outputs) & {heard.op, *self._after(heard.op, _looked_through)}
            if reaches_end:
                roles[index] = "head" if heard.activation in SQUASHING else "nonlinearity"
                continue
            direct = list(self.trace.forth(heard.op, _looked_through, self.readers))
            if direct and all(op.kind in ("mul", "matmul") for op in direct):
                roles[index] = "gate"
                continue
            later = list(self.trace.forth(heard.op, _leads_on, self.readers))
            if later and all(roles[self.calls[op.index]] == "gate" for op in later if op.index in self.calls):
                lead = all(op.index in self.calls for op in later)
                roles[index] = "gate" if lead else "nonlinearity"
        return roles


def _looked_through(op: Op) -> bool:
    return op.kind in (*TRANSPARENT, "scale")


def _leads_on(op: Op) -> bool:
    return op.kind in (*TRANSPARENT, "scale", "conv", "linear", "norm", "pool")


def _gated(op: Op) -> bool:
    return op.kind == "mul"
