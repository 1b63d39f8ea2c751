"""The plot: its curves contain the numbers of the log, and errors are clear."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from recipes.log import plot as plot_module
from recipes.log.csv_log import LOG, Log, Row
from recipes.log.plot import CURVES, compared, drawn, plot
from surgery import BadFile, BadValue, SurgeryError
from tests.asserts import assert_raises

ROWS = (
    Row("fit", 0, 2.0, 0.25, 0.1, 100.0),
    Row("fit", 1, 1.0, None, 0.1, 100.0),
    Row("round 1", 0, 1.5, 0.5, 0.1, 100.0, 0.8),
    Row("round 2", 0, 1.25, 0.75, 0.1, 100.0, 0.64),
)


def logged(folder: Path, rows: tuple[Row, ...] = ROWS) -> Path:
    log = Log(folder / LOG)
    log.begin("fit")
    for row in rows:
        log.append(row)
    return folder


def test_it_draws_into_the_folder_of_the_run(tmp_path: Path) -> None:
    assert plot(logged(tmp_path)) == tmp_path / CURVES
    assert (tmp_path / CURVES).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("name", "start"), [("a.svg", b"<?xml"), ("new/a.PDF", b"%PDF")])
def test_it_draws_into_another_file(tmp_path: Path, name: str, start: bytes) -> None:
    made = plot(str(logged(tmp_path)), str(tmp_path / name))
    assert made == tmp_path / name and made.read_bytes().startswith(start)
    assert not (tmp_path / CURVES).exists()


def test_the_curves_are_the_numbers_of_the_log() -> None:
    curves = {axes.get_ylabel(): axes.lines[0].get_xydata().tolist() for axes in drawn(ROWS).axes}
    assert curves == {
        "loss": [[1, 2.0], [2, 1.0], [3, 1.5], [4, 1.25]],
        "top-1 accuracy": [[1, 0.25], [3, 0.5], [4, 0.75]],
        "density": [[3, 0.8], [4, 0.64]],
    }


def test_what_was_never_taken_has_no_panel() -> None:
    assert [axes.get_ylabel() for axes in drawn(ROWS[:2]).axes] == ["loss", "top-1 accuracy"]
    assert [axes.get_ylabel() for axes in drawn((Row("fit", 0),)).axes] == ["loss"]


def test_phases_are_named_and_every_other_one_is_shaded() -> None:
    first, *others = drawn(ROWS).axes
    assert [text.get_text() for text in first.texts] == ["fit", "round 1", "round 2"]
    assert [(patch.get_x(), patch.get_width()) for patch in first.patches] == [(2.5, 1.0)]
    assert [len(axes.patches) for axes in others] == [1, 1]
    (alone, _) = drawn(ROWS[:2]).axes
    assert not alone.texts and not alone.patches


def test_the_cuts_of_pruning_are_marked() -> None:
    for axes in drawn(ROWS).axes:
        assert [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "--"] == [2.5, 3.5]


def test_a_finished_run_has_a_title_and_its_accuracy_before(tmp_path: Path) -> None:
    outcome = {"model": "cifar/resnet20", "recipe": "resnet-prune", "data": "digits", "before": {"accuracy": 0.9}}
    (logged(tmp_path) / "result.json").write_text(json.dumps(outcome), encoding="utf-8")
    facts = plot_module._facts(tmp_path)
    figure = drawn(ROWS, **facts)
    assert figure.get_suptitle() == "resnet-prune on cifar/resnet20 with digits"
    assert [line.get_ydata()[0] for line in figure.axes[1].lines if line.get_linestyle() == ":"] == [0.9]
    (tmp_path / "result.json").write_text("{}", encoding="utf-8")
    assert_raises(BadFile, lambda: plot(tmp_path), "not the outcome of a run")


def test_several_runs_are_drawn_over_each_other(tmp_path: Path) -> None:
    folders = [logged(tmp_path / "a"), logged(tmp_path / "b", ROWS[:2])]
    assert plot(folders) == folders[0] / CURVES
    figure = compared({"a": ROWS, "b": ROWS[:2]})
    loss, top1, density = figure.axes
    assert [line.get_xydata().tolist() for line in loss.lines] == [[[1, 2.0], [2, 1.0], [3, 1.5], [4, 1.25]],
                                                                   [[1, 2.0], [2, 1.0]]]  # fmt: skip
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["a", "b"]
    assert [len(axes.lines) for axes in (top1, density)] == [2, 2] and not loss.patches
    assert_raises(BadValue, lambda: plot([]), "nothing to draw")


def test_names_that_would_cover_each_other_stand_upright() -> None:
    many = tuple(Row(f"round {k}", 0, 1.0) for k in range(20))
    for rows, angle in ((ROWS, 0), (many, 90)):
        assert {text.get_rotation() for text in drawn(rows).axes[0].texts} == {angle}


def test_a_run_that_was_killed_is_drawn_up_to_its_last_whole_row(tmp_path: Path) -> None:
    file = logged(tmp_path) / LOG
    file.write_bytes(file.read_bytes()[:-3])
    plot(tmp_path)
    assert (tmp_path / CURVES).is_file()


@pytest.mark.parametrize("made", [False, True])
def test_a_folder_without_an_epoch_has_nothing_to_draw(tmp_path: Path, made: bool) -> None:
    if made:
        logged(tmp_path, ())
    assert_raises(BadFile, lambda: plot(tmp_path), "nothing to draw", "without an epoch" if made else f"no {LOG}")
    assert not (tmp_path / CURVES).exists()


def test_a_format_that_is_not_drawn_is_refused(tmp_path: Path) -> None:
    assert_raises(BadValue, lambda: plot(logged(tmp_path), tmp_path / "curves.txt"), "curves.txt", ".svg")


def test_without_matplotlib_it_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    assert_raises(SurgeryError, lambda: plot(logged(tmp_path)), "matplotlib", "activation-surgery[plot]")
