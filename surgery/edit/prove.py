"""Proof: a rewritten call computes what the old one did, and an edit takes effect also without hooks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from surgery.code.subclass import Splice
from surgery.dataflow.flow import tensors_in
from surgery.dataflow.trace import CallRecord, Trace
from surgery.edit.replacement import same_activation
from surgery.edit.strategy import Decision, Key, OwnCall
from surgery.edit.write import carry_out
from surgery.errors import NotProved, SurgeryError, about
from surgery.isolation.leftovers import no_leftovers
from surgery.isolation.meta_copy import scratch_copy
from surgery.look.example import Example, mapped
from surgery.look.likeness import Same, can_be_given_again, likeness, shaped
from surgery.look.listen import QuickNorms, trace_forward
from surgery.look.look import Arguments, Look
from surgery.model import MODES, home_of, in_mode, parents_of
from surgery.plan.plan import Edit
from surgery.rng import random_state_kept, seeded
from surgery.tensors import identical

Proved = set[Hashable]  # what has been proved, with everything it depends on


@dataclass(frozen=True, slots=True)
class Given:
    """The arguments that the module at the path `at` was called with, in one mode.

    `steered`: the mode cannot be run on the meta device, so tensor values may steer the control flow.
    """

    at: str
    arguments: Arguments
    steered: bool


def prove_rewrites(
    model: nn.Module,
    decisions: Iterable[Decision],
    sample: Example,
    look: Look | None = None,
    proved: Proved | None = None,
) -> None:
    """Prove that rewriting without an edit changes nothing, for every owner that needs it; the model is not modified.

    Every edited call is routed to a new module with the same activation. In eval and in train mode the outputs and the
    buffers must be bit-equal, and the activation calls the same in the same order.

    A proof for an owner holds for others that the same code treats alike (see `likeness`). It is recorded in `proved`,
    which is valid as long as neither the code nor the model changes.

    Raises:
        NotProved: naming the owner and what differs.
    """
    by_owner: dict[str, list[OwnCall]] = {}
    for decision in decisions:
        if isinstance(decision, OwnCall) and not isinstance(model.get_submodule(decision.owners[0]), fx.GraphModule):
            by_owner.setdefault(decision.owners[0], []).append(decision)
    if not by_owner:
        return
    alike = _Alike(model)
    proved = set() if proved is None else proved
    seen_in = {path: [call.edit.site.modes for call in calls] for path, calls in by_owner.items()}
    with no_leftovers(model) as tracking:
        for (path, mode), given in recorded_arguments(model, sample, seen_in, look).items():
            calls = by_owner[path]
            sites = [call.edit.site for call in calls]
            what = [(call.splice, site.activation, site.options) for call, site in zip(calls, sites, strict=True)]
            key = ("rewrites", mode, *what, *(alike.at(site.module) for site in sites), alike.run(path, given))
            if key not in proved:
                prove = partial(_prove, model, path, given, mode, tracking)
                with about(call.edit.site for call in _culprits(calls, prove)):
                    prove(calls)
                proved.add(key)


def prove_effect(
    model: nn.Module,
    plan_edits: Iterable[Edit],
    children: Mapping[Key, str],
    sample: Example,
    look: Look | None = None,
    proved: Proved | None = None,
) -> None:
    """Prove that the edits of a model take effect when nobody watches it, too; see `prove_rewrites` for `proved`.

    torch's encoder layer, for one, skips its children in eval mode where nobody has hooks on them. Either each new
    module (`children` has their paths) is called, or the results are those of a run that is watched.

    Raises:
        NotProved: naming the owner whose outputs differ.
    """
    if home_of(model).type == "meta":
        return  # no values to compute with
    by_owner: dict[str, list[Edit]] = {}
    for edit in plan_edits:
        by_owner.setdefault(edit.site.owner, []).append(edit)
    alike = _Alike(model)
    proved = set() if proved is None else proved
    seen_in = {path: [edit.site.modes for edit in edits] for path, edits in by_owner.items()}
    with no_leftovers(model) as tracking:
        calls = _Calls(model, children.values())
        recorded = recorded_arguments(model, sample, seen_in, look, modes=("eval",))
        # The outer ones run the inner ones.
        for (path, mode), given in sorted(recorded.items(), key=lambda item: len(item[0][0])):
            edits = by_owner[path]
            key = ("effect", mode, *((*edit.site.key[1:5], *edit.same) for edit in edits), alike.run(path, given))
            if key in proved:
                continue
            put_in = {children[edit.site.key] for edit in edits if mode in edit.site.modes}
            if not calls.are_made(put_in, given, tracking) and not _same_without_hooks(model, given, mode, tracking):
                owner = type(model.get_submodule(path)).__name__
                with about(edit.site for edit in edits):
                    raise NotProved(
                        f"{owner} at {path or 'the top'} computes something else without hooks.",
                        asked="; ".join(str(edit) for edit in edits),
                        try_="switch its fast path off, or leave its activations alone",
                    )
            proved.add(key)


class _Calls:
    """The calls of some modules of a model, counted on a copy without hooks."""

    def __init__(self, model: nn.Module, paths: Iterable[str]) -> None:
        self.copied = in_mode(scratch_copy(model, meta=False), "eval")
        self.made: set[str] = set()
        for path in set(paths):
            _counted(self.copied.get_submodule(path), partial(self.made.add, path))

    def are_made(self, paths: set[str], given: Given, tracking: AbstractContextManager[Any]) -> bool:
        """True if the modules at these paths are called, in an earlier run or in one on these arguments."""
        if not paths <= self.made:
            _run(self.copied.get_submodule(given.at), given.arguments, tracking, watch=False)
        return paths <= self.made


def _counted(module: nn.Module, count: Callable[[], None]) -> None:
    """Let a module of a copy count its calls. Code that checks for hooks would notice one."""
    kind = type(module)

    class Counted(kind):  # type: ignore[misc, valid-type]
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            count()
            return super().__call__(*args, **kwargs)

    module.__class__ = Counted


def _same_without_hooks(model: nn.Module, given: Given, mode: str, tracking: AbstractContextManager[Any]) -> bool:
    with random_state_kept():
        solid = copy_with_values(model.get_submodule(given.at), mode)
    again = in_mode(scratch_copy(solid, meta=False), mode)  # the first run may change its state
    watched = _run(solid, given.arguments, tracking, watch=True)
    return _close(watched.result, _run(again, given.arguments, tracking, watch=False).result)


class _Alike:
    """The likeness of the modules of one model, as long as it does not change."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.known: dict[str | None, Hashable] = {None: None}

    def at(self, path: str | None) -> Hashable:
        """A key that is equal for modules that the same code treats alike."""
        if path not in self.known:
            self.known[path] = likeness(self.model.get_submodule(path or ""))
        return self.known[path]

    def run(self, path: str, given: Given) -> Hashable:
        """Everything that a proof by running the module at `path` depends on."""
        inside = path.removeprefix(given.at)
        alone = Same(self.model.get_submodule(path)) if given.steered else None
        return (inside, self.at(given.at), likeness(mapped(given.arguments, shaped)), alone)


