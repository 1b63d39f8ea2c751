"""Page: one file that loads nothing, is the same each time, and takes names as text."""

from __future__ import annotations

import base64
import hashlib
import re

import torch
from torch import Tensor, nn

import surgery
from surgery.drawing.page import page
from surgery.drawing.selection import FORMS
from surgery.drawing.subjects import drawing_of
from tests.models import ResidualNet
from tests.models.stated import picture
from tests.surgery.drawing.networks import four_hundred
from tests.surgery.drawing.reading import read


class Bold(nn.Module):
    """A network whose names look like HTML."""

    def __init__(self, depth: int = 3) -> None:
        super().__init__()
        self.steps = nn.ModuleDict({f"<b>{number} & 'more\"</b>": nn.ReLU() for number in range(depth)})

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps.values():
            x = step(x) + 1
        return x


def report() -> surgery.Report:
    return surgery.transform(ResidualNet(), surgery.erase_relu(), ResidualNet.example)[1]


def test_the_header_counts() -> None:
    root = read(page(drawing_of(report())))
    assert root.one(tag="h1").text == "ResidualNet"
    assert root.one(kind="lead").text == "5 activation calls in 2 blocks: 3 kept, 2 erased"
    assert root.one(id="rule1").text == str(surgery.erase_relu())
    legend = [item.text for item in root.one(kind="legend").all(tag="li")]
    assert legend == ["kept", "erased", "one object that is called several times", "before → after"]
    assert [root.one(value=form).attributes["name"] for form in FORMS.values()] == ["form"] * 3


def test_the_page_loads_nothing_and_runs_its_own_script_alone() -> None:
    text = page(drawing_of(report()))
    assert not re.findall(r"(?:https?:|//[a-z]|\burl\(|@import|<link|<img|<iframe|\bsrc=)", text)
    root = read(text)
    digest = base64.b64encode(hashlib.sha256(root.one(tag="script").text.encode()).digest()).decode()
    policy = next(meta for meta in root.all(tag="meta") if "http-equiv" in meta.attributes).attributes["content"]
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def test_the_same_network_is_the_same_bytes() -> None:
    torch.manual_seed(1)
    first = page(drawing_of(ResidualNet(), example=ResidualNet.example))
    torch.manual_seed(2)
    assert page(drawing_of(ResidualNet(), example=ResidualNet.example)) == first
    assert page(drawing_of(report())) == page(drawing_of(report()))


def test_names_are_text() -> None:
    drawing = drawing_of(Bold(), example=picture())
    root = read(page(drawing))
    assert root.all(tag="b") == []
    sites = [head.text for head in root.all(tag="th", scope="row")]
    assert sites == [f"steps.<b>{number} & 'more\"</b>" for number in range(3)]
    picks = [root.one(id=f"r{number}").attributes["data-pick"] for number in range(3)]
    assert picks == [f'site="steps.<b>{number} & ?more?</b>"' for number in range(3)]


def test_a_network_without_calls_has_a_page() -> None:
    root = read(page(drawing_of(nn.Linear(2, 2))))
    assert root.one(kind="lead").text == "0 activation calls in 0 blocks" and root.all(role="gridcell") == []


def test_four_hundred_calls_stay_small() -> None:
    text = page(drawing_of(four_hundred()))
    root = read(text)
    assert root.one(kind="lead").text == "400 activation calls in 200 blocks: 400 swapped"
    assert len(root.all(role="gridcell")) == 800 and len(root.all(role="rowgroup")) == 4
    assert len(text.encode()) < 300_000
