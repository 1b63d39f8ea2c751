"""Report: one row per call, in text, in a notebook and as data."""

from __future__ import annotations

import json

import torch

from surgery import find_sites
from surgery.simplification.report import Simplification, Simplified
from tests.surgery.small_net import SmallNet


def report() -> Simplification:
    first, second, *_ = find_sites(SmallNet(), torch.randn(2, 3, 4, 4))
    done = Simplified(first, "pwlu, 16 intervals", "relu", 58, 1, 0.00123)
    left = Simplified(second, "prelu", "prelu", 4, 4, reason="nothing cheaper is within 0.01")
    return Simplification((done, left), 0.01)


def test_it_says_what_became_what() -> None:
    assert str(report()).splitlines() == [
        "1 of 2 learned functions simplified within 0.01; 62 operators become 5",
        "  site               was                 becomes  error   operators",
        "  relu               pwlu, 16 intervals  relu     0.0012  58 -> 1",
        "  blocks.0.relu 1/2  prelu               -        -       4          nothing cheaper is within 0.01",
    ]
    assert repr(report()) == "<Simplification: 1 of 2 learned functions simplified within 0.01; 62 operators become 5>"
    assert report()._repr_html_().count("<tr>") == 3


def test_it_counts_and_is_data() -> None:
    made = report()
    assert (made.before, made.after, [call.became for call in made.changed]) == (62, 5, ["relu"])
    data = json.loads(made.to_json())
    assert data["tolerance"] == 0.01
    assert data["calls"][0]["became"] == "relu" and data["calls"][1]["reason"].startswith("nothing")
