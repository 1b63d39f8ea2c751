"""Dead on the command line: what is printed, what is written, and what a dry run tells."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from recipes import cli
from tests.recipes.cli.commands import refused
from tests.surgery.drawing.reading import read

DIGITS = ("cifar/resnet20", "--data", "digits", "--images", "30", "--batch-size", "20", "--device", "cpu")


def test_numbers_plot_and_drawing_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["dead", *DIGITS, "--output", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "dead neurons 2/2" in out and "30 samples" in out and out.endswith(f"saved in {tmp_path / 'out'}\n")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"dead.json", "dead.png", "network.html"}
    found = json.loads((tmp_path / "out" / "dead.json").read_text())
    assert found["samples"] == 30 and len(found["rows"]) == 19
    root = read((tmp_path / "out" / "network.html").read_text(encoding="utf-8"))
    assert root.one(tag="h1").text == "cifar/resnet20"
    drawn = {head.text: row.children[-1].text for row in root.all(tag="tr") for head in row.all(scope="row")}
    assert drawn == {row["site"]: f"{row['dynamic'] / row['channels']:.4g}" for row in found["rows"]}
    assert "is not empty" in refused(capsys, "dead", *DIGITS, "--output", str(tmp_path / "out"))


def test_json_is_all_that_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["dead", *DIGITS, "--threshold", "0.5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["threshold"] == 0.5


def test_a_dry_run_says_what_would_be_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["dead", *DIGITS, "--output", str(tmp_path / "out"), "--dry-run"]) == 0
    calls, images, files = capsys.readouterr().out.splitlines()
    assert calls == "19 calls, 688 channels of cifar/resnet20"
    assert images.startswith("30 test images of digits in 2 steps: about ") and images.endswith(" s on cpu")
    assert files == f"writes dead.json, dead.png and network.html in {tmp_path / 'out'}"
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_there_is_no_plot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert cli.main(["dead", *DIGITS, "--output", str(tmp_path / "out")]) == 0
    assert "no dead.png: Plotting needs matplotlib" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"dead.json", "network.html"}
