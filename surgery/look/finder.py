"""Finder: list every activation call of a model, with all its facts, without changing the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn

from surgery.dataflow.trace import CallRecord, Trace
from surgery.errors import CannotLook, cause_of
from surgery.isolation.leftovers import no_leftovers
from surgery.isolation.meta_copy import scratch_copy
from surgery.look.classifier_output import scores_of
from surgery.look.context import Facts
from surgery.look.example import Example
from surgery.look.listen import trace_forward
from surgery.look.look import Arguments, Look
from surgery.look.references import reseated
from surgery.look.residual_blocks import blocks_of
from surgery.look.site import Site, Sites
from surgery.model import MODES, check_plain, home_of, in_mode
from surgery.rng import random_state_kept, seeded


def find_sites(model: nn.Module, example: Any = None) -> Sites:
    """List every activation call of one forward, in order of execution, in eval and train mode.

    Module calls, calls of a shared module one by one, functional calls and tensor methods. The model itself is not
    run, but a copy of it: on the meta device where that works, else with its weights. Nothing in the model changes.

    `example` is a tensor (one argument), a tuple (positional arguments) or a dict (keywords); by default a batch of
    two of the size in the model's configuration, else 224 pixels.

    Raises:
        CannotLook: the model is wrapped or scripted, cannot be copied, or does not run in either mode.
    """
    check_plain(model)
    sample = Example.of(example, model)
    look, unseen = look_at(model, sample)
    traces = dict(look.traces)
    scores, items = scores_of(model, traces), _sites(model, traces)
    blocks = blocks_of(model, traces, items)
    return Sites(items, sample, type(model).__name__, unseen, scores=scores, blocks=blocks, look=look)


def look_at(model: nn.Module, sample: Example) -> tuple[Look, tuple[tuple[str, str], ...]]:
    """One forward in each mode, and for each mode that could not be run the reason.

    Raises:
        CannotLook: neither mode could be run.
    """
    traces: dict[str, Trace] = {}
    given: dict[str, dict[str, Arguments]] = {}
    unseen, errors = [], []
    for mode in MODES:
        try:
            traces[mode] = _run(model, sample, mode, given)
        except CannotLook:
            raise
        except Exception as error:  # whatever a forward may raise; it is reported below
            errors.append(error)
            unseen.append((mode, cause_of(error)))
    if not traces:
        hooked = any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
        raise CannotLook(
            f"{type(model).__name__} runs on this example neither in eval nor in train mode.",
            asked=f"{unseen[0][1]}, in forward({sample})",
            try_="pass example= with inputs that the model accepts"
            + ("; your hooks are left out while looking, so it must run without them" if hooked else ""),
        ) from errors[0]
    return Look(traces, given), tuple(unseen)


def _run(model: nn.Module, sample: Example, mode: str, given: dict[str, dict[str, Arguments]]) -> Trace:
    home = home_of(model)
    try:
        arguments: dict[str, Arguments] = {}
        with random_state_kept():
            trace = _traced(model, sample, mode, torch.device("meta"), given=arguments)
        given[mode] = arguments
        return trace
    except CannotLook:
        raise
    except Exception:
        # Control flow depends on values, or an operation has no meta kernel: run it on real tensors.
        if home.type == "meta":
            raise
    with seeded():
        try:
            return _traced(model, sample, mode, home)
        except Exception:
            # Its code may refer to the activation objects themselves, as keys of a dict: then each must stay in place.
            trace = _traced(model, sample, mode, home, reseat=False)
    for record in trace.calls:
        record.by_reference = record.module is not None
    return trace


def _traced(
    model: nn.Module,
    sample: Example,
    mode: str,
    device: torch.device,
    *,
    reseat: bool = True,
    given: dict[str, Arguments] | None = None,
) -> Trace:
    """The trace of one run of a copy, on the meta device or on the model's device."""
    with no_leftovers(model, strict=device.type == "meta") as tracking:
        return _traced_copy(model, sample, mode, device, reseat, given, tracking)


def _traced_copy(
    model: nn.Module,
    sample: Example,
    mode: str,
    device: torch.device,
    reseat: bool,
    given: dict[str, Arguments] | None,
    tracking: AbstractContextManager[Any],
) -> Trace:
    on_meta = device.type == "meta"
    look = in_mode(scratch_copy(model, meta=on_meta), mode)
    references = reseated(look) if reseat else ()
    arguments = sample.on(device)
    around = _on(device, tracking) if on_meta else tracking
    trace = trace_forward(look, arguments.args, arguments.kwargs, references=references, tracking=around, given=given)
    trace.result = None  # freed together with the copy that computed it
    return trace


