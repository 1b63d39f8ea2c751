"""Retrainings: what differs between them, how linear a network is, and what the page tells."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

import surgery
from benchmarks.studies import perceptron, reproducibility
from benchmarks.studies.jobs import Jobs, Write
from benchmarks.studies.perceptron import Draw, Function, Size, flip_a_bit, slope_spread, small_images, trained
from benchmarks.studies.retrainings import Arm, Ensemble, best, common, measure
from recipes.data import Pictures, open_data

PICTURES = Pictures(torch.randn(64, 3, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 10)
TINY = Size("tiny", images=128, held_out=32, test_images=100, epochs=1, networks=3, seeds=1)


def test_what_varies_is_what_the_arm_says() -> None:
    found = {varied: [Arm("", Function(), "relu", varied).draw(2, k) for k in range(3)] for varied in
             ("both", "init", "order", "bit")}  # fmt: skip
    assert found["both"] == [Draw(200, 200), Draw(201, 201), Draw(202, 202)]
    assert found["init"] == [Draw(200, 200), Draw(201, 200), Draw(202, 200)]
    assert found["order"] == [Draw(200, 200), Draw(200, 201), Draw(200, 202)]
    assert found["bit"] == [Draw(200, 200, 0), Draw(200, 200, 1), Draw(200, 200, 2)]


def test_one_bit_of_one_weight_is_flipped() -> None:
    weight = nn.Parameter(torch.full((2, 3), 0.5))
    flip_a_bit(weight, 4)
    assert (weight != 0.5).nonzero().tolist() == [[1, 1]] and weight[1, 1].item() == pytest.approx(0.5, abs=1e-7)


def test_the_same_draw_gives_the_same_network_and_a_bit_another() -> None:
    model = perceptron.perceptron(Function(), PICTURES)
    first, again, other = (trained(model, PICTURES, draw, 0.1, 2) for draw in (Draw(1, 1), Draw(1, 1), Draw(1, 1, 5)))
    images = PICTURES.images
    assert torch.equal(first(images), again(images)) and not torch.equal(first(images), other(images))


@pytest.mark.slow
def test_functions_are_those_of_the_catalogue() -> None:
    _, smelu, _ = reproducibility.FUNCTIONS["smelu-2.0"]
    model = perceptron.perceptron(smelu, PICTURES)
    assert [type(model[k]) for k in (2, 4)] == [surgery.activations.SmeLU] * 2
    assert model[2](torch.tensor([[-2.0, 0.0, 2.0]])).tolist() == [[0, 0.5, 2]]


@pytest.mark.slow
def test_linear_units_have_no_spread_of_slopes() -> None:
    spreads = [
        slope_spread(trained(perceptron.perceptron(Function(linear=share), PICTURES), PICTURES, Draw(0, 0), 0.01, 1),
                     PICTURES)
        for share in (0.0, 0.5, 1.0)
    ]  # fmt: skip
    assert spreads[2] == 0 and 0.4 < spreads[0] < 0.55 and spreads[1] == pytest.approx(spreads[0] / 2, rel=0.1)


def test_an_ensemble_averages_probabilities() -> None:
    models = [nn.Linear(3, 2), nn.Linear(3, 2)]
    x = torch.randn(4, 3)
    expected = (models[0](x).softmax(1) + models[1](x).softmax(1)) / 2
    assert torch.allclose(Ensemble(models)(x).softmax(1), expected)


@pytest.mark.slow
def test_networks_are_trained_and_compared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(perceptron, "open_data", lambda *_, **counts: open_data("digits", size=16, **counts))
    small_images.cache_clear()
    study = reproducibility.STUDY

    def do(arm: str, seed: int, write: Write) -> None:
        measure(study.arms[arm], seed, TINY, "cpu", write)

    jobs = Jobs(tmp_path / "reproducibility_tiny.csv")
    jobs.carry_out(["relu", "smelu-2.0", "linear-1.0", "relu-bit"], [0], do, "cpu")
    lost = list[dict[str, float]]()
    measure(Arm("", Function(linear=1.0), "linear", rates=(1e38,)), 0, TINY, "cpu", lambda row: lost.append({**row}))
    assert lost[0]["held_out"] < 0.5 and math.isnan(lost[0]["accuracy"])  # it diverged
    small_images.cache_clear()
    study.write_page(TINY, jobs)
    assert list(lost[0]) == list(best(jobs.rows()["relu"][0]).figures)
    figures = {arm: common(rows[0]).figures for arm, rows in jobs.rows().items()}
    assert figures["relu-bit"]["total_variation"] < figures["relu"]["total_variation"]
    assert math.isnan(figures["relu"]["ensembles"]) and figures["linear-1.0"]["slope_spread"] == 0
    page = (tmp_path / "reproducibility_tiny.md").read_text(encoding="utf-8")
    assert page.count("| smelu-2.0 |") == 3  # also beside networks that are as linear, and by learning rates
    assert f"| relu | {_percent(figures['relu'])} |  |  | {_percent(figures['relu-bit'])} |" in page


def _percent(figures: dict[str, float]) -> str:
    return f"{100 * figures['disagreement']:.1f} ± {196 * figures['disagreement_error']:.1f}"
