"""The page: fill the tables of benchmarks/README.md from the files that the benchmarks wrote.

python -m benchmarks.page

Tables go between `<!-- table: FILE -->` and `<!-- end -->`. `<!-- table: FILE 2 -->` takes the second table of the
file, and words after the number select the rows that contain all of them: `<!-- table: FILE 1 fused NCHW -->`.
"""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.conditions import RESULTS

PAGE = RESULTS.parent / "README.md"

_PLACE = re.compile(r"(<!-- table: (\S+)(?: (\d+)((?: \S+)*))? -->\n).*?(<!-- end -->)", flags=re.DOTALL)
_TABLE = re.compile(r"(?:^\|.*\n)+", flags=re.MULTILINE)


def filled(text: str, folder: Path) -> str:
    """The text with the current tables of the files in `folder`.

    Raises:
        ValueError: a file has no such table, or no such row.
    """

    def fill(place: re.Match[str]) -> str:
        start, file, number, words, end = place.groups()
        tables = _TABLE.findall((folder / file).read_text(encoding="utf-8"))
        if len(tables) < (wanted := int(number or 1)):
            raise ValueError(f"{file} has {len(tables)} tables, not {wanted}.")
        lines = tables[wanted - 1].splitlines(keepends=True)
        rows = [line for line in lines[2:] if all(word in line.split() for word in (words or "").split())]
        if not rows:
            raise ValueError(f"{file} has no row with {words or 'anything'}.")
        return start + "".join([*lines[:2], *rows]) + end

    return _PLACE.sub(fill, text)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), PAGE.parent), encoding="utf-8")
    print(PAGE)
