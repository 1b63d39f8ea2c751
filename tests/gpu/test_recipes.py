"""On a GPU: a run in mixed precision, channels last, compiled, with an average, loads bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import pruning
import recipes
import surgery
from recipes.format.recipe import Finetune, Pruning, Recipe

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore:.* images are few for calibration statistics")]

FAST = Finetune(epochs=1, batch_size=32, amp=True, channels_last=True, model_ema=True, recalibrate=2)
RECIPE = Recipe(
    "gpu", (surgery.erase_relu(fade=True), surgery.swap("pwlu", remaining=True)),
    pruning=Pruning(share=0.2, rounds=1, ap_share=0.02), finetune=FAST,
)  # fmt: skip


@pytest.mark.parametrize("change", [{}, {"amp_dtype": "float16", "clip_grad": 1.0}, {"torchcompile": True}])
def test_a_run_is_kept(change: dict[str, object], tmp_path: Path) -> None:
    recipe = replace(RECIPE, finetune=replace(FAST, **change))
    outcome = recipes.run(recipe, "timm/test_resnet", "digits", tmp_path, device="cuda", train_num_samples=256)
    model = recipes.load_model(tmp_path)
    assert pruning.Masks.of(model).share == outcome.after.living == pytest.approx(0.8, abs=1e-3)
    assert all(bool(param.isfinite().all()) for param in model.parameters())


def test_a_run_that_is_killed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recipes.log.journal import Journal

    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "epoch", killed)
        with pytest.raises(Killed):
            recipes.run(RECIPE, "timm/test_resnet", "digits", tmp_path, device="cuda", recovery_interval=2)
    assert (tmp_path / "training").is_dir()
    outcome = recipes.run(
        RECIPE, "timm/test_resnet", "digits", tmp_path, device="cuda", recovery_interval=2, resume=True
    )
    assert outcome.after.living == pytest.approx(0.8, abs=1e-3)
