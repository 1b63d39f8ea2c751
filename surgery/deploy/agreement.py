"""Agreement: whether a network computes on its target what it computes in torch, and what became of each site."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from surgery.activations.support import FAILS
from surgery.deploy.advice import instead_of
from surgery.deploy.comparison import BATCHES, check_batches, compared
from surgery.deploy.network import Network, network_of
from surgery.deploy.probe import as_trained, function_at, inputs_at, probed
from surgery.deploy.report import Report, SiteResult
from surgery.deploy.runtimes import TARGETS
from surgery.deploy.target import Target
from surgery.deploy.written import check_free, written
from surgery.errors import NotConvertible, SurgeryError, UnknownName, in_full, nearest, one_line
from surgery.history.history import steps_of
from surgery.isolation.meta_copy import copied
from surgery.look.finder import find_sites
from surgery.look.site import Site, Sites
from surgery.schedule.progress import check_settled
from surgery.transforms import undo


def check(
    model: nn.Module,
    target: str,
    example: Any = None,
    *,
    batches: Sequence[int] = BATCHES,
    output: str | Path | None = None,
) -> Report:
    """Export a network, run it on the runtime of its target, compare it with torch, and say what became of each site.

    `target` is a name of `targets()`. `example` is as for `find_sites`; it and random inputs of each batch size are
    run. The network is exported in eval mode, from a copy on the CPU. Each function is exported alone, too, and run on
    what it receives in the network: so the report says where a site is wrong or missing, and what is nearest to it
    among the functions that the target has. With `output`, the written network is kept in this new folder, unless it
    does not agree with torch.

    Raises:
        NotInstalled: the runtime is not installed.
        NoExample, DynamicShapes: see `export`.
        BadValue: a batch size that is not a whole number from 1 on; or see `export`.
        NotConvertible: the target cannot convert the network, or run it, for reasons that are not its activations. If
            these are the reason, the report says so (`problem`).
        BadFile: see `export`.
    """
    check_batches(batches)
    asked, network, sites = _begun(model, target, example, output)
    operators: tuple[str, ...] = ()
    try:
        with written(network, asked, Path(output) if output is not None else None) as made:
            operators = made.operators
            tried = replace(network, any_batch=made.network.any_batch)
            runs = compared(tried, made.loaded(), batches) if asked.load else ()
            agrees = all(run.agrees for run in runs)
            if agrees:
                made.keep()
    except NotConvertible as error:
        results = tuple(_site_results(model, sites, asked))
        if not any(call.result.verdict == FAILS for call in results):
            if operators:
                raise  # it was converted, and cannot be run
            raise _own_reasons(model, asked, example, error) from error
        return Report(
            asked.name, asked.versions, sites.model_kind, results, operators=operators, problem=in_full(error)
        )
    return Report(
        asked.name, asked.versions, sites.model_kind, tuple(_site_results(model, sites, asked, each=not agrees)), runs,
        tried.any_batch, operators, not_run=asked.not_run,
    )  # fmt: skip


def export(model: nn.Module, target: str, path: str | Path, example: Any = None) -> Path:
    """Write a network for a target into a new folder, with a `deploy.json` about its inputs; returns the folder.

    `target` is a name of `targets()`, `example` as for `find_sites`: its tensors have the batch as their first axis.
    It is written for every batch size where target and network allow that, else for a batch of one. The folder is
    written whole or not at all.

    Raises:
        NotInstalled: the runtime is not installed.
        NoExample: no example was given, and none can be derived from the model.
        DynamicShapes: the shapes or the branches of the network depend on the values of its input.
        NotConvertible: the target cannot convert it; `sites` are the activation calls that it lacks operators for,
            empty if the network cannot be converted for reasons of its own.
        BadValue: an example with something else than tensors in it; or a network that still fades.
        BadFile: there is something at `path`, or no folder can be made there.
    """
    folder = Path(path)
    asked, network, sites = _begun(model, target, example, folder)
    try:
        with written(network, asked, folder) as made:
            made.keep()
    except NotConvertible as error:
        missing = [call for call in _site_results(model, sites, asked) if call.result.verdict == FAILS]
        if not missing:
            raise _own_reasons(model, asked, example, error) from error
        raise _missing(asked, missing) from error
    return folder


def targets() -> tuple[Target, ...]:
    """The runtimes that a network can be deployed to, installed or not."""
    return tuple(TARGETS.values())


def _begun(model: nn.Module, target: str, example: Any, output: str | Path | None) -> tuple[Target, Network, Sites]:
    """All that can be checked before anything is exported."""
    asked = target_named(target)
    asked.check_installed()
    if output is not None:
        check_free(Path(output))
    sites = find_sites(model, example)
    check_settled(sites)
    return asked, network_of(model, example), sites


def target_named(name: str) -> Target:
    """The target of this name.

    Raises:
        UnknownName: there is none.
    """
    if name not in TARGETS:
        hint = nearest(str(name), TARGETS)
        raise UnknownName(f"No deployment target is called {name!r}.", there=", ".join(TARGETS), try_=hint)
    return TARGETS[name]


def _site_results(model: nn.Module, sites: Sites, target: Target, *, each: bool = False) -> Iterable[SiteResult]:
    """What becomes of every site in eval mode; equal functions are tried once, unless `each` site is asked for."""
    wanted = [site for site in sites if "eval" in site.modes]
    kinds = {site: (site.key if each else _kind(model, site)) for site in wanted}
    first = {kind: site for site, kind in reversed(kinds.items())}
    entered = inputs_at(model, sites, first.values())
    known = {}
    for kind, site in first.items():
        function, x = function_at(model, site), entered[site.key]
        found = probed(as_trained(function), x, target)
        known[kind] = (found, instead_of(function, site, found, x, target.name))
    return [SiteResult(site, *known[kind]) for site, kind in kinds.items()]


def _kind(model: nn.Module, site: Site) -> tuple[object, ...]:
    """Sites of the same kind become the same: one function, with channels on the same axis of so many."""
    shared = site.module is not None and all(
        param.numel() == 1 for param in model.get_submodule(site.module).parameters()
    )
    return (site.activation, site.options, len(site.shape), site.channel_axis, shared)


def _missing(target: Target, missing: Sequence[SiteResult]) -> NotConvertible:
    problems = "; ".join(dict.fromkeys(f"{call.site.activation}: {call.result.problem}" for call in missing))
    swaps = dict.fromkeys((call.swap_for, call.site.activation) for call in missing if call.swap_for)
    hints = [f"surgery.swap({other!r}, activation={name!r})" for other, name in swaps]
    error = NotConvertible(
        f"{target.name} cannot convert {len(missing)} activation calls of the network.", asked=problems,
        try_=", ".join(hints) or "surgery.deploy.table(), which shows the functions that it has",
    )  # fmt: skip
    error.sites = tuple(call.site for call in missing)
    return error


def _own_reasons(model: nn.Module, target: Target, example: Any, error: NotConvertible) -> NotConvertible:
    """The error for a network whose activations are not what the target cannot convert."""
    kind = type(model).__name__
    if not steps_of(model):
        problem = f"{target.name} cannot convert {kind} for reasons of its own: its activations convert."
        return NotConvertible(problem, asked=in_full(error))
    try:
        unedited = undo(copied(model))
        with written(network_of(unedited, example), target):
            problem = (
                f"{target.name} cannot convert the edited {kind}, "
                f"although it converts each activation alone and the unedited {kind}."
            )
    except NotConvertible:
        problem = f"{target.name} cannot convert {kind} for reasons of its own: the unedited {kind} fails, too."
    except SurgeryError as failure:
        problem = (
            f"{target.name} cannot convert the edited {kind}, although it converts each activation alone; "
            f"the unedited {kind} cannot be exported: {one_line(failure)}."
        )
    return NotConvertible(problem, asked=in_full(error))
