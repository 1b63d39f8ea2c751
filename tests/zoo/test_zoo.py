"""Every model of torchvision and timm: found calls against an independent count; edits against an oracle; undo."""

from __future__ import annotations

import json
import os
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import surgery
from surgery.errors import CannotEdit
from surgery.sites import Site, Sites
from tests.asserts import assert_bit_equal
from tests.models import randomise
from tests.zoo import catalogue, oracle
from tests.zoo.counting import Event, count

pytestmark = [
    pytest.mark.zoo,
    # The zoos' own warnings (deprecated names, meshgrid, ...) are no concern of this sweep; ours are.
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.filterwarnings("error:::surgery"),
]

NAMES = catalogue.names()
WAIT_S = 900.0


@dataclass
class Row:
    """What one test saw of one model: one line of the ledger. Owners are named by class, once per site."""

    name: str
    what: str
    outcome: str = "failed"
    sites: int = 0
    owners: list[str] = field(default_factory=list)
    hard: list[str] = field(default_factory=list)
    erased: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    seconds: float = 0.0


@pytest.fixture(scope="session")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that all workers of this run append their rows to."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "zoo.jsonl"


@contextmanager
def row_in(ledger: Path, name: str, what: str) -> Iterator[Row]:
    """A row to fill in; it is written down however the test ends."""
    row, start = Row(name, what), time.perf_counter()
    try:
        yield row
    finally:
        row.seconds = round(time.perf_counter() - start, 2)
        with ledger.open("a") as file:
            file.write(json.dumps(asdict(row)) + "\n")


# -- edits, on the representatives, with numbers ----------------------------------------------------------------------


@pytest.mark.parametrize("name", catalogue.REPRESENTATIVES)
def test_edits(name: str, ledger: Path) -> None:
    """Erase one call of every owner class that needs a rewrite, then all calls but the sigmoids, and undo."""
    with row_in(ledger, name, "edits") as row:
        model, example = with_numbers(name)
        sites = surgery.find_sites(model, example)
        seen, counted = checked(sites, model, example, row)
        before = oracle.output(model, example)
        hard = hard_among(model, seen)
        refused: set[Site] = set()
        for site in sample(name, model, hard or seen, every_owner=bool(hard)):
            picked = same_place(seen, site)
            erased = erase_and_undo(model, example, sites, picked, before, counted)
            (row.erased if erased else row.refused).append(owner_name(model, site))
            refused |= set() if erased else set(picked)
        # Gates that bound nothing any more make numbers overflow.
        picked = [site for site in seen if site not in refused and site.activation not in ("sigmoid", "hardsigmoid")]
        assert erase_and_undo(model, example, sites, picked, before, counted), "all calls together were refused"
        row.erased += [owner_name(model, site) for site in picked]
        row.outcome = "swept"


@pytest.mark.parametrize("name", catalogue.REPRESENTATIVES)
def test_swaps(name: str, ledger: Path) -> None:
    """Put an FReLU at every ReLU, which changes nothing, and a PWLU at every nonlinearity; and undo."""
    with row_in(ledger, name, "swaps") as row:
        model, example = with_numbers(name)
        before = oracle.output(model, example)
        free = {"locked": None, "optional": True}  # refusals are the matter of `test_edits`
        for rule in (surgery.swap("frelu", activation="relu", **free), surgery.swap("pwlu", **free)):
            report = surgery.transform_(model, rule, example)
            edits = report.plan.edits
            row.sites += len(edits)
            learned = [p for n, p in model.named_parameters() if n in report.added]
            assert {edit.site.channels for edit in edits} == {p.shape[-1] for p in learned}
            after = oracle.output(model, example)
            if rule.make == "frelu":
                assert_bit_equal(after, before, what="output with FReLUs for ReLUs")
            assert [one.shape for one in after] == [one.shape for one in before]
            if edits:
                surgery.undo(model)
        assert_bit_equal(oracle.output(model, example), before, what="output after undo")
        row.outcome = "swept"


def with_numbers(name: str) -> tuple[nn.Module, Any]:
    """A small model in eval mode, with random gains and statistics, and an example for it."""
    small = catalogue.REPRESENTATIVES[name]
    torch.manual_seed(0)
    model = randomise(catalogue.build(name, **small.kwargs)).eval()
    return model, catalogue.example(name, model, small.size)


def erase_and_undo(
    model: nn.Module, example: Any, sites: Sites, picked: list[Site], before: list[torch.Tensor], counted: list[Event]
) -> bool:
    """Erase these calls, compare with the oracle, undo; False where the library refuses, by name and untouched."""
    seen = list(sites.where(modes="eval"))
    gone = {seen.index(site) for site in picked}
    wanted, kept = oracle.output_without(model, example, gone)
    assert all(bool(one.isfinite().all()) for one in (*before, *wanted)), "numbers that overflow prove nothing"
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


def hard_among(model: nn.Module, seen: list[Site]) -> list[Site]:
    """The calls for which a new module in a slot is not enough: functional ones, and of modules called again."""
    called = [None if site.module is None else id(model.get_submodule(site.module)) for site in seen]
    times = Counter(called)
    return [site for site, one in zip(seen, called, strict=True) if one is None or times[one] > 1]


