"""A target of its own for the tests of deploying."""

from collections.abc import Callable

import pytest

from surgery.deploy.runtimes import TARGETS
from surgery.deploy.target import Target
from tests.surgery.deploy.memory import MEMORY


@pytest.fixture
def deployed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Target], str]:
    """Make a target known, and return its name."""

    def known(target: Target) -> str:
        monkeypatch.setitem(TARGETS, target.name, target)
        return target.name

    known(MEMORY)
    return known
