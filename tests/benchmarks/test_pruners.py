"""Pruners: all of them cut the same trained network, exactly as much as asked for, and leave it as it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import pruning
from benchmarks.studies import pruners
from benchmarks.studies.jobs import Jobs, Protocol, Write
from benchmarks.studies.networks import Network, resnet
from recipes.data import open_data
from recipes.models.cifar_resnet import CifarResNet


class Shallow(Network):
    """A network like that of the study, of one block a stage."""

    def build(self, seed: int, *, fresh: bool) -> nn.Module:
        torch.manual_seed(seed)
        return CifarResNet(8)


NETWORK = Shallow("cifar/resnet8", resnet(20).trained, resnet(20).fresh)
TINY = Protocol("tiny", images=256, test_images=20, epochs=1, fresh_epochs=1, seeds=1)


@pytest.fixture(autouse=True)
def digits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The digits, which need no download, enlarged."""
    monkeypatch.setattr(pruners, "open_data", lambda *_, **counts: open_data("digits", size=12, **counts))
    pruners.trained.cache_clear()
    yield
    pruners.trained.cache_clear()


def test_every_base_pruner_of_the_library_is_an_arm() -> None:
    patterns = {"two_of_four", "one_of_four", "four_of_sixteen"}
    names = set(pruners.ARMS) - patterns
    assert {pruners.ARMS[name].make for name in names} == {getattr(pruning, name) for name in names}
    others = {"lowest", "n_of_m"}  # a criterion of one's own; a constraint
    assert names | others == {
        name
        for name in pruning.__all__
        if getattr(getattr(pruning, name), "__module__", "") == "pruning.pruners.pruners"
    }


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:256 images are few")
def test_they_cut_the_same_network_as_much_as_asked_for(tmp_path: Path) -> None:
    study = pruners.study(NETWORK)

    def do(arm: str, seed: int, write: Write) -> None:
        study.measure(study.arms[arm], seed, TINY, "cpu", write)

    jobs = Jobs(tmp_path / "pruners_tiny.csv")
    jobs.carry_out(["global_magnitude", "snip"], [0], do, "cpu")
    before = [weight.clone() for weight in pruners.trained(NETWORK, 0, TINY, "cpu")[0].model.parameters()]
    jobs.carry_out(["movement", "two_of_four"], [0], do, "cpu")
    after = pruners.trained(NETWORK, 0, TINY, "cpu")[0].model.parameters()
    assert all(map(torch.equal, before, after)), "a copy is cut"
    study.write_page(TINY, jobs)
    for name, rows in jobs.rows().items():
        figures = [row.figures for row in rows[0]]
        allowed = [each for each in figures if each["share"] <= study.arms[name].most]
        assert [round(each["density"], 2) for each in allowed] == [0.5, 0.3, 0.2, 0.1][: len(allowed)]
        assert len(allowed) == (1 if name == "two_of_four" else 4)
        assert len({each["whole"] for each in figures}) == 1
    assert (tmp_path / "pruners_tiny.md").read_text(encoding="utf-8").count("| snip |") == 3
    assert (tmp_path / "pruners_tiny.md").read_text(encoding="utf-8").count("| - | - | - | 1 |") == 3


def test_what_pruners_want_is_there() -> None:
    round_, batches = pruners.trained(NETWORK, 0, TINY, "cpu")
    moved = {name: (round_.now[name] - round_.before[name]).abs().sum() for name in round_.masks}
    assert min(moved.values()) > 0 and len(batches) == 2
    for found in (round_.gradients, round_.movement):
        assert list(found) == list(round_.masks) and all(bool(tensor.any()) for tensor in found.values())