def _culprits(calls: list[OwnCall], prove: Callable[[list[OwnCall]], None]) -> Iterator[OwnCall]:
    """The calls of an owner whose rewrite fails on its own; all, if each of them succeeds."""
    guilty = []
    for call in calls if len(calls) > 1 else ():
        try:
            prove([call])
        except SurgeryError:
            guilty.append(call)
    yield from guilty or calls


def recorded_arguments(
    model: nn.Module,
    sample: Example,
    seen_in: Mapping[str, Iterable[Sequence[str]]],
    look: Look | None = None,
    modes: Sequence[str] = MODES,
) -> dict[tuple[str, str], Given]:
    """For each path and mode, what to run to observe everything the module at the path does.

    That is the module itself, if the arguments of its first call can be reproduced. If not, or if another method of
    the module is called, it is the nearest module around it, or the model. `seen_in` maps paths to the modes in which
    calls of the module were seen. Arguments that a `look` has recorded are not recorded again.
    """
    found: dict[tuple[str, str], Given] = {}
    around = {path: [path, *parents_of(path)] for path in seen_in}
    paths = {path for chain in around.values() for path in chain}
    for mode in modes:
        for meta in (True, False):
            try:
                first = (
                    {**look.given[mode], "": (sample.args, sample.kwargs)}
                    if meta and look is not None and mode in look.given
                    else _first_arguments(model, sample, mode, paths, meta=meta)
                )
            except Exception:  # find_sites has reported a mode that cannot run
                continue
            for path, chain in around.items():
                called = any(mode in seen for seen in seen_in[path])
                at = next((outer for outer in (chain if called else chain[:1]) if outer in first), None)
                if at is not None:
                    found[path, mode] = Given(at, first[at], steered=not meta)
            break
    return found


