"""Trainings on the command line: the demo gets its options."""

from __future__ import annotations

import json
from typing import Any

import pytest

from recipes import cli
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
