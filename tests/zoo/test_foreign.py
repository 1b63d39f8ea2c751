"""Networks of other libraries: calls against an independent count, edits against an oracle."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import surgery
from surgery.activations.catalogue import ROWS
from surgery.look.site import Sites
from tests.asserts import assert_bit_equal
from tests.models import randomise
from tests.zoo import foreign, oracle
from tests.zoo.counting import count
from tests.zoo.edits import checked, erase_and_undo, frame_of, hard_among, owner_name, same_place, sample
from tests.zoo.ledger import Row, is_partial, ledger_of, row_in, wait_for

pytestmark = [
    pytest.mark.foreign,
    # Their own warnings (deprecated names, tokens that no text of ours has) do not concern this sweep; ours do.
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.filterwarnings("error:::surgery"),
]

NAMES = {"calls": foreign.names(), "edits": foreign.edited()}

# Spelt out in more than one way, by them and by us: the same but for rounding.
ROUNDED = ("gelu", "gelu_tanh", "mish", "npwlu", "quick_gelu", "swish")


@pytest.fixture(scope="session")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ledger_of(tmp_path_factory, "foreign")


@pytest.mark.parametrize("name", NAMES["calls"])
def test_calls(name: str, ledger: Path) -> None:
    """The calls found are those counted, in both modes, before the first forward and after it."""
    with swept(ledger, name, "calls") as row:
        model, example = with_numbers(name)
        fresh = surgery.find_sites(model, example)
        assert fresh.unseen == (), "not seen in both modes"
        checked(fresh, model, example, row)
        again = surgery.find_sites(model, example)
        if name in foreign.REMEMBERING:
            assert {site.key for site in again} < {site.key for site in fresh}, "it remembers nothing any more"
            return
        assert list(again) == list(fresh), "a model that has run shows other calls"
        trained = count(model, example, training=True)
        seen = [(site.activation, site.module is not None) for site in fresh.where(modes="train")]
        assert seen == [(event.activation, event.module is not None) for event in trained], "in train mode"
        after = surgery.find_sites(model, example)  # how many proposals there are depends on the statistics of norms
        assert [site.key for site in after] == [site.key for site in fresh], (
            "a model that was trained shows other calls"
        )


@pytest.mark.parametrize("name", NAMES["edits"])
def test_edits(name: str, ledger: Path, tmp_path: Path) -> None:
    """Swap every call for an equal function, save and load every second one, undo; then erase one call, and undo."""
    with swept(ledger, name, "edits") as row:
        model, example = with_numbers(name)
        sites = surgery.find_sites(model, example)
        seen, counted = checked(sites, model, example, row)
        before, frame = oracle.output(model, example), frame_of(model)
        if not seen:
            return
        edits = surgery.transform_(model, exchanges(name, sites), example, skip_uneditable=True).plan.edits
        left = set(sites) - {edit.site for edit in edits}
        row.refused = sorted(owner_name(model, site) for site in left)
        assert set(row.refused) <= set(foreign.LEFT_ALONE), "calls were left alone that could be edited"
        row.swapped = dict(Counter(f"{edit.site.activation} -> {edit.make}" for edit in edits))
        after = oracle.output(model, example)
        if any(edit.make in ROUNDED for edit in edits):
            for ours, theirs in zip(after, before, strict=True):
                # Every layer passes on the rounding errors of its whole input: small outputs have those of large ones.
                unit = max(1.0, theirs.double().nan_to_num(0.0, 0.0, 0.0).abs().max().item())
                torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5 * unit, equal_nan=True)
        else:
            assert_bit_equal(after, before, "output with other activations that compute the same")
        if foreign.is_saved(name):
            surgery.save(model, tmp_path)
            loaded = surgery.load(tmp_path, model=foreign.build(name).eval())
            assert_bit_equal(oracle.output(loaded, example), after, "output of what was saved and loaded")
            row.saved = True
        surgery.undo(model)
        assert frame_of(model) == frame, "undo did not restore classes, names or modes"
        assert_bit_equal(oracle.output(model, example), before, "output after undo")
        free = [site for site in seen if site not in left]
        [site] = sample(
            name, model, [site for site in hard_among(model, seen) if site in free] or free, every_owner=False
        )
        assert erase_and_undo(model, example, sites, same_place(seen, site), before, counted)
        row.erased = [owner_name(model, site)]


@contextmanager
def swept(ledger: Path, name: str, what: str) -> Iterator[Row]:
    """A row of the ledger to fill in; what is refused must be refused as the tables say."""
    refused = foreign.UNBUILT.get(name) or (foreign.UNSEEN | (foreign.UNEDITED if what == "edits" else {})).get(name)
    with row_in(ledger, name, what) as row:
        if refused is None:
            yield row
        else:
            with pytest.raises(refused.error, match=refused.message):
                yield row
        row.outcome = "swept" if refused is None else "excluded"


def with_numbers(name: str) -> tuple[nn.Module, Any]:
    """A small model in eval mode, with random gains and statistics, and an example for it."""
    torch.manual_seed(0)
    model = randomise(foreign.build(name)).eval()
    return model, foreign.example(name, model)


def exchanges(name: str, sites: Sites) -> list[surgery.Rule]:
    """An equal function for each activation of the model: a learned one with equal initial values, or itself."""
    rules = []
    for activation in sorted({site.activation for site in sites}):
        equal = [row.name for row in ROWS if activation in row.begins] or [activation]
        to = equal[zlib.crc32(f"{name} {activation}".encode()) % len(equal)]
        rules.append(surgery.swap(to, activation=activation, role="*", optional=True))
    return rules


def test_totals(request: pytest.FixtureRequest, ledger: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The totals of the sweep. It is collected last, and waits for the tests of other workers."""
    wanted = {(what, name) for what, names in NAMES.items() for name in names}
    if is_partial(request, wanted):
        pytest.skip("a partial run has no totals")
    rows = wait_for(ledger, wanted)
    calls, edits = ([row for row in rows if row["what"] == what and row["outcome"] == "swept"] for what in NAMES)
    swapped: Counter[str] = Counter()
    for row in edits:
        swapped.update(row["swapped"])
    totals = {
        f"models of {library}": sum(row["name"].startswith(library) for row in calls) for library in foreign.LIBRARIES
    }
    totals |= {
        "sites": sum(row["sites"] for row in calls),
        "models edited": len(edits),
        "models saved": sum(row["saved"] for row in edits),
        "sites exchanged": swapped.total(),
        "kinds of exchanges": len(swapped),
        "sites left alone": sum(len(row["refused"]) for row in edits),
        "owner classes erased": len({owner for row in edits for owner in row["erased"]}),
        "excluded": sum(row["outcome"] == "excluded" for row in rows),
        "failed": sum(row["outcome"] == "failed" for row in rows),
    }
    minutes = sum(row["seconds"] for row in rows) / 60
    with capfd.disabled():
        print("", *(f"{number:>8,} {what}" for what, number in totals.items()), f"{minutes:8.1f} minutes", sep="\n")
        print(*(f"{number:>8,} {what}" for what, number in sorted(swapped.items())), sep="\n")
    assert totals["failed"] == 0
    short = {what: (totals[what], least) for what, least in foreign.AT_LEAST.items() if totals[what] < least}
    assert not short, f"swept less than before (now, before): {short}"
    assert {owner for row in edits for owner in row["refused"]} == set(foreign.LEFT_ALONE), "not what the table says"
    unknown = {*foreign.UNBUILT, *foreign.UNSEEN, *foreign.UNEDITED, *foreign.REMEMBERING} - set(NAMES["calls"])
    assert not unknown, "the tables name networks that are not there"
