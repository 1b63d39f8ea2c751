"""Trainings on the command line: the demo gets its options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recipes import cli
from recipes.runs.folder import claim
from recipes.runs.outcome import Outcome


def test_the_demo_command_passes_its_options_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: dict[str, Any] = {}

    class Outcome:
        def facts(self) -> dict[str, float]:
            return {"trained": 0.5}

        def __str__(self) -> str:
            return "a table"

    def demo(output: str | None, **options: Any) -> Outcome:
        asked.update(options, output=output)
        options["say"]("working")
        return Outcome()

    monkeypatch.setattr("recipes.runs.demo.demo", demo)
    assert cli.main(["demo", "--model", "timm/test_resnet", "--epochs", "3", "--seed", "5"]) == 0
    assert capsys.readouterr() == ("working\na table\n", "")
    assert asked.pop("say")
    assert asked == {"output": None, "model": "timm/test_resnet", "epochs": 3, "finetune_epochs": 2, "seed": 5}
    assert cli.main(["demo", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"trained": 0.5} and err == "working\n"


@pytest.mark.parametrize("began", [True, False])
def test_an_interrupted_run_says_how_to_go_on(
    began: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(recipe: Any, model: str, data: str, output: str, **_: Any) -> None:
        if began:
            claim(Path(output), {"recipe": "none"})
        raise KeyboardInterrupt

    monkeypatch.setattr("recipes.runs.run.run", run)
    asked = ["finetune", "timm/test_resnet", "--data", "digits", "--output", str(tmp_path / "out")]
    assert cli.main(asked) == 130
    said = "surgery: interrupted; go on with the same command and --resume\n" if began else ""
    assert capsys.readouterr() == ("", said)
