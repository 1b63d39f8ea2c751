"""Tables for a terminal and a notebook, and counts and lists for messages."""

from __future__ import annotations

import pytest

from surgery.text import counted, html_table, number_of, table


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert table(("a", "long head"), [("wide cell", "b"), ("", "c")]) == [
        "a          long head",
        "wide cell  b",
        "           c",
    ]


def test_html_is_escaped() -> None:
    page = html_table(("<a>",), [("x & y",)], above=["1 < 2"], below=["  <script>", "b"])
    assert page == (
        "<div><p>1 &lt; 2</p><table><thead><tr><th>&lt;a&gt;</th></tr></thead>"
        "<tbody><tr><td>x &amp; y</td></tr></tbody></table><p>&lt;script&gt;<br>b</p></div>"
    )


def test_html_without_rows_is_text() -> None:
    assert html_table(("a",), [], above=["nothing"]) == "<div><p>nothing</p></div>"


def test_reasons_are_counted_most_frequent_first() -> None:
    assert counted(["is gelu", "in the stem", "is gelu"]) == ["2 are gelu", "1 (in the stem)"]
    assert counted(["is gelu"]) == ["1 is gelu"]
    assert counted([]) == []


@pytest.mark.parametrize(
    ("names", "line"),
    [
        ("a", "1 new parameter: a"),
        ("abcd", "4 new parameters: a, b, c, d"),
        ("abcde", "5 new parameters: a, b, c, ... (2 more)"),
    ],
)
def test_a_long_list_is_its_beginning_and_a_number(names: str, line: str) -> None:
    assert number_of("new parameter", list(names)) == line
