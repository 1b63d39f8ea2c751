"""Optional packages: an incompatible torch and torchvision give one sentence instead of a stack trace."""

import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from recipes.optional import check_torchvision, missing
from surgery.errors import SurgeryError

Broken = Callable[[str], None]


@pytest.fixture
def torchvision_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Broken:
    """Replaces torchvision by other source code."""

    def replaced(source: str) -> None:
        (tmp_path / "torchvision.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            monkeypatch.delitem(sys.modules, name)

    return replaced


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
def test_a_broken_pair_gets_one_sentence(torchvision_is: Broken, tmp_path: Path, source: str, says: str) -> None:
    torchvision_is(source)
    with pytest.raises(SurgeryError) as caught:
        check_torchvision()
    printed = "".join(traceback.format_exception(caught.value))
    assert f"surgery.errors.SurgeryError: {says}\n  got:       torch " in printed
    assert "pip install --upgrade torch torchvision" in printed
    assert str(tmp_path) not in printed, "the traceback leads through torchvision"


def test_other_errors_are_not_hidden(torchvision_is: Broken) -> None:
    torchvision_is("1 / 0")
    with pytest.raises(ZeroDivisionError):
        check_torchvision()


def test_importing_recipes_costs_no_torchvision() -> None:
    code = "import sys, recipes; assert not {'torch', 'torchvision', 'timm'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_missing_package_is_named_with_its_extra() -> None:
    error = missing("Digits are part of", "scikit-learn", "demo")
    assert str(error).startswith("Digits are part of scikit-learn, which is not installed.")
    assert 'pip install "activation-surgery[demo]"' in str(error)
