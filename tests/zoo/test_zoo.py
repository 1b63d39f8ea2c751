"""Every model of torchvision and timm: found calls against an independent count, one call erased, and undone."""

from __future__ import annotations

import json
import os
import sys
import time
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import surgery
from surgery.errors import CannotEdit, NotProved
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
    """What the sweep saw of one model: one line of the ledger."""

    name: str
    outcome: str = "failed"
    numbers: bool = False
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


@pytest.mark.parametrize("name", NAMES)
def test_model(name: str, ledger: Path) -> None:
    row, start = Row(name), time.perf_counter()
    try:
        if name in catalogue.EXCLUDED:
            expected = catalogue.EXCLUDED[name]
            with pytest.raises(expected.error, match=expected.message):
                sweep(name, row)
            row.outcome = "excluded"
        else:
            sweep(name, row)
            row.outcome = "swept"
    finally:
        row.seconds = round(time.perf_counter() - start, 2)
        with ledger.open("a") as file:
            file.write(json.dumps(asdict(row)) + "\n")


def sweep(name: str, row: Row) -> None:
    """Look, count, erase one call (of every owner class that needs a rewrite, where there are numbers), undo."""
    model, example, given = prepared(name)
    row.numbers = numbers = name in catalogue.REPRESENTATIVES
    sites, counted = surgery.find_sites(model, given), count(model, example)
    seen = sites.where(modes="eval")
    assert [facts_of(site) for site in seen] == [facts_of_event(event) for event in counted]
    assert len({str(site) for site in sites}) == len(sites)
    row.sites = len(counted)
    row.owners = sorted({owner_name(model, site) for site in seen})
    hard = [site for site in seen if needs_rewrite(model, seen, site)]
    row.hard = sorted({owner_name(model, site) for site in hard})
    for site in sample(name, model, hard or list(seen), every_owner=numbers and bool(hard)):
        erased = erase_and_undo(model, example, sites, site, list(seen).index(site), counted, numbers)
        (row.erased if erased else row.refused).append(owner_name(model, site))


def prepared(name: str) -> tuple[nn.Module, Any, Any]:
    """The model in eval mode, an example to count on, and the one to give to the library (None: its default).

    Representatives and detectors have numbers, all others are on the meta device.
    """
    small = catalogue.REPRESENTATIVES.get(name)
    if small is None and not catalogue.is_detector(name):
        model = catalogue.build_on_meta(name)
        with torch.device("meta"):
            example = catalogue.example(name, model)
        return model.eval(), example, None if catalogue.has_default_example(name) else example
    torch.manual_seed(0)
    model = randomise(catalogue.build(name, **(small.kwargs if small else {})))
    example = catalogue.example(name, model, small.size if small else None)
    return model.eval(), example, example


def facts_of(site: Site) -> tuple[str, tuple[int, ...], bool]:
    return (site.activation, site.shape, site.module is not None)


def facts_of_event(event: Event) -> tuple[str, tuple[int, ...], bool]:
    return (event.activation, event.shape, event.module is not None)


def owner_name(model: nn.Module, site: Site) -> str:
    """The class whose code holds the call, with its file: "torchvision.models.resnet.BasicBlock"."""
    kind = type(model.get_submodule(site.owner))
    return f"{kind.__module__}.{kind.__qualname__}"


def needs_rewrite(model: nn.Module, sites: Sites, site: Site) -> bool:
    """True where swapping one module is not enough: a functional call, or a module that is called again."""
    if site.module is None:
        return True
    called = model.get_submodule(site.module)
    return sum(one.module is not None and model.get_submodule(one.module) is called for one in sites) > 1


def sample(name: str, model: nn.Module, sites: list[Site], every_owner: bool) -> list[Site]:
    """One of the sites, or one per owner class; which one follows from the model's name alone."""
    groups: dict[str, list[Site]] = {}
    for site in sites:
        groups.setdefault(owner_name(model, site) if every_owner else "", []).append(site)
    return [group[zlib.crc32(f"{name} {owner}".encode()) % len(group)] for owner, group in groups.items()]


