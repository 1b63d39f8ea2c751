"""The setup of every test: one thread, one seed, this checkout; and skips where something is missing."""

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings

from surgery.activations import registry

ROOT = Path(__file__).resolve().parent.parent

# Sums depend on how many threads share them: comparisons, also across processes, need one.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

# Child processes import what the tests import: this checkout, not an installed copy of another day.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))

settings.register_profile("surgery", derandomize=True, deadline=None, database=None)
settings.load_profile("surgery")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """By default the tests of a file stay together, as they share what is slow to make; a sweep is one large file."""
    from xdist.scheduler import LoadFileScheduling

    by_default = config.getini("addopts")[-1]
    return LoadFileScheduling(config, log) if config.option.markexpr == by_default else None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Seed before the fixtures, and skip what cannot run here."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("CUDA is not available")
    if item.get_closest_marker("data") and not os.environ.get("SURGERY_DATA"):
        pytest.skip("SURGERY_DATA is unset: it names the folder with the data and the weights")


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions that a test registers are removed after it."""
    monkeypatch.setattr(registry, "_BY_NAME", dict(registry._BY_NAME))


@pytest.fixture(scope="session")
def surgery_data() -> Path:
    """The folder that SURGERY_DATA names. Tests that use it are marked `data`."""
    folder = Path(os.environ["SURGERY_DATA"])
    assert folder.is_dir(), f"SURGERY_DATA names {folder}, which is not a folder"
    return folder
