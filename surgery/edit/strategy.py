"""Strategy: how each edit of a plan is carried out: by replacing a child, or by a separate call in the owner's code."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from torch import fx, nn
from torch.ao.nn.quantized import FloatFunctional
from torch.nn.utils.parametrize import is_parametrized

from surgery.code.subclass import Splice, check_instance
from surgery.errors import CannotEdit, UnknownName, about
from surgery.look.site import NO_CALL, Site
from surgery.plan.plan import Edit, Plan

Key = tuple[str, str, str, int, int | None, int]  # of a site
Place = tuple[str, str, str, int, int | None]  # the key of a site without its run: one call in one owner's code


@dataclass(frozen=True, slots=True)
class Slot:
    """Replace the activation module at these slots (dotted paths of a child) by the new module."""

    edit: Edit
    paths: tuple[str, ...]
    alone: bool  # the parents may be shared under other names, which must keep the old module


@dataclass(frozen=True, slots=True)
class OwnCall:
    """Route the call at these owners to a separate child, under this new name."""

    edit: Edit
    owners: tuple[str, ...]
    splice: Splice
    alone: bool


Decision = Slot | OwnCall


def decide(model: nn.Module, plan: Plan) -> tuple[Decision, ...]:
    """One decision for every call in the code that a plan edits; nothing is changed yet.

    Most calls are one module called once: it is replaced under all its names. A module called under several names is
    replaced under one of them. Everything else, shared modules and functions, needs a separate call.

    Raises:
        CannotEdit: naming the site and the reason.
    """
    places = _places(model, plan)
    chosen = {place: edit for place, edit in places.items() if edit is not None}
    by_module: dict[int, list[tuple[Place, Site]]] = {}
    for site in plan.sites:
        if site.module is not None:
            by_module.setdefault(id(_module(model, site)), []).append((_place(site), site))
    runs: dict[Place, list[Site]] = {}
    for site in plan.sites.places:
        runs.setdefault(_place(site), []).append(site)
    decisions: list[Decision] = []
    done: set[Place] = set()
    for place, edit in chosen.items():
        if place in done:
            continue
        decision, covered = _slot(model, edit, by_module, chosen) or _own_call(model, edit, plan, chosen)
        done |= covered
        sites = [site for place in covered for site in runs[place]]
        with about(sites):
            if isinstance(decision, OwnCall):
                _check_own_call(model, edit.site, decision)
            if edit.site.module is not None:
                _check_bare(_module(model, edit.site), edit)
            _check_overwritten(sites, edit)
        decisions.append(decision)
    return _named(model, decisions)


def children_of(decisions: Iterable[Decision], edits: Iterable[Edit]) -> dict[Key, str]:
    """The paths that the new modules will have, by the keys of the calls they replace."""
    own = {
        (
            owner,
            decision.splice.method,
            decision.splice.callee,
            decision.splice.ordinal,
            decision.splice.iteration,
        ): decision.splice.child
        for decision in decisions
        if isinstance(decision, OwnCall)
        for owner in decision.owners
    }
    found: dict[Key, str] = {}
    for site in (edit.site for edit in edits):
        child = own.get((site.owner, site.method, site.callee, site.ordinal, site.iteration or 0))
        found[site.key] = (site.module or "") if child is None else f"{site.owner}.{child}".removeprefix(".")
    return found


def _places(model: nn.Module, plan: Plan) -> dict[Place, Edit | None]:
    """The edit of each call in the code, None if it is left alone; all runs of one call must agree."""
    edits = {edit.site: edit for edit in plan.edits}
    places: dict[Place, Edit | None] = {}
    for site in plan.sites.places:
        place, edit = _place(site), edits.get(site)
        before = places.setdefault(place, edit)
        if (edit is None) != (before is None) or (edit and before and edit.same != before.same):
            with about(run for run in plan.sites.places if _place(run) == place):
                raise CannotEdit(
                    f"{site.path} runs {site.runs} times in one forward, by the same code; its runs cannot differ.",
                    asked=str(edit or before), try_="pick all of its runs, or none",
                )  # fmt: skip
    return places


def _slot(
    model: nn.Module, edit: Edit, by_module: dict[int, list[tuple[Place, Site]]], chosen: dict[Place, Edit]
) -> tuple[Decision, set[Place]] | None:
    site = edit.site
    if site.module is None:
        return None
    module = _module(model, site)
    callers = dict(by_module[id(module)])
    names = tuple(path for path, other in model.named_modules(remove_duplicate=False) if other is module)
    if any(caller.by_reference for caller in callers.values()):
        return None  # the module stays in place, because code refers to it otherwise
    by_this_name = {place for place, caller in callers.items() if caller.module == site.module}

    def can_share(places: set[Place]) -> bool:
        """Callers may share the new module if all of them get it, and it is one call or has no state."""
        agree = all(place in chosen and chosen[place].same == edit.same for place in places)
        return agree and (len(places) == 1 or (edit.make == "identity" and not edit.fade))

    if can_share(set(callers)):
        return Slot(edit, names, alone=False), set(callers)
    if len(names) > 1 and can_share(by_this_name):
        return Slot(edit, (site.module,), alone=True), by_this_name
    return None


def _own_call(model: nn.Module, edit: Edit, plan: Plan, chosen: dict[Place, Edit]) -> tuple[Decision, set[Place]]:
    site = edit.site
    owner = _part(model, site.owner)
    sharing = [s for s in plan.sites.places if s.key[1:5] == site.key[1:5] and _part(model, s.owner) is owner]
    group = {_place(same) for same in sharing}
    agree = all(place in chosen and chosen[place].same == edit.same for place in group)
    splice = Splice(site.method, site.callee, site.ordinal, site.iteration or 0, "", site.activation == NO_CALL)
    if agree:
        return OwnCall(edit, tuple(dict.fromkeys(place[0] for place in group)), splice, False), group
    return OwnCall(edit, (site.owner,), splice, True), {_place(site)}


def _check_own_call(model: nn.Module, site: Site, decision: OwnCall) -> None:
    owner = model.get_submodule(site.owner)
    if site.locked is not None:
        held = f"{site.module}, but the code holds another reference to it"
        raise CannotEdit(
            f"{site} cannot be edited separately: {site.locked}.",
            asked=f"{decision.edit}{f' ({held})' if site.by_reference else ''}",
            try_="an nn.ModuleList or nn.ModuleDict instead of a list or dict" if site.by_reference else "",
        )  # fmt: skip
    if isinstance(owner, fx.GraphModule):
        return
    try:
        check_instance(owner, (decision.splice,))
    except CannotEdit as reason:
        raise CannotEdit(f"{site} cannot be edited separately: {reason}") from reason


def _check_overwritten(sites: Iterable[Site], edit: Edit) -> None:
    """Check that no out-of-place function replaces an in-place one whose overwritten input is read again."""
    for site in sites:
        if site.overwrites and site.inplace and (edit.make != "identity" or edit.fade):
            raise CannotEdit(
                f"{site} overwrites its input, and the overwritten input is read again afterwards.",
                asked=str(edit), try_="erase the call instead, or make the model's activation out of place",
            )  # fmt: skip


def _check_bare(module: nn.Module, edit: Edit) -> None:
    """Check that no module with a parametrised weight is replaced: the parametrisation would be lost silently."""
    if is_parametrized(module):
        found, cure = "a parametrization", "torch.nn.utils.parametrize.remove_parametrizations(module, name) first"
    elif any(type(hook).__module__.startswith("torch.nn.utils") for hook in module._forward_pre_hooks.values()):
        found, cure = (
            "a mask, or another hook that computes its weight",
            "torch.nn.utils.prune.remove(module, name) first",
        )
    else:
        return
    raise CannotEdit(f"{edit.site.module} has {found}, which would be lost with it.", asked=str(edit), try_=cure)


def _named(model: nn.Module, decisions: Iterable[Decision]) -> tuple[Decision, ...]:
    """Names for new children, in torchvision's convention: `relu_2` for the third call of `relu`.

    The child that replaces a `FloatFunctional` is called `activation`.
    """
    taken: dict[int, set[str]] = {}
    named: list[Decision] = []
    for decision in decisions:
        if isinstance(decision, OwnCall):
            site = decision.edit.site
            owner = model.get_submodule(site.owner)
            used = taken.setdefault(id(owner), {name for name in dir(owner)} | set(owner._modules))
            stem = "activation" if type(owner) is FloatFunctional else site.target.replace(".", "_")
            stem = stem if stem.isidentifier() else f"{site.activation}_{stem}"  # "0", as children of lists are named
            name = stem if site.turn == 1 and stem not in used else f"{stem}_{site.turn - 1}"
            while name in used:
                name += "_"
            used.add(name)
            decision = replace(decision, splice=replace(decision.splice, child=name))
        named.append(decision)
    return tuple(named)


def _place(site: Site) -> Place:
    return site.key[:5]


def _module(model: nn.Module, site: Site) -> nn.Module:
    return _part(model, site.module or "")


def _part(model: nn.Module, path: str) -> nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError as error:
        raise UnknownName(
            f"The plan refers to {path!r}, which this model does not have.",
            asked=type(model).__name__, try_="make the plan on the sites of this model",
        ) from error  # fmt: skip
