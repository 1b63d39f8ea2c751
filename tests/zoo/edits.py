"""Calls and edits of a model, checked against an independent count and an oracle; shared by the sweeps."""

from __future__ import annotations

import zlib
from collections import Counter
from typing import Any

import torch
from torch import nn

import surgery
from surgery.errors import CannotEdit
from surgery.look.site import Site, Sites
from tests.asserts import assert_bit_equal
from tests.zoo import oracle
from tests.zoo.counting import Event, count
from tests.zoo.ledger import Row


def checked(sites: Sites, model: nn.Module, example: Any, row: Row) -> tuple[list[Site], list[Event]]:
    """The calls seen in eval mode, found and counted, after they were compared."""
    counted = count(model, example)
    seen = list(sites.where(modes="eval"))
    assert [facts_of(site) for site in seen] == [facts_of_event(event) for event in counted]
    assert len({str(site) for site in sites}) == len(sites), "two sites have one name"
    row.sites = len(counted)
    row.owners = sorted({owner_name(model, site) for site in seen})
    row.hard = sorted({owner_name(model, site) for site in hard_among(model, seen)})
    return seen, counted


def erase_and_undo(
    model: nn.Module, example: Any, sites: Sites, picked: list[Site], before: list[torch.Tensor], counted: list[Event]
) -> bool:
    """Erase these calls, compare with the oracle, undo; False if the library refuses, leaving the model unchanged."""
    seen = list(sites.where(modes="eval"))
    gone = {seen.index(site) for site in picked}
    wanted, kept = oracle.output_without(model, example, gone)
    assert_finite(before, wanted)
    assert len(kept) == len(counted) - len(gone), "the oracle's model calls its activations depending on numbers"
    frame = frame_of(model)
    plan = surgery.make_plan(sites, surgery.erase(site=tuple(str(site) for site in picked)))
    what = str(picked[0]) if len(picked) == 1 else f"{len(picked)} sites"
    try:
        surgery.apply_plan(model, plan)
    except CannotEdit as refusal:
        named = [site.path in str(refusal) or site.owner_kind in str(refusal) for site in picked]
        assert any(named), f"the refusal does not say which call it means: {refusal}"
        assert frame_of(model) == frame, "a refusal left a trace"
        return False
    assert [facts_of_event(event) for event in count(model, example)] == [facts_of_event(event) for event in kept], what
    assert_bit_equal(oracle.output(model, example), wanted, what=f"output without {what}")
    surgery.undo(model)
    assert frame_of(model) == frame, "undo did not restore classes, names or modes"
    assert_bit_equal(oracle.output(model, example), before, what="output after undo")
    return True


def assert_finite(before: list[torch.Tensor], wanted: list[torch.Tensor]) -> None:
    """Overflow proves nothing. Values that are infinite by design, such as scores of padding, stay so."""
    for old, new in zip(before, wanted, strict=True):
        assert not old.isnan().any() and not new.isnan().any(), "numbers overflow"
        # A detector may find more, or less, without some of its calls.
        assert old.shape != new.shape or torch.equal(old.isfinite(), new.isfinite()), "numbers overflow"


def hard_among(model: nn.Module, seen: list[Site]) -> list[Site]:
    """The calls for which replacing a module is not enough: functional ones, and those of shared modules."""
    called = [None if site.module is None else id(model.get_submodule(site.module)) for site in seen]
    times = Counter(called)
    return [site for site, path in zip(seen, called, strict=True) if path is None or times[path] > 1]


def sample(name: str, model: nn.Module, sites: list[Site], every_owner: bool) -> list[Site]:
    """One of the sites, or one per owner class; which one follows from the model's name alone."""
    groups: dict[str, list[Site]] = {}
    for site in sites:
        groups.setdefault(owner_name(model, site) if every_owner else "", []).append(site)
    return [group[zlib.crc32(f"{name} {owner}".encode()) % len(group)] for owner, group in groups.items()]


def same_place(seen: list[Site], site: Site) -> list[Site]:
    """The calls that the same code makes in all runs of the owner: they can only be edited together."""
    return [other for other in seen if other.key[:-1] == site.key[:-1]]


def frame_of(model: nn.Module) -> list[tuple[str, int, type[nn.Module], bool, list[str]]]:
    """Names, objects, classes, modes and attributes of all modules."""
    modules = model.named_modules(remove_duplicate=False)
    return [(path, id(module), type(module), module.training, list(vars(module))) for path, module in modules]


def facts_of(site: Site) -> tuple[str, tuple[int, ...], bool]:
    return (site.activation, site.shape, site.module is not None)


def facts_of_event(event: Event) -> tuple[str, tuple[int, ...], bool]:
    return (event.activation, event.shape, event.module is not None)


def owner_name(model: nn.Module, site: Site) -> str:
    """The class whose code holds the call, with its file: "torchvision.models.resnet.BasicBlock"."""
    kind = type(model.get_submodule(site.owner))
    return f"{kind.__module__}.{kind.__qualname__}"
