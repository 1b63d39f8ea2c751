"""Transforms: edit a copy or the model itself, apply a plan, undo."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from surgery.edit.change import Change, catch_up, check_ours
from surgery.edit.idle_modules import idle_slots, replaced_modules
from surgery.edit.prove import Proved, prove_effect, prove_rewrites
from surgery.edit.replacement import fits, new_activation
from surgery.edit.restructure import restructured
from surgery.edit.rollback import all_or_nothing
from surgery.edit.same_traces import only_these_changed
from surgery.edit.strategy import children_of, decide
from surgery.edit.write import carry_out, empty_slots, keep_history, take_back
from surgery.errors import CannotEdit, CannotLook, NotEdited, SurgeryError, about, first_line
from surgery.history.history import History, Step, steps_of
from surgery.history.plan_data import asked_of, ended, fingerprint, plan_to_data
from surgery.isolation.meta_copy import copied
from surgery.look.example import Example
from surgery.look.finder import find_sites
from surgery.look.observe import seen_at
from surgery.look.site import BLOCK, Site, Sites
from surgery.model import M, check_plain, dtype_of, home_of, plain_torch
from surgery.plan.plan import Edit, Plan, Rules, as_rules, make_plan, without
from surgery.plan.report import Report, check_outcome
from surgery.plan.rules import Rule
from surgery.schedule.frozen_weights import rest_weights
from surgery.schedule.progress import move, progress_of


@plain_torch()
def transform(model: M, rules: Rules, example: Any = None, *, skip_uneditable: bool = False) -> tuple[M, Report]:
    """Edit a copy of a model by rules, and report what was done; the model itself is unchanged.

    `rules` is one rule, several, or a recipe. The copy keeps the class, the methods, the hooks and all weight names.
    See `find_sites` for `example`, and `transform_` to edit the model itself. With `skip_uneditable`, a call that
    cannot be edited is left alone, and the report says why; see `make_plan`.

    Raises:
        SurgeryError: no site matches, a site cannot be edited, or an edit failed its proof.

    >>> edited, report = surgery.transform(torchvision.models.resnet50(), surgery.erase_relu())
    """
    as_rules(rules)
    check_plain(model)
    try:
        edited = copied(model)
    except RuntimeError as error:
        raise CannotEdit(
            f"{type(model).__name__} cannot be copied.", asked=str(error).splitlines()[0],
            try_="surgery.transform_, which edits the model itself",
        ) from error  # fmt: skip
    return edited, transform_(edited, rules, example, skip_uneditable=skip_uneditable)


@all_or_nothing()
@plain_torch()
def transform_(model: nn.Module, rules: Rules, example: Any = None, *, skip_uneditable: bool = False) -> Report:
    """Edit a model in place by rules, and report what was done.

    Like `transform`, without the copy. If an edit fails or cannot be proved, the model is left unchanged.
    """
    _check_new(model, as_rules(rules))
    return apply_plan(model, make_plan(find_sites(model, example), rules, skip_uneditable=skip_uneditable))


@all_or_nothing()
@plain_torch()
def apply_plan(model: nn.Module, plan: Plan, *, look: bool = True) -> Report:
    """Apply a plan to the model it was made for, and prove that exactly the planned edits happened.

    The edits are written and the model is looked at again: either the operations of its forwards, before and after,
    show that nothing else has changed, or rewritten calls are proved on copies, by their results. If anything fails on
    the way, the model is unchanged. `look` lets new functions be initialised to match what they replace; it
    is of no use where weights are loaded afterwards. A plan made with `skip_uneditable` loses the edits that are
    refused, until the rest can be carried out.

    Raises:
        CannotEdit: a site cannot be edited without touching something else.
        NotProved: an edit did not do exactly what was planned.
    """
    check_plain(model)
    _check_new(model, plan.rules)
    proved: Proved = set()
    while True:
        try:
            return _carried_out(model, plan, proved, look=look)
        except SurgeryError as refusal:
            if not plan.skip_uneditable or not {edit.site for edit in plan.edits} & set(refusal.sites):
                raise
            plan = without(plan, refusal.sites, first_line(refusal).rstrip("."))


@all_or_nothing()
def _carried_out(model: nn.Module, plan: Plan, proved: Proved, *, look: bool) -> Report:
    """Apply all edits of a plan, or none."""
    if not plan.edits:
        return Report(plan, plan.sites, plan.sites)
    before = fingerprint(model, plan.sites)
    weights = dict(model.named_parameters())
    calls = replace(plan, edits=tuple(edit for edit in plan.edits if edit.site.activation != BLOCK))
    changes, after, far, replaced = _calls_replaced(model, calls, proved, look=look)
    if len(calls.edits) < len(plan.edits):
        changes, after = restructured(model, plan, after, changes)
        check_outcome(plan, after)
    step = Step("surgery", plan_to_data(plan), before, changes, dtype_of(model))
    _remember(model, (*steps_of(model), ended(step, model)))
    now = dict(model.named_parameters())
    added = tuple(name for name in now if now[name] is not weights.get(name))
    removed = tuple(name for name in weights if weights[name] is not now.get(name))
    unused = {id(param) for module in replaced for param in module.parameters()}
    idle = tuple(name for name, param in now.items() if id(param) in unused)
    return Report(plan, plan.sites, after, added, removed, far, idle)


def _calls_replaced(
    model: nn.Module, plan: Plan, proved: Proved, *, look: bool
) -> tuple[list[Change], Sites, dict[Site, float], list[nn.Module]]:
    """Replace the calls that a plan edits; return the changes, the sites found afterwards, errors, replaced modules."""
    sample = plan.sites.example
    if not plan.edits:
        return [], plan.sites if plan.sites.look is not None else find_sites(model, sample), {}, []
    decisions = decide(model, plan)
    stats = (
        seen_at(model, [edit.site for edit in plan.edits if not edit.erases and edit.site in plan.sites], sample)
        if look
        else {}
    )
    far: dict[Site, float] = {}
    made: dict[Site, nn.Module] = {}

    def new(model: nn.Module, edit: Edit) -> nn.Module:
        return made.setdefault(edit.site, new_activation(model, edit, stats, far, plan.sites))

    replaced = replaced_modules(model, plan)
    children = children_of(decisions, plan.edits)

    def write() -> list[Change]:
        changes = carry_out(model, decisions, new)
        return changes + empty_slots(model, idle_slots(model, replaced))

    changes = write()
    after = _looked_at(model, sample)
    if after is None or not only_these_changed(model, plan.sites.look, after.look, children):
        take_back(changes)
        prove_rewrites(model, decisions, sample, plan.sites.look, proved)
        changes = write()
    with about(site for site, module in made.items() if not fits(module, site)):
        after = after or find_sites(model, sample)
    check_outcome(plan, after)
    prove_effect(model, plan.edits, children, sample, after.look, proved)
    return changes, after, far, replaced


def _looked_at(model: nn.Module, sample: Example) -> Sites | None:
    """What an edited model does, None if it does not run: why will be found out with what proves a single edit."""
    try:
        return find_sites(model, sample)
    except CannotLook:
        return None


@all_or_nothing()
def undo(model: M, steps: int | None = None) -> M:
    """Undo the edits of a model in place: all of them, or the last `steps` steps; return the model.

    Class, modules, names, hooks and mode are as before; parameters that an edit added are gone.

    Raises:
        NotEdited: the model is not edited, or by fewer than `steps` steps.
        CannotEdit: a step cannot be undone, such as a structural one, or a module an edit added was replaced since.
    """
    done = steps_of(model)
    wanted = len(done) if steps is None else steps
    if not 1 <= wanted <= len(done):
        raise NotEdited(
            f"{type(model).__name__} has {len(done)} edits.", asked=f"undo {'all' if steps is None else steps}",
            try_="the edited model: transform returns a copy, and leaves its argument unchanged",
        )  # fmt: skip
    kept, dropped = done[: len(done) - wanted], done[len(done) - wanted :]
    for step in dropped:
        if not step.changes:
            raise CannotEdit(f"A step of kind {step.kind!r} cannot be undone: nothing is kept of what it replaced.",
                             try_="the model as it was before that step")  # fmt: skip
    check_ours(model, (change for step in dropped for change in step.changes))
    for step in reversed(dropped):
        catch_up(step.changes, home_of(model), dtype if (dtype := dtype_of(model)) != step.dtype else None)
        take_back(step.changes)
    _remember(model, kept)
    return model


def _check_new(model: nn.Module, rules: tuple[Rule, ...]) -> None:
    """Check that no rule is applied twice: counted on the remaining sites, it would remove more than intended."""
    done = {asked for step in steps_of(model) for asked in step.data.get("asked", ())}
    again = [asked for asked in map(asked_of, rules) if asked in done]
    if again:
        raise CannotEdit(
            f"This rule was already applied to this {type(model).__name__}.",
            asked="; ".join(again),
            try_="surgery.undo(model) first, or other rules",
        )


def _remember(model: nn.Module, steps: tuple[Step, ...]) -> None:
    """Record the steps; new modules that fade get the current progress of the model."""
    progress = progress_of(model)
    rest_weights(model, False)  # the history to be replaced lists the weights at rest
    keep_history(model, History(list(steps), progress) if steps else None)
    if steps and progress is not None:
        move(model, *progress)
