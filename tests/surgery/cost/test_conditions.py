"""Conditions: what a measurement says about where it was made, and what makes another one incomparable."""

from __future__ import annotations

import platform
from dataclasses import replace
from importlib.metadata import version

import pytest
import torch

from surgery.cost.conditions import Conditions, checked, processor
from surgery.errors import BadFile, UnknownName

HERE = Conditions.here("eager", "contiguous", torch.float32, 8, torch.device("cpu"))


def test_conditions_name_the_processor_and_no_host() -> None:
    assert HERE.processor == processor() and HERE.threads == torch.get_num_threads() and HERE.dtype == "float32"
    assert platform.node() not in str(HERE) and HERE.versions == f"torch {version('torch')}"


def test_conditions_survive_a_file() -> None:
    assert Conditions.from_data(HERE.to_data()) == HERE
    with pytest.raises(BadFile, match="not the conditions"):
        Conditions.from_data({"processor": "abacus"})


def test_other_versions_and_dates_are_comparable_other_layouts_are_not() -> None:
    assert HERE.differences(replace(HERE, date="2020-01-01", versions="torch 1")) == []
    assert HERE.differences(replace(HERE, layout="channels_last", batch=1)) == [
        "layout channels_last, not contiguous", "batch 1, not 8",
    ]  # fmt: skip


def test_an_unknown_runtime_or_layout_is_named() -> None:
    assert checked("compiled", "contiguous") == ("compiled", "contiguous")
    with pytest.raises(UnknownName, match="'onnx' is not a runtime"):
        checked("onnx", "contiguous")
    with pytest.raises(UnknownName, match="'NHWC' is not a layout"):
        checked("eager", "NHWC")
