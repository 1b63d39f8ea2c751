"""The outcome of a run: its counts, its table, its file."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

import surgery
from recipes.runs.evaluate import Measured
from recipes.runs.outcome import Outcome
from surgery import BadFile
from surgery.schedule.progress import finish
from tests.asserts import assert_raises
from tests.surgery.small_net import SmallNet

BEFORE = Measured(0.9171, 269722, 1.0, 81108608, 0.0125, 0.0, 1234.4)
AFTER = Measured(0.9205, 269722, 0.64, 81108608, None, None, 12.34)
OUTCOME = Outcome("cifar/resnet20", "resnet-ap", "cifar10", BEFORE, AFTER, 9, 1, 0, 61.4, {"torch": "2.11.0"})

# Counting


@pytest.mark.parametrize(
    ("rules", "erased", "swapped", "added"),
    [
        ([surgery.erase_relu(location="last")], 2, 0, 0),
        ([surgery.erase_relu(location="last", fade=True)], 2, 0, 0),
        ([surgery.erase_relu(location="last", stand_in="affine")], 2, 0, 0),
        ([surgery.swap("gelu", block="blocks.0"), surgery.erase(block="blocks.1", position=1)], 1, 2, 0),
        ([surgery.rectify_scores()], 0, 0, 1),
    ],
)
def test_calls_are_counted_as_they_are_at_the_end(
    rules: list[surgery.Rule], erased: int, swapped: int, added: int
) -> None:
    example = torch.ones(2, 3, 6, 6)
    edited, report = surgery.transform(SmallNet(), rules, example)
    outcome = Outcome.of("m", "r", "d", BEFORE, AFTER, report, 1.0)
    assert (outcome.erased, outcome.swapped, outcome.added) == (erased, swapped, added)
    left = sum("eval" in site.modes for site in surgery.find_sites(finish(edited), example))
    assert left == sum("eval" in site.modes for site in report.before) - erased + added


def test_dropped_blocks_are_counted() -> None:
    _, report = surgery.transform(SmallNet(), surgery.drop(block="blocks.*"), torch.ones(2, 3, 6, 6))
    outcome = Outcome.of("m", "r", "d", BEFORE, AFTER, report, 1.0)
    assert outcome.dropped == 2 and ("blocks dropped", "-", "2") in outcome.rows()
    assert Outcome.from_json(outcome.to_json()) == outcome


def test_without_surgery_nothing_was_erased() -> None:
    outcome = Outcome.of("timm/resnet18", "ap", "hfds/cats", BEFORE, AFTER, None, 1.0)
    assert (outcome.erased, outcome.swapped, outcome.added) == (0, 0, 0)
    assert {"torch", "torchvision", "timm", "format"} <= set(outcome.versions)
    assert (outcome.model, outcome.data) == ("timm/resnet18", "hfds/cats")


@pytest.mark.parametrize("path", ["/home/somebody/cats", "~/cats", "./x/cats", "../cats"])
def test_no_folder_of_the_user_is_in_it(path: str) -> None:
    assert Outcome.of("m", path, path, BEFORE, AFTER, None, 1.0).facts()["data"] == "cats"
    assert "somebody" not in Outcome.of("m", path, path, BEFORE, AFTER, None, 1.0).to_json()


# Table and file

TABLE = """\
                         before      after
accuracy                 91.71%      92.05%
parameters               269,722     269,722
density of the weights   100.00%     64.00%
FLOPs per image          81.1 M      81.1 M
calls erased             -           9
calls swapped            -           1
dead channels (dynamic)  1.25%       -
dead channels (static)   0.00%       -
images/s                 1,234       12.3
resnet-ap on cifar/resnet20 with cifar10: 61 s; torch 2.11.0"""


def test_it_prints_as_a_table() -> None:
    assert [line.split() for line in str(OUTCOME).splitlines()] == [line.split() for line in TABLE.splitlines()]
    head, *lines = str(OUTCOME).splitlines()[:-1]
    for before, after in ((line[head.index("before") :], line[head.index("after") :]) for line in lines):
        assert before[0] != " " and after[0] != " "  # columns are aligned
    assert "activations added" in str(replace(OUTCOME, added=1))


@pytest.mark.parametrize(
    ("flops", "text"),
    [(0, "0"), (999, "999"), (1000, "1 k"), (4089184256, "4.09 G"), (999_700_000, "1,000 M"), (10**13, "10,000 G")],
)
def test_large_numbers_are_short(flops: int, text: str) -> None:
    (row,) = [row for row in replace(OUTCOME, before=replace(BEFORE, flops=flops)).rows() if row[0].startswith("FLOPs")]
    assert row[1] == text


def test_as_markdown_it_is_a_table_of_the_same_rows() -> None:
    head, rule, *lines = OUTCOME.to_markdown().splitlines()
    assert (head, rule) == ("| | before | after |", "|---|---:|---:|")
    assert [tuple(line.strip("| ").split(" | ")) for line in lines] == list(OUTCOME.rows())
    assert lines[0] == "| accuracy | 91.71% | 92.05% |"


@pytest.mark.parametrize("outcome", [OUTCOME, replace(OUTCOME, before=replace(BEFORE, living=None), versions={})])
def test_it_is_kept_in_a_file_and_printed_again(outcome: Outcome) -> None:
    again = Outcome.from_json(outcome.to_json())
    assert again == outcome and str(again) == str(outcome)
    assert outcome.facts() == json.loads(outcome.to_json())


def damaged(**changes: object) -> str:
    return json.dumps(OUTCOME.facts() | changes)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (OUTCOME.to_json()[:-20], "JSONDecodeError"),
        ("[]", "TypeError"),
        ("3", "AttributeError"),
        ("{}", "format"),
        (damaged(format=2), "format"),
        (damaged(erased="9"), "erased is '9'"),
        (damaged(erased=True), "erased is True"),
        (damaged(model=None), "model is None"),
        (damaged(more=1), "more"),
        (damaged(before={}), "accuracy"),
        (damaged(before=3), "int"),
        (damaged(after=OUTCOME.facts()["after"] | {"accuracy": None}), "accuracy is None"),
    ],
)
def test_a_damaged_file_is_refused(text: str, word: str) -> None:
    assert_raises(BadFile, lambda: Outcome.from_json(text), "not the outcome", word)
