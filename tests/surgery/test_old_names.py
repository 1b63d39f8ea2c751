"""Models that version 0.1 pickled: they load, compute the same, and can be undone."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import nn

import surgery
from surgery import old_names
from tests.asserts import assert_bit_equal

PICKLES = Path(__file__).parent / "pickles_of_0_1"  # by commit 52d8988, on Python 3.11


def test_every_old_name_is_a_module_of_that_name() -> None:
    for old, new in old_names.MOVED.items():
        classes = {name for name, value in vars(import_module(new)).items() if isinstance(value, type)}
        assert classes and classes <= set(vars(import_module(old)))
        assert import_module(new).__name__ == new, "the new module keeps its own name"


def test_a_pickle_of_all_functions_loads_and_is_undone() -> None:
    kept = torch.load(PICKLES / "functions.pt", weights_only=False)
    model: nn.Module = kept["model"]
    torch.testing.assert_close(model(kept["example"]), kept["output"], rtol=1e-6, atol=1e-6)
    assert len({type(kind) for kind in model}) == 12, "SmeLU and RESCU are one class"
    surgery.undo(model)
    assert [type(kind) for kind in model] == [nn.ReLU] * 13


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the bytecode of its methods is of Python 3.11")
def test_a_pickle_of_a_rewritten_method_loads_and_is_undone() -> None:
    kept = torch.load(PICKLES / "rewritten.pt", weights_only=False)
    model = kept["model"]
    assert_bit_equal(model(kept["example"]), kept["output"])
    surgery.undo(model)
    assert {site.activation for site in surgery.find_sites(model, kept["example"])} == {"relu"}
