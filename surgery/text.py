"""Text: tables for a terminal and, of the same rows, for a notebook; lists and counts for messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape

_SHOWN = 3  # of a long list
_PAGE = '"network.html"'  # where hints draw to


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a text table, columns as wide as their widest cell."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)]
    return [line.rstrip() for line in lines]


def html_table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, above: Iterable[str] = (), below: Iterable[str] = ()
) -> str:
    """The same table in HTML, with lines of text above and below it; without rows the text alone."""
    header = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    made = f"<table><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table>" if rows else ""
    return f"<div>{_paragraph(above)}{made}{_paragraph(below)}</div>"


def drawn_by(*arguments: str) -> str:
    """The line below a table in a notebook that says how to see the same as a drawing."""
    drawn, *options = arguments
    return f"as a drawing: surgery.draw({', '.join([drawn, _PAGE, *options])})"


def counted(reasons: Iterable[str]) -> list[str]:
    """How often each reason is given, most frequent first: "2 (in the stem)", "12 are gelu"."""
    return [
        f"{count} {'is' if count == 1 else 'are'} {reason.removeprefix('is ')}"
        if reason.startswith("is ")
        else f"{count} ({reason})"
        for reason, count in Counter(reasons).most_common()
    ]


def number_of(things: str, names: Sequence[str]) -> str:
    """Things with their number and names, of many the first: "60 new parameters: a, b, c, ... (57 more)"."""
    shown = names if len(names) <= _SHOWN + 1 else names[:_SHOWN]
    more = len(names) - len(shown)
    return f"{len(names)} {things}{'s' if len(names) != 1 else ''}: {', '.join(shown)}" + (
        f", ... ({more} more)" if more else ""
    )


def _paragraph(lines: Iterable[str]) -> str:
    text = "<br>".join(escape(line.strip()) for line in lines)
    return f"<p>{text}</p>" if text else ""
