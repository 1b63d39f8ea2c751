"""Look: what one look at a model saw, for planning, proving and reporting, which need not look again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from surgery.dataflow.trace import Trace

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """The forwards of one look, by mode.

    `given` holds, for each mode that ran on the meta device, what modules were first called with, by their paths;
    arguments that cannot be given again are left out.
    """

    traces: Mapping[str, Trace]
    given: Mapping[str, Mapping[str, Arguments]]
