"""A broken torch/torchvision pair gets one sentence, not a stack trace deep in torchvision."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from recipes.optional import check_torchvision

CALL = "from recipes.optional import check_torchvision; check_torchvision()"


def test_a_working_pair_passes() -> None:
    assert check_torchvision() is None


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (
            'raise RuntimeError("operator torchvision::nms does not exist")',
            "torchvision does not work with this torch: operator torchvision::nms does not exist.",
        ),
        (
            'raise ImportError("libcudart.so.13: cannot open shared object file\\nmore")',
            "torchvision does not work with this torch: libcudart.so.13: cannot open shared object file.",
        ),
        ("import torchvision_part", "torchvision does not work with this torch: No module named 'torchvision_part'."),
        (
            "raise ModuleNotFoundError(\"No module named 'torchvision'\", name='torchvision')",
            "torchvision is not installed.",
        ),
    ],
)
def test_a_broken_pair_gets_one_sentence(tmp_path: Path, source: str, says: str) -> None:
    (tmp_path / "torchvision.py").write_text(source)
    done = run_python(CALL, before=tmp_path)
    assert done.returncode == 1
    assert f"surgery.errors.SurgeryError: {says}\n  got:       torch " in done.stderr
    assert "pip install --upgrade torch torchvision" in done.stderr
    assert str(tmp_path) not in done.stderr, "the traceback leads through torchvision"


def test_other_errors_are_not_hidden(tmp_path: Path) -> None:
    (tmp_path / "torchvision.py").write_text("1 / 0")
    assert "ZeroDivisionError" in run_python(CALL, before=tmp_path).stderr


def test_importing_recipes_costs_no_torchvision() -> None:
    done = run_python("import sys, recipes; assert not {'torch', 'torchvision', 'timm'} & set(sys.modules)")
    assert done.returncode == 0, done.stderr


def run_python(code: str, before: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A fresh Python that runs `code`, with the folder `before` first on its path."""
    path = os.pathsep.join(filter(None, [str(before) if before else "", os.environ["PYTHONPATH"]]))
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
