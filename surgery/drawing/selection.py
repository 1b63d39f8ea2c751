"""Selection: how a rule names one call, or the calls of one block, and no other."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from typing import TypeVar

from surgery.look.site import Site, Sites, matches

# What a rule looks like: %s is the option that selects, the same text in all three.
FORMS = {
    "Python": "surgery.erase(%s)",
    "recipe": '[[rule]]\nuse = "erase"\n%s',
    "command line": "--rule 'erase:%s'",
}

One = TypeVar("One", bound=Hashable)

_SPECIAL = re.compile(r"[*?\[]|^r(?=e:)")  # to patterns
_UNSAFE = re.compile(r"[\x00-\x1f\x7f\"'\\]")  # would have to be written differently in each form
_SIMPLE = re.compile(r"[\w.#/ -]*")


def options_of_sites(sites: Sites) -> dict[Site, str | None]:
    """For each call the option that selects it alone, such as `site="layer1.0.relu 2/2"`; None where there is none."""
    names = {site: (site.path, str(site)) for site in sites}
    return {site: _option("site", str(site), site, names) for site in sites}


def options_of_blocks(sites: Sites) -> dict[str, str | None]:
    """For each block the option that selects the calls in it alone, such as `block="layer1.0"`."""
    names = {site.block: (site.block,) for site in sites if site.block is not None}
    return {block: _option("block", block, block, names) for block in names}


def _option(key: str, name: str, wanted: One, names: Mapping[One, tuple[str, ...]]) -> str | None:
    if _SIMPLE.fullmatch(name) and sum(name in texts for texts in names.values()) == 1:
        return f'{key}="{name}"'
    for pattern in (name, _SPECIAL.sub(lambda sign: f"[{sign[0]}]", name)):
        pattern = _UNSAFE.sub("?", pattern)
        if [one for one, texts in names.items() if matches(pattern, texts)] == [wanted]:
            return f'{key}="{pattern}"'
    return None
