"""Draw: the file that is written, and what is refused before anything is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

import pruning
import surgery
from surgery.errors import BadValue, UnknownName
from tests.asserts import assert_raises
from tests.models import ResidualNet
from tests.surgery.drawing.networks import REAL
from tests.surgery.drawing.reading import read


def test_the_page_is_written_with_its_title(tmp_path: Path) -> None:
    made = surgery.draw(ResidualNet(), tmp_path / "new" / "net.html", example=ResidualNet.example, title="My <net>")
    root = read(made.read_text(encoding="utf-8"))
    assert made == tmp_path / "new" / "net.html" and root.one(tag="h1").text == "My <net>"
    assert root.one(tag="title").text == "My <net>: activations"


def test_values_are_drawn(tmp_path: Path) -> None:
    sites = surgery.find_sites(ResidualNet(), ResidualNet.example)
    made = surgery.draw(sites, tmp_path / "net.html", values={sites[1]: 0.5}, values_name="dead")
    assert "dead, at most 0.5" in [item.text for item in read(made.read_text("utf-8")).one(kind="legend").all(tag="li")]


def test_values_of_an_edited_model_are_drawn_on_what_it_is(tmp_path: Path) -> None:
    edited, _ = surgery.transform(ResidualNet(), surgery.erase_relu(), ResidualNet.example)
    rates = pruning.dead_neurons(edited, [ResidualNet.example])
    made = surgery.draw(edited, tmp_path / "net.html", example=ResidualNet.example, values=rates)
    assert read(made.read_text("utf-8")).one(kind="lead").text == "3 activation calls in 2 blocks"


def test_nothing_is_written_if_something_is_wrong(tmp_path: Path) -> None:
    sites = surgery.find_sites(ResidualNet(), ResidualNet.example)
    assert_raises(BadValue, lambda: surgery.draw(sites, tmp_path / "net.svg"), "drawn as HTML")
    assert_raises(UnknownName, lambda: surgery.draw(sites, tmp_path / "net.html", values={"rel": 1.0}), "relu")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("build", "counts"), REAL)
def test_real_networks_fit_on_a_page(
    build: Callable[[], nn.Module], counts: tuple[int, int, int], tmp_path: Path
) -> None:
    calls, blocks, stages = counts
    made = surgery.draw(build(), tmp_path / "net.html")
    root = read(made.read_text(encoding="utf-8"))
    assert root.one(kind="lead").text == f"{calls} activation calls in {blocks} blocks"
    assert len(root.all(role="gridcell")) == calls and len(root.all(role="rowgroup")) == stages
    assert made.stat().st_size < 300_000
