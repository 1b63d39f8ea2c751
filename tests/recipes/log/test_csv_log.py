"""The CSV log: rows are read back as written, a kill loses at most one row, and resuming duplicates none."""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.log.csv_log import COLUMNS, LOG, NUMBERS, Log, Row
from surgery import BadFile, BadValue
from tests.asserts import assert_raises
from tests.processes import run_python

PHASES = ("fit", "round 1", 'round 2, after its "first" cut', "phase é")
SOME = (
    Row("fit", 0, 2.25, 0.5, 0.1, 1234.5),
    Row("fit", 1, 1 / 3, None, 0.05, 1200.0),
    Row("round 1, after its first cut", 0, math.inf, 0.1, 1e-9, 3.0, 0.8),
    Row("phase é", 0),
)

numbers = st.none() | st.floats(allow_nan=False)
rows = st.builds(Row, st.sampled_from(PHASES), st.integers(0, 300), *[numbers] * len(NUMBERS))


def written(folder: Path, some: tuple[Row, ...] = SOME) -> Log:
    log = Log(folder / LOG)
    log.begin("none of these")
    for row in some:
        log.append(row)
    return log


def test_the_header_is_a_closed_list(tmp_path: Path) -> None:
    log = written(tmp_path, SOME[:1])
    assert log.path.read_text() == "phase,epoch,loss,top1,lr,images_s,living\nfit,0,2.25,0.5,0.1,1234.5,\n"
    assert log.path.read_text().splitlines()[0] == ",".join(COLUMNS)


@settings(max_examples=40)
@given(st.lists(rows, max_size=6).map(tuple))
def test_what_was_written_is_read_back_exactly(tmp_path_factory: pytest.TempPathFactory, some: tuple[Row, ...]) -> None:
    assert written(tmp_path_factory.mktemp("log"), some).rows() == some


def test_a_loss_that_is_no_number_is_read_back(tmp_path: Path) -> None:
    (row,) = written(tmp_path, (Row("fit", 0, math.nan),)).rows()
    assert row.loss is not None and math.isnan(row.loss)


def test_cut_off_at_any_byte_it_is_read_up_to_the_last_whole_row_and_mended(tmp_path: Path) -> None:
    log = written(tmp_path)
    whole = log.path.read_bytes()
    seen = set()
    for length in range(len(whole) + 1):
        log.path.write_bytes(whole[:length])
        count = max(whole[:length].count(b"\n") - 1, 0)
        assert log.rows() == SOME[:count], f"the first {length} bytes"
        assert log.begin("another") == count
        log.append(SOME[-1])
        assert log.rows() == (*SOME[:count], SOME[-1]), f"mended after {length} bytes"
        seen.add(count)
    assert seen == set(range(len(SOME) + 1))


def test_resuming_drops_what_will_come_again_and_nothing_else(tmp_path: Path) -> None:
    some = (*(Row("fit", k, k / 2) for k in range(4)), *(Row("round 1", k, k / 4) for k in range(3)))
    log = written(tmp_path, some)
    assert log.begin("round 1", 2) == 6
    assert log.rows() == some[:6]
    assert log.begin("round 1", 3) == 6
    assert log.begin("fit", 1) == 3
    assert log.rows() == (some[0], *some[4:6])
    assert log.begin("round 1") == 1


def test_a_log_that_is_whole_is_left_as_it_is(tmp_path: Path) -> None:
    log = written(tmp_path)
    os.utime(log.path, (1, 1))
    assert log.begin("another") == len(SOME)
    assert log.path.stat().st_mtime == 1
    assert [path.name for path in tmp_path.iterdir()] == [LOG]


def test_rewriting_that_is_killed_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = written(tmp_path)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("recipes.log.csv_log.os.replace", killed)
        assert_raises(KeyboardInterrupt, lambda: log.begin("fit"))
    assert log.rows() == SOME
    assert log.begin("fit") == 2  # the rows of the killed run are dropped
    assert [path.name for path in tmp_path.iterdir()] == [LOG]


def test_a_process_killed_after_a_row_has_written_it(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from recipes.log.csv_log import Log, Row\n"
        "log = Log(Path(sys.argv[1])); log.begin('fit'); log.append(Row('fit', 0, 0.5))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = run_python(code, tmp_path / LOG)
    assert ended.returncode == -signal.SIGKILL
    assert Log(tmp_path / LOG).rows() == (Row("fit", 0, 0.5),)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("epoch,train_loss\n0,1.5\n", "the columns epoch,train_loss"),
        ("no log", "6 bytes"),
        ("phase,epoch,loss,top1,lr,images_s,living\nfit,0,1\n", "line 2 has 3 cells"),
        ("phase,epoch,loss,top1,lr,images_s,living\nfit,0,good,,,,\n", "good"),
        ("phase,epoch,loss,top1,lr,images_s,living\nfit,first,,,,,\n", "first"),
        ('phase,epoch,loss,top1,lr,images_s,living\n"fit,0,,,,,\n', "unexpected end"),
    ],
)
def test_another_file_is_refused_and_left_alone(tmp_path: Path, text: str, word: str) -> None:
    log = Log(tmp_path / LOG)
    log.path.write_text(text)
    assert_raises(BadFile, log.rows, LOG, word)
    assert_raises(BadFile, lambda: log.begin("fit"), LOG)
    assert log.path.read_text() == text


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / LOG).write_bytes(b"\xff\xfe\n")
    assert_raises(BadFile, Log(tmp_path / LOG).rows, LOG)


def test_without_a_file_there_are_no_rows(tmp_path: Path) -> None:
    assert Log(tmp_path / "new" / LOG).rows() == ()
    assert not (tmp_path / "new").exists()


def test_a_number_without_a_column_is_refused_with_the_nearest() -> None:
    assert_raises(BadValue, lambda: Row.of("fit", 0, {"top_1": 0.5}), "top_1", "top1")
    assert Row.of("fit", 3, {"top1": 1}) == Row("fit", 3, top1=1.0)
    assert Row("fit", 3, top1=1.0).numbers == {"top1": 1.0}
