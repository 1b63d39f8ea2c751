"""Sites, transform and merge on the command line: tables or JSON, and what is saved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import recipes
import surgery
from recipes import cli
from recipes.models.build import build
from tests.recipes.cli.commands import ERASE, SMALL, refused


def test_sites_prints_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sites", *SMALL]) == 0
    out, err = capsys.readouterr()
    expected = surgery.find_sites(build("timm/test_resnet"), torch.rand(2, 3, 32, 32))
    assert out == f"{expected}\n" and err == ""


def test_sites_filters_and_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--where", "block=layer3.*", "--where", "position=1", "--where", "position=3", "--json"]
    assert cli.main(["sites", *SMALL, *words]) == 0
    sites = json.loads(capsys.readouterr().out)
    assert [site["target"] for site in sites] == ["act1", "act3"]


def test_transform_saves_what_it_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    original = build("timm/test_resnet").eval()
    save_file(original.state_dict(), tmp_path / "weights.safetensors")
    words = ["--weights", str(tmp_path / "weights.safetensors"), "--save", str(tmp_path / "out")]
    assert cli.main(["transform", *SMALL, *ERASE, *words]) == 0
    out = capsys.readouterr().out
    assert "4 of 12 relu calls erased" in out
    assert out.endswith(f"saved in {tmp_path / 'out'}\n")
    loaded = surgery.load(tmp_path / "out", model=build("timm/test_resnet")).eval()
    x = torch.rand(2, 3, 32, 32)
    edited, _ = surgery.transform(original, surgery.erase_relu(), x)
    assert torch.equal(loaded(x), edited(x))
    assert json.loads((tmp_path / "out" / "surgery.json").read_text())["model"]["name"] == "timm/test_resnet"


def test_a_folder_in_use_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    assert "is not empty" in refused(capsys, "transform", *SMALL, *ERASE, "--save", str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_transform_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    rules = ["--rule", "erase_relu:location=last,share=0.5", "--rule", "swap:to=silu,remaining=true"]
    assert cli.main(["transform", *SMALL, *rules, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["calls_before"] == 12 and report["calls_after"] == 10
    assert [edit["is"] for edit in report["edits"]].count("identity") == 2
    assert [edit["is"] for edit in report["edits"]].count("silu") == 10
    assert report["edits"][0] == {
        "site": "conv1.2", "block": None, "was": "relu", "is": "silu", "params": {}, "fade": False,
    }  # fmt: skip


def test_fresh_weights_are_said_to_be_fresh(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["transform", *SMALL, *ERASE, "--save", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.endswith("with fresh weights\n")


@pytest.mark.slow
def test_merge_saves_a_model_that_loads_by_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edited, x = build("timm/test_resnet").eval(), torch.rand(2, 3, 32, 32)
    surgery.transform_(edited, surgery.drop(block="layer*"), x)
    surgery.save(edited, tmp_path / "out", name="timm/test_resnet")
    assert cli.main(["merge", str(tmp_path / "out"), "--shape", "2,3,32,32", "--save", str(tmp_path / "merged")]) == 0
    out = capsys.readouterr().out
    assert "layers merged into" in out and out.endswith(f"saved in {tmp_path / 'merged'}\n")
    merged = recipes.load_model(tmp_path / "merged").eval()
    assert not [module for module in merged.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad():
        assert torch.allclose(merged(x), edited(x), rtol=0, atol=1e-5)
    assert "is not empty" in refused(capsys, "merge", str(tmp_path / "out"), "--save", str(tmp_path / "merged"))