def sample(name: str, model: nn.Module, sites: list[Site], every_owner: bool) -> list[Site]:
    """One of the sites, or one per owner class; which one follows from the model's name alone."""
    groups: dict[str, list[Site]] = {}
    for site in sites:
        groups.setdefault(owner_name(model, site) if every_owner else "", []).append(site)
    return [group[zlib.crc32(f"{name} {owner}".encode()) % len(group)] for owner, group in groups.items()]


def same_place(seen: list[Site], site: Site) -> list[Site]:
    """The calls that the same code makes in all runs of the owner: they can only be edited together."""
    return [one for one in seen if one.key[:-1] == site.key[:-1]]


def frame_of(model: nn.Module) -> list[tuple[str, int, type[nn.Module], bool, list[str]]]:
    """Names, objects, classes, modes and attributes of all modules."""
    modules = model.named_modules(remove_duplicate=False)
    return [(path, id(one), type(one), one.training, list(vars(one))) for path, one in modules]


# -- calls, on every model --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_calls(name: str, ledger: Path) -> None:
    """The library finds the calls that the independent count finds: as many, in that order, on those shapes."""
    with row_in(ledger, name, "calls") as row:
        if name in catalogue.EXCLUDED:
            expected = catalogue.EXCLUDED[name]
            with pytest.raises(expected.error, match=expected.message):
                look(name, row)
            row.outcome = "excluded"
        else:
            look(name, row)
            row.outcome = "swept"


def look(name: str, row: Row) -> None:
    """Find and count; detectors have numbers, all others are on the meta device."""
    if catalogue.is_detector(name):
        torch.manual_seed(0)
        model = catalogue.build(name).eval()
        example = given = catalogue.example(name, model)
    else:
        model = catalogue.build_on_meta(name).eval()
        with torch.device("meta"):
            example = catalogue.example(name, model)
        given = None if catalogue.has_default_example(name) else example
    checked(surgery.find_sites(model, given), model, example, row)


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


def facts_of(site: Site) -> tuple[str, tuple[int, ...], bool]:
    return (site.activation, site.shape, site.module is not None)


def facts_of_event(event: Event) -> tuple[str, tuple[int, ...], bool]:
    return (event.activation, event.shape, event.module is not None)


def owner_name(model: nn.Module, site: Site) -> str:
    """The class whose code holds the call, with its file: "torchvision.models.resnet.BasicBlock"."""
    kind = type(model.get_submodule(site.owner))
    return f"{kind.__module__}.{kind.__qualname__}"


# -- totals -----------------------------------------------------------------------------------------------------------


def test_totals(request: pytest.FixtureRequest, ledger: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """How much was swept. It is collected last, so it only waits for what other workers have in hand."""
    wanted = {("calls", name) for name in NAMES}
    wanted |= {(what, name) for name in catalogue.REPRESENTATIVES for what in ("edits", "swaps")}
    items = [item for item in request.session.items if "name" in getattr(getattr(item, "callspec", None), "params", {})]
    if len(items) < len(wanted):
        pytest.skip("a partial run has no totals")
    rows = wait_for(ledger, wanted)
    calls = [row for row in rows if row["what"] == "calls" and row["outcome"] == "swept"]
    edits = [row for row in rows if row["what"] == "edits" and row["outcome"] == "swept"]
    swaps = [row for row in rows if row["what"] == "swaps" and row["outcome"] == "swept"]
    hard = {owner for row in calls for owner in row["hard"]}
    totals = {
        "models": len(calls),
        "sites": sum(row["sites"] for row in calls),
        "owner classes": len({owner for row in calls for owner in row["owners"]}),
        "owner classes that need a rewrite": len(hard),
        "models edited": len(edits),
        "sites erased": sum(len(row["erased"]) for row in edits),
        "models swapped": len(swaps),
        "sites swapped": sum(row["sites"] for row in swaps),
        "owner classes erased": len({owner for row in edits for owner in row["erased"]}),
        "sites refused": sum(len(row["refused"]) for row in edits),
        "excluded": sum(row["outcome"] == "excluded" for row in rows),
        "failed": sum(row["outcome"] == "failed" for row in rows),
    }
    minutes = sum(row["seconds"] for row in rows) / 60
    with capfd.disabled():
        print("", *(f"{number:>8,} {what}" for what, number in totals.items()), f"{minutes:8.1f} minutes", sep="\n")
    assert totals["failed"] == 0
    assert totals["excluded"] == len(catalogue.EXCLUDED)
    short = {what: (totals[what], least) for what, least in catalogue.AT_LEAST.items() if totals[what] < least}
    assert not short, f"swept less than before (now, before): {short}"

    refused = {owner for row in edits for owner in row["refused"]}
    assert refused == set(catalogue.REFUSED_OWNERS), "what is refused is not what the catalogue says"
    unproved = hard - {owner for row in edits for owner in row["erased"]} - refused
    assert not unproved, "no call of these owner classes was erased with numbers: add a representative"


def wait_for(ledger: Path, wanted: set[tuple[str, str]]) -> list[dict[str, Any]]:
    """The rows of the ledger, once there is one for every test."""
    end = time.monotonic() + WAIT_S
    while True:
        lines = ledger.read_text().splitlines() if ledger.exists() else []
        rows = {(row["what"], row["name"]): row for row in map(json.loads, lines)}
        if wanted <= set(rows):
            return list(rows.values())
        assert time.monotonic() < end, f"no result for {sorted(wanted - set(rows))[:5]}"
        time.sleep(1.0)
