"""A target: whether it is installed, what its tools print, and why they fail."""

from __future__ import annotations

import logging
import sys
import warnings
from dataclasses import replace

import pytest

from surgery.deploy.target import numbers_in, quiet
from surgery.errors import NotInstalled
from tests.asserts import assert_process_untouched, assert_raises
from tests.surgery.deploy.memory import MEMORY


def test_what_is_missing_is_named_with_its_command() -> None:
    MEMORY.check_installed()
    missing = replace(MEMORY, modules=("no_such_runtime.part",), distributions=("no-such-runtime", "torch"))
    assert not missing.installed() and repr(missing) == "<Target memory: not installed>"
    assert_raises(NotInstalled, missing.check_installed, "no-such-runtime (not installed)", "[deploy-memory]")


def test_a_target_quantises_with_its_quantiser_alone() -> None:
    able = replace(MEMORY, quantize=lambda *_: (), quantizer=("torch",))
    assert able.quantizes() and not MEMORY.quantizes()
    assert not replace(able, quantizer=("no_such_quantiser",)).quantizes()
    assert not replace(able, modules=("no_such_runtime",)).quantizes()


def test_converters_are_quiet(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    with assert_process_untouched(), pytest.raises(ValueError, match="told"), quiet():
        print("step 1/3")
        print("step 2/3", file=sys.stderr)
        warnings.warn("deprecated", DeprecationWarning, stacklevel=1)
        logging.getLogger("converter").error("untested version")
        raise ValueError("told")
    assert capsys.readouterr() == ("", "") and caplog.records == []
    logging.getLogger("converter").error("heard again")
    assert [record.message for record in caplog.records] == ["heard again"]


@pytest.mark.parametrize("name", ["serving_default_args_{}:0", "StatefulPartitionedCall:{}", "out{}"])
def test_inputs_and_outputs_are_ordered_by_number(name: str) -> None:
    listed = [name.format(number) for number in (10, 1, 0, 2, 11)]
    assert sorted(listed, key=numbers_in) == [name.format(number) for number in (0, 1, 2, 10, 11)]
