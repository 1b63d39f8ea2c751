"""Every runtime that is installed, used for real: an edited network, its files, its operators, its outputs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import surgery
from surgery.deploy.probe import as_trained, probed
from surgery.deploy.runtimes import TARGETS
from surgery.deploy.target import Target
from tests.models import randomise
from tests.surgery.small_net import SmallNet

# Runtimes warn about each other: of forks, of other versions, of files they leave to the garbage collector.
pytestmark = [pytest.mark.runtimes, pytest.mark.filterwarnings("ignore")]
X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
GRID = torch.linspace(-6, 6, 2 * 8 * 16).reshape(2, 8, 4, 4)


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> Target:
    found = TARGETS[request.param]
    if not found.installed():
        pytest.skip(f"{found.name} is not installed")
    return found


def test_an_edited_network_agrees(target: Target, tmp_path: Path) -> None:
    model, _ = surgery.transform(randomise(SmallNet()), surgery.swap("hardswish"), X)
    report = surgery.deploy.check(model, target.name, X, output=tmp_path / "out")
    if target.load is None:
        assert not report.ok and target.not_run in str(report)
    else:
        assert report.ok and report.error < 1e-5, report
        assert {call.result.error < 1e-5 for call in report.sites if call.result.error is not None} == {True}
    assert report.operators and json.loads((tmp_path / "out" / "deploy.json").read_text())["target"] == target.name


@pytest.mark.parametrize("name", ["leaky_relu", "gelu", "silu"])
def test_functions_that_every_target_has(target: Target, name: str) -> None:
    found = probed(surgery.activations.build(name), GRID, target)
    assert found.verdict in ("one operator", "decomposed"), found.problem
    assert 1 <= len(found.operators) <= 4 and (found.error is None or found.error < 1e-5)


@pytest.mark.parametrize("name", ["pwlu", "npwlu", "gsmelu", "swish", "frelu", "prelu"])
@pytest.mark.parametrize("kind", ["ncnn", "coreml", "onnxruntime"])
def test_learned_functions_are_known_everywhere(name: str, kind: str) -> None:
    """The converters that know least: no gathers, no moved axes, no clips with one bound, no integers for floats."""
    target = TARGETS[kind]
    if not target.installed():
        pytest.skip(f"{kind} is not installed")
    found = probed(as_trained(surgery.activations.build(name, 8)), GRID, target)
    assert found.problem == "" and (found.error is None or found.error < 1e-5)


def test_a_function_per_channel_keeps_its_channels(target: Target) -> None:
    slopes = nn.PReLU(8)
    slopes.weight.data = torch.linspace(-1, 1, 8)
    found = probed(slopes, GRID, target)
    assert found.problem == "" and (found.error is None or found.error < 1e-6)


class Many(nn.Module):
    """Twelve inputs and as many outputs, all of one shape."""

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.relu(x * (12 - place)) for place, x in reversed(list(enumerate(inputs))))


def test_inputs_and_outputs_keep_their_order(target: Target) -> None:
    report = surgery.deploy.check(Many(), target.name, tuple(torch.randn(2, 3) for _ in range(12)), batches=(1,))
    assert report.ok or target.load is None, report