def erase_and_undo(
    model: nn.Module, example: Any, sites: Sites, site: Site, place: int, counted: list[Event], numbers: bool
) -> bool:
    """Erase the call at `place`, compare with the oracle, undo; False where the library refuses by name."""
    kept = counted[:place] + counted[place + 1 :]
    if numbers:
        before = oracle.output(model, example)
        wanted, kept = oracle.output_without(model, example, place)
    frame = frame_of(model)
    plan = surgery.make_plan(sites, surgery.erase(site=str(site)))
    try:
        surgery.apply_plan(model, plan)
    except (CannotEdit, NotProved) as refusal:
        assert site.path in str(refusal) or owner_name(model, site).rsplit(".")[-1] in str(refusal), str(refusal)
        assert frame_of(model) == frame, "a refusal left a trace"
        return False
    events = count(model, example)
    assert [facts_of_event(event) for event in events] == [facts_of_event(event) for event in kept], str(site)
    if numbers:
        assert_bit_equal(oracle.output(model, example), wanted, what=f"output without {site}")
    surgery.undo(model)
    assert frame_of(model) == frame, "undo did not restore classes, names or modes"
    if numbers:
        assert_bit_equal(oracle.output(model, example), before, what="output after undo")
    return True


def frame_of(model: nn.Module) -> list[tuple[str, int, type[nn.Module], bool, list[str]]]:
    """Names, objects, classes, modes and attributes of all modules."""
    modules = model.named_modules(remove_duplicate=False)
    return [(path, id(one), type(one), one.training, list(vars(one))) for path, one in modules]


def test_totals(request: pytest.FixtureRequest, ledger: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """How much was swept. It is collected last, so it only waits for what other workers have in hand."""
    wanted = {item.callspec.params["name"] for item in request.session.items if hasattr(item, "callspec")}
    if not wanted >= set(NAMES):
        pytest.skip("a partial run has no totals")
    rows = wait_for(ledger, set(NAMES))
    swept = [row for row in rows.values() if row["outcome"] == "swept"]
    totals = {
        "models": len(swept),
        "excluded": sum(row["outcome"] == "excluded" for row in rows.values()),
        "failed": sum(row["outcome"] == "failed" for row in rows.values()),
        "models with numbers": sum(row["numbers"] for row in swept),
        "sites": sum(row["sites"] for row in swept),
        "owner classes": len({owner for row in swept for owner in row["owners"]}),
        "owner classes that need a rewrite": len({owner for row in swept for owner in row["hard"]}),
        "sites erased": sum(len(row["erased"]) for row in swept),
        "sites refused": sum(len(row["refused"]) for row in swept),
        "minutes": round(sum(row["seconds"] for row in rows.values()) / 60, 1),
    }
    with capfd.disabled():
        print("", *(f"{what:>36} {number}" for what, number in totals.items()), sep="\n", file=sys.stderr)
    assert totals["failed"] == 0
    assert totals["excluded"] == len(catalogue.EXCLUDED)
    short = {what: (totals[what], least) for what, least in catalogue.AT_LEAST.items() if totals[what] < least}
    assert not short, f"swept less than before (now, before): {short}"

    hard = {owner for row in swept for owner in row["hard"]}
    proved = {owner for row in swept if row["numbers"] for owner in row["erased"]}
    refused = {owner for row in swept for owner in row["refused"]}
    assert refused <= set(catalogue.REFUSED_OWNERS), "refused, and not in the catalogue's table"
    unproved = hard - proved - set(catalogue.REFUSED_OWNERS)
    assert not unproved, "no call of these owner classes was erased with numbers; add a representative"


def wait_for(ledger: Path, names: set[str]) -> dict[str, dict[str, Any]]:
    """The rows of the ledger by model name, once there is one for every name."""
    end = time.monotonic() + WAIT_S
    while True:
        lines = ledger.read_text().splitlines() if ledger.exists() else []
        rows = {row["name"]: row for row in map(json.loads, lines)}
        if names <= set(rows):
            return rows
        assert time.monotonic() < end, f"no result for {sorted(names - set(rows))[:5]}"
        time.sleep(1.0)