@contextmanager
def _on(device: torch.device, tracking: AbstractContextManager[Any]) -> Iterator[None]:
    """Make tensors on this device. Innermost, it does not see what the others read off tensors, which takes time."""
    with tracking, device:
        yield


def _sites(model: nn.Module, traces: dict[str, Trace]) -> tuple[Site, ...]:
    kind_of = {path: type(module).__name__ for path, module in model.named_modules(remove_duplicate=False)}
    facts = {mode: Facts(trace, kind_of) for mode, trace in traces.items()}
    calls = {mode: {record.key: k for k, record in enumerate(trace.calls)} for mode, trace in traces.items()}
    order = _merged(*(list(keys) for keys in calls.values()))
    modes_of = {key: tuple(mode for mode in traces if key in calls[mode]) for key in order}
    records = [traces[modes_of[key][0]].calls[calls[modes_of[key][0]][key]] for key in order]
    turns = Counter(_called(record) for record in records)
    turn: Counter[tuple[str, str, int]] = Counter()
    runs: dict[tuple[str, str], int] = {}
    for record in records:
        runs[record.owner, record.method] = max(runs.get((record.owner, record.method), 1), record.run)
    once = Counter(id(model.get_submodule(record.module)) for record in records if record.module is not None)
    devices = {path: tensor.device for path, tensor in (*model.named_parameters(), *model.named_buffers())}
    sites = []
    for key, record in zip(order, records, strict=True):
        turn[_called(record)] += 1
        details = facts[modes_of[key][0]].of(calls[modes_of[key][0]][key])
        seen = {mode: traces[mode].calls[calls[mode][key]] for mode in modes_of[key]}
        alone = record.module is not None and once[id(model.get_submodule(record.module))] == 1
        site = Site(
            owner=record.owner,
            method=record.method,
            callee=record.callee,
            ordinal=record.ordinal,
            iteration=record.iteration,
            run=record.run,
            runs=runs[record.owner, record.method],
            target=record.target,
            turn=turn[_called(record)],
            turns=turns[_called(record)],
            owner_kind=record.owner_kind,
            module=record.module,
            activation=record.activation,
            inplace=record.inplace,
            shape=record.shape,
            channels=_channels(record),
            channel_axis=_axis(record),
            dtype=str(record.dtype).removeprefix("torch."),
            device=str(next((devices[path] for path in details["weights"] if path in devices), home_of(model))),
            modes=modes_of[key],
            options=record.options,
            overwrites=record.overwrites,
            # A module that is called once can always be replaced.
            locked=None if alone and not record.by_reference else record.locked,
            by_reference=record.by_reference,
            other_channels=tuple(sorted({_channels(call) for call in seen.values()} - {_channels(record)})),
            channels_vary=not _learnt_per_channel(model, record)
            and any(not _single(call) and facts[mode].channels_vary(call, _axis(call)) for mode, call in seen.items()),
            **details,
        )
        sites.append(site)
    return tuple(sites)


def _called(record: CallRecord) -> tuple[str, str, int]:
    """Calls with the same value are counted as turns."""
    return (record.owner, record.target, record.run)


def _merged(first: list[Any], second: list[Any] | None = None) -> list[Any]:
    """Merge two orders of execution: what only the second has comes after its predecessor there."""
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


def _channels(record: CallRecord) -> int:
    """How many channels the input of a call has."""
    return 1 if _single(record) else record.shape[_axis(record)]


def _single(record: CallRecord) -> bool:
    """True for one value per sample: the only axis is the batch."""
    return not record.shape or (len(record.shape) == 1 and record.axis is None)


def _learnt_per_channel(model: nn.Module, record: CallRecord) -> bool:
    """True if the module that is called has a parameter per channel, which fixes the number of channels."""
    module = model.get_submodule(record.module) if record.module is not None else nn.Identity()
    return any(value.shape[-1:] == (_channels(record),) for value in module.parameters())


def _axis(record: CallRecord) -> int:
    return record.axis if record.axis is not None else _usual_axis(len(record.shape))


def _usual_axis(dims: int) -> int:
    """The usual channel axis: second for images, last for tokens."""
    return dims - 1 if dims in (1, 2, 3) else min(1, dims)