def _first_arguments(
    model: nn.Module, sample: Example, mode: str, paths: Iterable[str], *, meta: bool
) -> dict[str, Arguments]:
    """The arguments of the first call of the modules at these paths, where they can be reproduced."""
    with no_leftovers(model) as tracking:
        return _recorded_arguments(model, sample, mode, paths, meta, tracking)


def _recorded_arguments(
    model: nn.Module,
    sample: Example,
    mode: str,
    paths: Iterable[str],
    meta: bool,
    tracking: AbstractContextManager[Any],
) -> dict[str, Arguments]:
    first: dict[str, Arguments | None] = {}
    look = in_mode(scratch_copy(model, meta=meta), mode)
    with random_state_kept():
        arguments = sample.on(torch.device("meta") if meta else home_of(model))
    for path in paths:

        def note(_: nn.Module, args: Any, kwargs: Any, path: str = path) -> None:
            if path not in first:
                again = can_be_given_again((args, kwargs))
                with torch._C.DisableTorchFunction():  # these are kept
                    first[path] = mapped((args, kwargs), lambda tensor: tensor.detach().clone()) if again else None

        look.get_submodule(path).register_forward_pre_hook(note, with_kwargs=True)
    with random_state_kept(), torch.no_grad():
        if meta:
            with torch.device("meta"), QuickNorms(), tracking:
                look(*arguments.args, **arguments.kwargs)
        else:
            with tracking:
                look(*arguments.args, **arguments.kwargs)
    given = {path: arguments for path, arguments in first.items() if arguments is not None}
    return given | {"": (sample.args, sample.kwargs)}


def copy_with_values(owner: nn.Module, mode: str) -> nn.Module:
    """A copy whose values reveal every difference: its weights, redrawn where they are missing or constant."""
    on_meta = home_of(owner).type == "meta"
    solid = scratch_copy(owner, meta=on_meta)
    if on_meta:
        solid.to_empty(device="cpu")
    for module in solid.modules():
        for name, value in list(module._parameters.items()):
            if value is not None and value.is_floating_point() and value.numel() and (on_meta or _alike(value)):
                drawn = torch.empty(value.shape, dtype=torch.float32, device=value.device).uniform_(0.05, 0.3)
                module._parameters[name] = nn.Parameter(drawn.to(value.dtype), requires_grad=value.requires_grad)
        for name, buffer in list(module._buffers.items()):
            if buffer is not None and on_meta:
                module._buffers[name] = torch.ones_like(buffer)
    return in_mode(solid, mode)


def _alike(value: Tensor) -> bool:
    return value.numel() > 1 and bool((value == value.flatten()[0]).all())


