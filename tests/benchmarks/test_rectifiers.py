"""Rectifiers: units that die are counted along the training, and the page compares arms at their best rates."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.studies import perceptron, rectifiers
from benchmarks.studies.jobs import Jobs, Write
from benchmarks.studies.perceptron import Draw, Size, small_images, trained
from recipes.data import Pictures, open_data

TINY = Size("tiny", images=128, held_out=32, test_images=100, epochs=2, networks=1, seeds=1)


def test_classes_that_no_image_is_taken_for() -> None:
    model = nn.Linear(2, 4, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.2], [-1.0, -1.0]]))
    assert rectifiers.unpredicted(model, torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1]]), 4) == 0.5
    assert model.training


def test_a_network_is_looked_at_after_every_epoch() -> None:
    images = Pictures(torch.randn(128, 3, 2, 2), torch.arange(128) % 10)
    seen = list[tuple[int, torch.Tensor]]()

    def look(epoch: int, network: nn.Module) -> None:
        seen.append((epoch, next(network.eval().parameters()).detach().clone()))

    model = perceptron.perceptron(perceptron.Function(), images)
    ended = trained(model, images, Draw(0, 0), 0.1, 3, look)
    assert [epoch for epoch, _ in seen] == [1, 2, 3] and not torch.equal(seen[0][1], seen[1][1])
    assert torch.equal(seen[2][1], next(ended.parameters()))


def test_arms_are_compared_at_their_best_rates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(perceptron, "open_data", lambda *_, **counts: open_data("digits", size=16, **counts))
    small_images.cache_clear()
    study = rectifiers.STUDY

    def do(arm: str, seed: int, write: Write) -> None:
        rectifiers.measure(study.arms[arm], seed, TINY, "cpu", write)

    jobs = Jobs(tmp_path / "rectifiers_tiny.csv")
    jobs.carry_out(["relu", "shares"], [0], do, "cpu")
    small_images.cache_clear()
    study.write_page(TINY, jobs)
    found = jobs.rows()
    assert [(row.figures["rate"], row.figures["epoch"]) for row in found["relu"][0]] == [
        (rate, epoch) for rate in rectifiers.RATES for epoch in (1, 2)
    ]
    page = (tmp_path / "rectifiers_tiny.md").read_text(encoding="utf-8")
    assert page.count("| shares |") == 2 and "(one seed)" in page
    read = rectifiers.ended(0.2, "dead")
    assert read(found["relu"][0]) == found["relu"][0][3].figures["dead"]
