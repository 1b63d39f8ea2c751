"""Journal: what was measured for a choice, kept in a file as it is measured, so that a choice can be resumed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surgery.errors import BadFile
from surgery.files import write_text

FORMAT = 1
_ROUNDING = 1e-4


class Journal:
    """Measurements by topic and name, for one question, which `about` states; without a path in memory only.

    Raises:
        BadFile: the file is not a journal, or one of another question.
    """

    def __init__(self, path: str | Path | None, about: Mapping[str, Any]) -> None:
        self.path = None if path is None else Path(path)
        self.about = json.loads(json.dumps(dict(about)))
        self.found: dict[str, dict[str, Any]] = {}
        if self.path is not None and self.path.exists():
            self._read(self.path)

    def get(self, topic: str, name: str) -> Any:
        """What was measured, None if nothing was."""
        return self.found.get(topic, {}).get(name)

    def put(self, topic: str, name: str, value: Any) -> None:
        """Keep a measurement, as plain data."""
        self.found.setdefault(topic, {})[name] = value
        if self.path is not None:
            text = json.dumps({"format": FORMAT, "about": self.about, "measured": self.found})
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.path, text + "\n")

    def _read(self, path: Path) -> None:
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            about, found = dict(data["about"]), {topic: dict(part) for topic, part in data["measured"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BadFile(f"{path} is not the journal of a choice.", asked=type(error).__name__,
                          try_="another path, or remove the file") from error  # fmt: skip
        if data.get("format") != FORMAT:
            raise BadFile(f"{path} has another format.", asked=repr(data.get("format"))[:40], there=str(FORMAT))
        different = [key for key, value in self.about.items() if not _same(about.get(key), value)]
        if different:
            raise BadFile(
                f"{path} is the journal of another choice.",
                asked=", ".join(f"{key} {self.about[key]!r}" for key in different)[:200],
                there=", ".join(f"{key} {about.get(key)!r}" for key in different)[:200],
                try_="the same network, images and options, or another path",
            )  # fmt: skip
        self.found = found


def _same(found: Any, wanted: Any) -> bool:
    """Whether two facts agree; numbers up to what another number of threads changes."""
    if isinstance(found, float) and isinstance(wanted, float):
        return math.isclose(found, wanted, rel_tol=_ROUNDING, abs_tol=_ROUNDING)
    return bool(found == wanted)
