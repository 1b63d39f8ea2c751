"""The report of a merge: its sums, its text and its data."""

from __future__ import annotations

import json

from surgery.merging.groups import LinearGroup
from surgery.merging.report import MergedGroup, MergeReport


def test_the_report_sums_up_and_prints() -> None:
    group = LinearGroup("conv1", "chain", ("conv1", "bn1"), (), (3, 3), (1, 1), 1, 1000, 900)
    other = LinearGroup("conv2", "chain", ("conv2",), (), (), (), 1, 0, 0, "it has hooks")
    report = MergeReport((MergedGroup(group, 70, 60, 1e-16, 2e-7),) * 2, (other,), 3e-7)
    assert report.macs == (2000, 1800) and report.parameters == (140, 120) and report.exact == 1e-16
    assert repr(report) == (
        "<MergeReport: 4 layers merged into 2, with 2,000 MACs before and 1,800 after; the outputs differ by 3.0e-07>"
    )
    assert str(report).splitlines()[-1] == "  not merged: 1 (it has hooks)"
    data = json.loads(report.to_json())
    assert data["merged"][0]["macs"] == [1000, 900] and data["refused"][0]["reason"] == "it has hooks"
    assert "conv1" in report._repr_html_()
