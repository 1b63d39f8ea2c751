"""A small model and a rule for commands, and what a command says when it fails."""

from __future__ import annotations

from typing import Any

import pytest

from recipes import cli

SMALL = ("timm/test_resnet", "--shape", "2,3,32,32")


ERASE = ("--rule", "erase_relu")


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line on stderr of a command that must fail, without `surgery: `."""
    try:
        code: Any = cli.main(words)
    except SystemExit as stopped:
        code = stopped.code
    out, err = capsys.readouterr()
    assert code == 2 and out == ""
    assert err.startswith("surgery: ") and err.count("\n") == 1 and err.endswith("\n")
    return err.removeprefix("surgery: ").rstrip()


def refused_after(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line on stderr of a command that prints something before it fails."""
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    assert out and err.count("\n") == 1
    return err
