"""Rules as one line of text, for the command line: `erase_relu:location=last,share=0.5`."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from typing import Any

import surgery
from recipes.format.rule_options import RULES, TEXT_FACTS, build_rule
from surgery.errors import BadValue, UnknownName, nearest
from surgery.look.site import Pattern

_BRACKETS = {"(": ")", "[": "]", "{": "}"}


def rule_from_text(text: str) -> surgery.Rule:
    """Parse a rule such as `swap:to=silu,block=layer3.*`: its name, then its options.

    A value is `true`, `false`, a Python literal, or else plain text. A pattern for a textual fact of a site stays text
    (`target=0`), unless it is quoted or a tuple. Commas inside brackets and quotes do not separate options.

    Raises:
        UnknownName: there is no such rule or option; the hint has the nearest name.
        BadValue: an option has no value, is given twice, or is missing.
    """
    name, _, rest = text.partition(":")
    name = name.strip()
    if name not in RULES:
        raise UnknownName(f"unknown rule {name!r}.", there=", ".join(RULES), try_=nearest(name, RULES))
    options: dict[str, Any] = {}
    for part in _split(rest):
        key, equals, value = part.partition("=")
        key = key.strip()
        if not equals:
            raise BadValue(f"an option of a rule is written KEY=VALUE, not {part!r}.", asked=text)
        if key in options:
            raise BadValue(f"the option {key!r} is given twice.", asked=text)
        options[key] = value_from_text(key, value.strip())
    return build_rule(name, options, text)


def patterns_from_text(texts: Iterable[str]) -> dict[str, Pattern]:
    """Parse `KEY=PATTERN` texts into arguments of `Sites.where`; a repeated key matches any of its patterns."""
    patterns: dict[str, Pattern] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals:
            raise BadValue(f"a condition is written KEY=PATTERN, not {text!r}.", try_="block=layer3.*")
        pattern = value_from_text(key, value.strip())
        patterns[key] = _tuple(patterns[key]) + _tuple(pattern) if key in patterns else pattern
    return patterns


def value_from_text(key: str, text: str) -> Any:
    """Parse the value of an option or a fact."""
    if key in TEXT_FACTS and not text.startswith(("(", "'", '"')):
        return text
    if text in ("true", "false"):
        return text == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _tuple(pattern: Any) -> tuple[Any, ...]:
    return pattern if isinstance(pattern, tuple) else (pattern,)


def _split(text: str) -> list[str]:
    """Split at the commas outside brackets and quotes, without empty parts."""
    parts, awaited, quote = [""], list[str](), ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in _BRACKETS:
            awaited.append(_BRACKETS[letter])
        elif awaited and letter == awaited[-1]:
            awaited.pop()
        if letter == "," and not quote and not awaited:
            parts.append("")
        else:
            parts[-1] += letter
    return [part for part in parts if part.strip()]
