"""Deploy on the command line: it writes what agrees, and fails where the target is wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import surgery
from recipes import cli
from surgery.deploy.runtimes import TARGETS
from tests.recipes.cli.commands import ERASE, SMALL, refused_after
from tests.surgery.deploy.memory import MEMORY, lacking, wrong


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A target without a runtime replaces onnxruntime."""
    monkeypatch.setitem(TARGETS, "onnxruntime", MEMORY)


DEPLOY = ("deploy", *SMALL, *ERASE, "--target", "onnxruntime")


@pytest.mark.slow
def test_deploy_writes_what_agrees(memory: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*DEPLOY, "--output", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "agrees with torch" in out and out.endswith(f"written to {tmp_path / 'out'}\n")
    assert (tmp_path / "out" / "deploy.json").is_file()


@pytest.mark.slow
def test_deploy_fails_where_the_target_is_wrong(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(TARGETS, "onnxruntime", wrong("linear.default", lambda y: y + 1))
    assert cli.main([*DEPLOY, "--json", "--output", str(tmp_path / "out")]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["ok"] is False and err.count("\n") == 1 and "agree with torch" in err
    assert not (tmp_path / "out").exists()


def test_deploy_keeps_what_it_cannot_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(TARGETS, "onnxruntime", replace(MEMORY, load=None, not_run="memory runs on the moon"))
    assert cli.main([*DEPLOY, "--output", str(tmp_path / "out")]) == 2
    out, err = capsys.readouterr()
    assert out.endswith(f"written to {tmp_path / 'out'}\n") and (tmp_path / "out" / "deploy.json").is_file()
    assert "cannot run timm/test_resnet here; got: memory runs on the moon" in err and "agree" not in err


@pytest.mark.slow
def test_deploy_fails_where_the_target_lacks_a_function(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(TARGETS, "onnxruntime", lacking("relu"))
    assert "memory does not have relu" in refused_after(capsys, *DEPLOY)


def test_the_targets_are_those_of_the_library() -> None:
    assert [target.name for target in surgery.deploy.targets()] == list(cli.deploy.TARGETS)
