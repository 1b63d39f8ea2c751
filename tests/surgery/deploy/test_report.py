"""The report of a deployment: a table, JSON, and whether the network agrees."""

from __future__ import annotations

import json

import pytest
import torch

import surgery
from surgery.deploy.comparison import Compared
from surgery.deploy.probe import Probed
from surgery.deploy.report import Report, SiteResult
from tests.surgery.small_net import SmallNet

SITE = surgery.find_sites(SmallNet(), torch.randn(2, 3, 8, 8))[0]
FINE = Compared("the example", 2, error=1e-6, largest=2.0)


def report(*runs: Compared) -> Report:
    sites = (SiteResult(SITE, Probed(("Mul", "Mul", "Add"), error=0.5), swap_for="gelu"),)
    return Report("memory", "memory 1.0", "SmallNet", sites, runs, operators=("Conv", "Mul", "Conv"))


@pytest.mark.parametrize("error", [float("nan"), float("inf"), 0.1])
def test_one_run_that_does_not_agree_is_enough(error: float) -> None:
    found = report(FINE, Compared("random", 1, error, largest=2.0), FINE)
    assert not found.ok and found.error in (0.05, float("inf"))
    assert report(FINE, FINE).ok and not report().ok


def test_a_report_as_text() -> None:
    lines = str(report(FINE)).splitlines()
    assert lines[0] == "SmallNet on memory: agrees with torch, maximum error 5e-07 of the largest output"
    assert lines[2].split()[-6:] == ["Mul", "+", "Add,", "wrong", "0.5", "gelu"]
    assert lines[4].strip() == "network: 2 Conv, 1 Mul"


def test_a_report_as_json() -> None:
    facts = json.loads(report(FINE, Compared("random", 1, float("nan"), 2.0)).to_json(), parse_constant=str)
    assert facts["ok"] is False and [run["error"] for run in facts["runs"]] == [1e-6, None]
    (site,) = facts["sites"]
    assert site["verdict"] == "wrong" and site["swap_for"] == "gelu" and site["operators"] == ["Mul", "Mul", "Add"]
