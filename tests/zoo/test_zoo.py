"""Every model of torchvision and timm: found calls against an independent count; edits against an oracle; undo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import surgery
from surgery.look.site import Site
from tests.asserts import assert_bit_equal
from tests.models import randomise
from tests.zoo import catalogue, oracle
from tests.zoo.edits import checked, erase_and_undo, hard_among, owner_name, same_place, sample
from tests.zoo.ledger import Row, is_partial, ledger_of, row_in, wait_for

pytestmark = [
    pytest.mark.zoo,
    # The zoos' own warnings (deprecated names, meshgrid, ...) do not concern this sweep; ours do.
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.filterwarnings("error:::surgery"),
]

NAMES = catalogue.names()


@pytest.fixture(scope="session")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ledger_of(tmp_path_factory, "zoo")


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
    """Swap every ReLU for an FReLU, which changes nothing, and every nonlinearity for a PWLU; and undo."""
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
            assert [other.shape for other in after] == [other.shape for other in before]
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


# -- calls, on every model --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_calls(name: str, ledger: Path) -> None:
    """The library finds the same calls as the independent count: number, order and shapes."""
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


# -- totals -----------------------------------------------------------------------------------------------------------


def test_totals(request: pytest.FixtureRequest, ledger: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The totals of the sweep. It is collected last, and waits for the tests of other workers."""
    wanted = {("calls", name) for name in NAMES}
    wanted |= {(what, name) for name in catalogue.REPRESENTATIVES for what in ("edits", "swaps")}
    if is_partial(request, wanted):
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
