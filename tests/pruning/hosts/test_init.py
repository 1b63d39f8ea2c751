"""The package of hosts: its names, and what it imports only on demand."""

from __future__ import annotations

import pytest

from pruning import hosts
from tests.processes import run_python

LATE = """
import sys
import pruning
assert "torch_pruning" not in sys.modules
assert pruning.hosts.torch_ao.cut and pruning.hosts.torch_prune.cut and pruning.hosts.nncf.cut
assert "torch_pruning" not in sys.modules
assert pruning.hosts.torch_pruning.step is sys.modules["pruning.hosts.torch_pruning.prune_step"].step
assert "torch_pruning" in sys.modules
"""


def test_torch_pruning_is_imported_when_it_is_asked_for() -> None:
    done = run_python(LATE)
    assert done.returncode == 0, done.stderr


def test_what_is_not_there_is_missed_as_usual() -> None:
    with pytest.raises(AttributeError, match="no attribute 'torch_prunning'"):
        hosts.torch_prunning  # noqa: B018
    assert not hasattr(hosts, "elsewhere")
