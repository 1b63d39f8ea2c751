"""XOR: what solves it by construction is seen to, and one PReLU learns it where its inputs are centred."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.studies import xor
from benchmarks.studies.jobs import Jobs, Write


def test_networks_compute_what_their_names_say() -> None:
    x = xor.ARMS["prelu"].inputs
    unit = {"weights": torch.tensor([[0.5, -0.5], [1.0, 2.0]]), "slope": torch.tensor([-1.0, 0.5])}
    assert xor.prelu(unit, x).tolist() == [[0, 1, 1, 0], [-1.5, 1, -0.5, 3]]
    turns = {"weights": torch.tensor([[1.0, 1.0]]), "bias": torch.tensor([0.5])}
    z = torch.tensor([-1.5, 0.5, 0.5, 2.5])
    assert torch.allclose(xor.cosine(turns, x), (z * z.cos())[None])
    both = {
        "weights": torch.tensor([[[1.0, -1.0], [-1.0, 1.0]]]), "bias": torch.zeros(1, 2),
        "outward": torch.tensor([[0.5, 0.5]]), "shift": torch.tensor([0.25]),
    }  # fmt: skip
    assert xor.perceptron(both, x).tolist() == [[0.25, 1.25, 1.25, 0.25]]


def test_one_prelu_learns_it_where_inputs_are_centred() -> None:
    found = xor.solved(xor.ARMS["prelu"], 0, (0.1, 1e-6, 100.0), 50, 300)
    assert found.double().mean(1).tolist() == [1, 0, 0]  # too slow, and diverged
    assert 0.3 < xor.solved(xor.ARMS["prelu-01"], 0, (0.1,), 50, 300).double().mean() < 0.9


def test_rates_share_their_starts() -> None:
    first, second = xor.solved(xor.ARMS["mlp"], 0, (0.1, 0.1), 30, 100)
    assert torch.equal(first, second) and 0 < first.sum() < 30


def test_the_page_has_a_row_for_every_arm(tmp_path: Path) -> None:
    size = replace(xor.PROTOCOLS["smoke"], steps=20)

    def do(arm: str, seed: int, write: Write) -> None:
        xor.measure(xor.ARMS[arm], seed, size, "cpu", write)

    jobs = Jobs(tmp_path / "xor_smoke.csv")
    jobs.carry_out(list(xor.ARMS), [0], do, "cpu")
    xor.STUDY.write_page(size, jobs)
    page = (tmp_path / "xor_smoke.md").read_text(encoding="utf-8")
    assert all(f"| {name} |" in page for name in xor.ARMS)
    assert [row.figures["rate"] for row in jobs.rows()["gcu"][0]] == list(xor.RATES)