def _prove(
    model: nn.Module, path: str, given: Given, mode: str, tracking: AbstractContextManager[Any], calls: list[OwnCall]
) -> None:
    """Prove it for the owner at `path`, by running the module in `given`."""
    at = given.at
    with random_state_kept():
        plain = copy_with_values(model.get_submodule(at), mode)
    edited = in_mode(scratch_copy(plain, meta=False), mode)

    def same(_: nn.Module, edit: Edit) -> nn.Module:
        prefix = f"{at}." if at else ""
        if edit.site.module is not None and edit.site.module.startswith(prefix):
            return copy.deepcopy(plain.get_submodule(edit.site.module.removeprefix(prefix)))
        return same_activation(model, edit)

    inside = path.removeprefix(at).removeprefix(".")
    carry_out(edited, [replace(call, owners=(inside,), alone=False) for call in calls], same)
    before, after = (_run(module, given.arguments, tracking, watch=True) for module in (plain, edited))
    owner = plain.get_submodule(inside)
    moved = []
    for call in calls:
        child = f"{inside}.{call.splice.child}".removeprefix(".")
        meant = [
            k for k, record in enumerate(before.calls)
            if _stands_at(record, call.splice) and plain.get_submodule(record.owner) is owner
        ]  # fmt: skip
        met = [
            k for k, record in enumerate(after.calls) if record.module and f"{record.module}.".startswith(f"{child}.")
        ]
        moved += [call.edit] if meant != met else []
    calls_before, calls_after = ([call.activation for call in part] for part in (before.calls, after.calls))
    differs = (
        "other activation calls" if calls_before != calls_after
        else "another call than the intended one" if moved
        else "other outputs" if not _equal(before.result, after.result)
        else "other buffers" if not all(identical(a, b) for a, b in zip(plain.buffers(), edited.buffers(), strict=True))
        else ""
    )  # fmt: skip
    if differs:
        raise NotProved(
            f"{type(owner).__name__} at {path or 'the top'} has {differs} in {mode} mode once its calls are separated.",
            asked="; ".join(str(edit) for edit in moved or [call.edit for call in calls])
            + f" (calls {', '.join(calls_before)} became {', '.join(calls_after)})",
            try_="leave this call alone, or give it its own module in the model's source",
        )


def _stands_at(record: CallRecord, splice: Splice) -> bool:
    place = (splice.method, splice.callee, splice.ordinal, splice.iteration)
    return (record.method, record.callee, record.ordinal, record.iteration or 0) == place


def _run(module: nn.Module, arguments: Arguments, tracking: AbstractContextManager[Any], *, watch: bool) -> Trace:
    """One forward from a fixed random state: its output and, with `watch`, the recorded calls."""
    with seeded(), torch.no_grad():
        fresh = Example(*arguments).on(home_of(module))
        try:
            if watch:
                return trace_forward(module, fresh.args, fresh.kwargs, tracking=tracking)
            with tracking:
                return Trace(result=module(*fresh.args, **fresh.kwargs))
        except Exception as error:  # whatever a forward may raise; it ran before
            raise NotProved(
                f"{type(module).__name__} does not run by itself on its recorded arguments, so nothing can be proved.",
                asked=f"{type(error).__name__}: {error}".splitlines()[0],
            ) from error


def _equal(output: Any, other: Any) -> bool:
    """True if two outputs contain the same tensors, bit for bit, and at least one."""
    first, second = list(tensors_in(output)), list(tensors_in(other))
    return 0 < len(first) == len(second) and all(identical(a, b) for a, b in zip(first, second, strict=True))


def _close(output: Any, other: Any) -> bool:
    """True if two outputs differ by rounding at most: without hooks, torch uses a fused attention kernel."""
    first, second = list(tensors_in(output)), list(tensors_in(other))
    return 0 < len(first) == len(second) and all(_rounded(a, b) for a, b in zip(first, second, strict=True))


def _rounded(value: Tensor, other: Tensor) -> bool:
    if value.shape != other.shape or not value.is_floating_point() or not value.numel():
        return identical(value, other)
    spread = 64 * torch.finfo(value.dtype).eps * value.nan_to_num().abs().max()
    return torch.allclose(value, other, rtol=0.0, atol=float(spread), equal_nan=True)
