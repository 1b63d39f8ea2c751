"""Write: a recipe as TOML text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from types import MappingProxyType
from typing import Any

import surgery
from recipes.format.options import options_of
from recipes.format.rule_options import FACTS, MAYBE_FACTS, defaults
from surgery.errors import BadValue

FORMAT = 2  # the newest; 2 came with [choose]

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def written(recipe: surgery.Recipe, result: Mapping[str, Any] | None = None) -> str:
    """Convert a recipe to TOML text, without settings at their default; see `recipes.format.parse.to_toml`."""
    choice = getattr(recipe, "choice", None)
    lines = [f"format = {FORMAT if choice is not None else 1}"]  # the oldest that has what is written
    for key in ("about", "source", "models"):
        if value := getattr(recipe, key):
            lines.append(f"{key} = {_written(value)}")
    if getattr(recipe, "skip_uneditable", False):
        lines.append("skip_uneditable = true")
    expects: Sequence[Mapping[str, int]] = getattr(recipe, "expects", ()) or ({},) * len(recipe.rules)
    for rule, expected in zip(recipe.rules, expects, strict=True):
        lines += ["", "[[rule]]", *_lines(rule_table(rule, expected))]
    tables = {name: getattr(recipe, name, None) for name in ("pruning", "finetune")} | {"choose": choice}
    for name, table in tables.items():
        if table is not None:
            default = {field.name: field.default for field in fields(table)}
            values = {option: getattr(table, option) for option in options_of(type(table))}
            lines += ["", f"[{name}]", *_lines({key: value for key, value in values.items() if value != default[key]})]
    if result is not None:
        lines += ["", "[result]", *_lines(result)]
    return "\n".join(lines) + "\n"


def rule_table(rule: surgery.Rule, expected: Mapping[str, int] = MappingProxyType({})) -> dict[str, Any]:
    """The `[[rule]]` table of a rule; `expected` maps full model names to numbers of sites."""
    if expected and rule.expect is not None:
        raise BadValue(
            "A rule expects either a number of sites, or a number per model.",
            asked=f"{rule}, {dict(expected)}",
        )
    table: dict[str, Any] = {"use": rule.use}
    pick = dict(rule.pick)
    if rule.use == "swap":
        table["to"] = rule.make
        if list(pick)[-1:] == ["role"] and pick["role"] == "nonlinearity" and "site" not in pick:
            del pick["role"]  # added by `swap`
        pick = {key: _present(value) if key in MAYBE_FACTS else value for key, value in pick.items()}
    plain = {key: value for key, value in rule.params if key not in FACTS}
    hidden = {key: value for key, value in rule.params if key in FACTS}  # parameters with the name of a fact
    table |= pick | plain | ({"params": hidden} if hidden else {})
    table |= {"stand_in": rule.make} if rule.use == "erase_relu" else {}
    table |= {key: getattr(rule, key) for key in ("start", "fade", "optional", "remaining")}
    table |= {"expect": dict(expected) or rule.expect} if expected or rule.expect is not None else {}
    usual = defaults(rule.use) | {"start": "same", "fade": False}
    facts = set(pick) if rule.use == "swap" else set()
    return {key: value for key, value in table.items() if key in facts or key not in usual or value != usual[key]}


def rule_line(rule: surgery.Rule) -> str:
    """A rule in one line for display, without default settings."""
    _, *values = _lines(rule_table(replace(rule, expect=None)))
    return rule.use + (": " + ", ".join(values) if values else "")


def _present(value: Any) -> Any:
    """The value of a fact in a file, where an absent one is `false`."""
    if isinstance(value, tuple):
        return tuple(_present(item) for item in value)
    return False if value is None else value


def _lines(table: Mapping[str, Any]) -> Iterator[str]:
    return (f"{_key(key)} = {_written(value)}" for key, value in table.items())


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)  # the escapes of JSON are those of TOML
    if isinstance(value, Mapping):
        return "{ " + ", ".join(_lines(value)) + " }" if value else "{}"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_written, value)) + "]"
    if isinstance(value, int | float):
        return repr(value)
    raise BadValue("A recipe file holds numbers, texts, lists and tables.", asked=repr(value))


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else json.dumps(name, ensure_ascii=False)
