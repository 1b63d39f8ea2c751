"""Deploying to a target: what agrees, what disagrees, what fails and why; files are whole or not there."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import surgery
from surgery.deploy import agreement
from surgery.deploy.network import Network, network_of
from surgery.deploy.target import Run, Target
from surgery.errors import BadFile, BadValue, NotConvertible, NotInstalled, UnknownName
from surgery.history.history import steps_of
from tests.asserts import assert_raises, assert_untouched
from tests.surgery.deploy import memory
from tests.surgery.deploy.memory import MEMORY, lacking, wrong
from tests.surgery.small_net import SmallNet

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Known = Callable[[Target], str]


def edited() -> nn.Module:
    return surgery.transform(SmallNet(), surgery.swap("swish"), X)[0]


def test_a_network_that_agrees(deployed: Known, tmp_path: Path) -> None:
    model = edited()
    with assert_untouched(model):
        report = surgery.deploy.check(model, "memory", X, output=tmp_path / "out")
    assert report.ok and report.any_batch and not report.problem
    assert report.error < 1e-6  # a kernel rounds in other places than the operators that are exported
    assert [run.batch for run in report.runs] == [2, 1, 2, 5, 2]
    sites = surgery.find_sites(model, X)
    assert [call.site for call in report.sites] == list(sites)
    assert {call.site.activation for call in report.sites} == {"swish"}
    text = str(report)
    assert text.startswith("SmallNet on memory: agrees with torch") and "conv2d.default" in text
    assert json.loads(report.to_json())["ok"] is True and "<table>" in report._repr_html_()
    facts = json.loads((tmp_path / "out" / "deploy.json").read_text())
    assert facts["inputs"] == [{"shape": ["batch", 3, 8, 8], "dtype": "float32"}]


@pytest.mark.slow
def test_a_network_that_disagrees_is_not_kept(deployed: Known, tmp_path: Path) -> None:
    name = deployed(wrong("sigmoid.default", lambda y: y * 1.01))
    report = surgery.deploy.check(edited(), name, X, output=tmp_path / "out")
    assert not report.ok and 0.005 < report.error < 0.02
    assert all(call.result.verdict == "wrong" for call in report.sites)
    assert "does not agree with torch" in str(report)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_network_whose_activations_the_target_lacks(deployed: Known, tmp_path: Path) -> None:
    name = deployed(lacking("sigmoid"))
    report = surgery.deploy.check(edited(), name, X, output=tmp_path / "out")
    assert not report.ok and "sigmoid" in report.problem and report.runs == ()
    assert all(call.result.verdict == "fails" for call in report.sites)
    assert str(report).startswith("SmallNet on memory: not converted")
    with pytest.raises(NotConvertible) as refused:
        surgery.deploy.export(edited(), name, tmp_path / "out", X)
    assert [site.activation for site in refused.value.sites] == ["swish"] * len(report.sites)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_network_that_fails_for_reasons_of_its_own(deployed: Known, tmp_path: Path) -> None:
    name = deployed(lacking("conv2d"))
    reason = "the unedited SmallNet fails, too"
    error = assert_raises(
        NotConvertible, lambda: surgery.deploy.export(edited(), name, tmp_path / "out", X), reason, "conv2d"
    )
    assert isinstance(error, NotConvertible) and error.sites == ()
    assert_raises(NotConvertible, lambda: surgery.deploy.check(SmallNet(), name, X), "its activations convert")
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_runs_elsewhere(deployed: Known, tmp_path: Path) -> None:
    name = deployed(replace(MEMORY, load=None, not_run="memory runs on the moon"))
    report = surgery.deploy.check(edited(), name, X, output=tmp_path / "out")
    assert not report.ok and "converted, not run (memory runs on the moon)" in str(report)
    assert (tmp_path / "out" / "deploy.json").is_file()


def test_a_network_for_one_batch_size_is_run_one_by_one(deployed: Known) -> None:
    class Squeezed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([self.act(row) for row in x])  # a graph for as many as there are

    report = surgery.deploy.check(Squeezed(), "memory", X)
    assert report.ok and not report.any_batch and "one image at a time" in str(report)


def test_a_runtime_that_refuses_its_files(deployed: Known) -> None:
    def fail(inputs: object) -> list[Tensor]:
        raise OSError("no such device")

    name = deployed(replace(MEMORY, load=lambda folder: fail))
    says = ("memory cannot run what was written for it", "no such device")
    report = surgery.deploy.check(edited(), name, X)
    assert all(word in report.problem for word in says) and report.runs == ()
    assert str(report).startswith("SmallNet on memory: converted, cannot be run")


def test_a_runtime_that_refuses_the_network_alone(deployed: Known, tmp_path: Path) -> None:
    def load(folder: Path) -> Run:
        if "conv2d.default" in MEMORY.operators(folder):
            raise OSError("too large")
        return memory.load(folder)

    name = deployed(replace(MEMORY, load=load))
    error = assert_raises(
        NotConvertible, lambda: surgery.deploy.check(edited(), name, X, output=tmp_path / "out"), "cannot load", "large"
    )
    assert "cannot convert" not in str(error) and list(tmp_path.iterdir()) == []


def together(network: Network, folder: Path) -> None:
    """A converter that refuses a sigmoid in a network with convolutions."""
    memory.write(network, folder)
    if {"sigmoid.default", "conv2d.default"} <= set(memory.operators(folder)):
        raise NotConvertible("memory cannot fuse a sigmoid.")


def test_an_edited_network_that_fails_although_its_parts_convert(deployed: Known) -> None:
    name = deployed(replace(MEMORY, write=together))
    says = "memory cannot convert the edited SmallNet, although it converts each activation alone and the unedited"
    assert_raises(NotConvertible, lambda: surgery.deploy.check(edited(), name, X), says, "cannot fuse")


def test_an_unedited_network_that_cannot_be_exported_is_told_in_the_sentence(
    deployed: Known, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(model: nn.Module, example: object) -> Network:
        raise BadValue("The arguments differ.", asked="(2, 3), (1, 3)", try_="one batch size")

    def refuse_unedited(model: nn.Module, example: object) -> Network:
        return (network_of if steps_of(model) else refuse)(model, example)

    monkeypatch.setattr(agreement, "network_of", refuse_unedited)
    name = deployed(replace(MEMORY, write=together))
    error = assert_raises(NotConvertible, lambda: surgery.deploy.check(edited(), name, X))
    sentence = str(error).splitlines()[0]
    assert sentence.endswith("the unedited SmallNet cannot be exported: The arguments differ; hint: one batch size.")


def test_errors_that_are_not_finite_are_valid_json(deployed: Known) -> None:
    name = deployed(wrong("sigmoid.default", lambda y: y / 0))
    found = json.loads(surgery.deploy.check(edited(), name, X).to_json(), parse_constant=str)
    assert found["ok"] is False and {run["error"] for run in found["runs"]} == {None}
    assert {(site["verdict"], site["error"]) for site in found["sites"]} == {("wrong", None)}


def test_a_target_that_is_not_installed(deployed: Known) -> None:
    name = deployed(replace(MEMORY, modules=("torch", "no_such_runtime"), distributions=("no-such-runtime",)))
    says = ("no-such-runtime (not installed)", 'pip install "activation-surgery[deploy-memory]"')
    assert_raises(NotInstalled, lambda: surgery.deploy.check(edited(), name, X), *says)


def test_a_network_that_still_fades(deployed: Known, tmp_path: Path) -> None:
    """It computes neither of the two functions; settled, it is deployed like any other."""
    fading, _ = surgery.transform(SmallNet(), surgery.swap("silu", fade=True), X)
    says = ("SmallNet still fades", "surgery.settle(model)")
    error = assert_raises(BadValue, lambda: surgery.deploy.export(fading, "memory", tmp_path / "out", X), *says)
    assert isinstance(error, BadValue) and {site.activation for site in error.sites} == {"fade"}
    assert_raises(BadValue, lambda: surgery.deploy.check(fading, "memory", X), *says)
    assert list(tmp_path.iterdir()) == []
    surgery.set_progress(fading, 0.5)
    assert surgery.deploy.check(surgery.settle(fading), "memory", X).ok


def test_an_unknown_target() -> None:
    assert_raises(UnknownName, lambda: surgery.deploy.check(edited(), "onnx-runtime", X), "openvino", "onnxruntime")


def test_a_folder_in_use_is_not_written_over(deployed: Known, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    assert_raises(BadFile, lambda: surgery.deploy.export(edited(), "memory", tmp_path, X), "is not empty")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_export_writes_what_check_runs(deployed: Known, tmp_path: Path) -> None:
    folder = surgery.deploy.export(edited(), "memory", tmp_path / "deep" / "out", X)
    assert sorted(path.name for path in folder.iterdir()) == ["deploy.json", "program.txt"]
    assert [path.name for path in folder.parent.iterdir()] == ["out"]


def test_targets_write_to_absolute_paths(deployed: Known, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A converter may be a program that runs elsewhere."""
    monkeypatch.chdir(tmp_path)
    seen: list[Path] = []

    def note(network: Network, folder: Path) -> None:
        seen.append(folder)
        MEMORY.write(network, folder)

    folder = surgery.deploy.export(edited(), deployed(replace(MEMORY, write=note)), "out/memory", X)
    assert folder == Path("out/memory") and folder.is_dir() and seen[0].is_absolute()


def test_every_target_is_listed() -> None:
    names = [target.name for target in surgery.deploy.targets()]
    assert names == ["onnxruntime", "openvino", "ncnn", "litert", "coreml", "executorch", "tvm"]
    assert all(repr(target).startswith(f"<Target {target.name}: ") for target in surgery.deploy.targets())
