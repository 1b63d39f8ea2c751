"""Rule options: build a rule from its name and options as given in text or files; report all problems together."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from typing import Any

import surgery
from surgery.errors import BadValue, SurgeryError, UnknownName, nearest, one_line
from surgery.look.site import Site

RULES: dict[str, Callable[..., surgery.Rule]] = {
    "erase_relu": surgery.erase_relu, "swap": surgery.swap, "erase": surgery.erase,
    "rectify_scores": surgery.rectify_scores, "drop": surgery.drop, "move_padding": surgery.move_padding,
}  # fmt: skip
TEXT_FACTS = frozenset(field.name for field in fields(Site) if "str" in str(field.type)) | {"site"}
MAYBE_FACTS = frozenset(field.name for field in fields(Site) if "None" in str(field.type))  # may be absent
FACTS = frozenset(field.name for field in fields(Site)) | {"site"}


def build_rule(use: str, options: Mapping[str, Any], asked: str = "") -> surgery.Rule:
    """Build a rule with the rule function called `use` and these options.

    Raises:
        UnknownName: there is no such rule or option; the hint has the nearest name.
        BadValue: an option is missing or out of range.
    """
    if use not in RULES:
        raise UnknownName(f"unknown rule {use!r}.", there=", ".join(RULES), try_=nearest(use, RULES))
    named, required = named_options(use), required_options(use)
    if not takes_facts(use):
        for key in sorted(options.keys() - set(named)):
            raise UnknownName(
                f"the rule {use} has no option {key!r}.", asked=asked, there=", ".join(named), try_=nearest(key, named)
            )
    for key in required:
        if key not in options:
            raise BadValue(f"the rule {use} needs {key}=VALUE.", asked=asked)
    return RULES[use](**options)


def named_options(use: str) -> tuple[str, ...]:
    """The named options of a rule; some rules accept facts of sites and parameters as well."""
    parameters = inspect.signature(RULES[use]).parameters.values()
    return tuple(parameter.name for parameter in parameters if parameter.kind is not inspect.Parameter.VAR_KEYWORD)


def defaults(use: str) -> dict[str, Any]:
    """The default values of the options of a rule."""
    parameters = inspect.signature(RULES[use]).parameters.values()
    return {
        parameter.name: parameter.default
        for parameter in parameters
        if parameter.default is not inspect.Parameter.empty
    }


def required_options(use: str) -> tuple[str, ...]:
    """The required options of a rule."""
    parameters = inspect.signature(RULES[use]).parameters.values()
    return tuple(
        parameter.name for parameter in parameters
        if parameter.default is inspect.Parameter.empty and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    )  # fmt: skip


def takes_facts(use: str) -> bool:
    """Whether the rule picks sites by their facts."""
    return use in ("swap", "erase")


def rule_problems(use: str, options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Every problem with the options of a known rule: the option ("" for all together), and what is allowed."""
    kept: dict[str, Any] = {}
    for key in required_options(use):
        if key not in options:
            allowed = f"; it is one of {', '.join(surgery.activations.names())}" if key == "to" else ""
            yield key, f"is missing{allowed}"
            return
        try:
            build_rule(use, {key: options[key]})
        except SurgeryError as error:
            yield key, one_line(error)
            return  # what the other options mean depends on it
        kept[key] = options[key]
    # Each is checked together with the valid ones so far; whether `start` is valid depends on `fade`.
    for key in sorted(options.keys() - kept.keys(), key=lambda name: (name == "start", list(options).index(name))):
        try:
            _try(use, kept | {key: options[key]})
        except SurgeryError as error:
            yield key, one_line(error)
        else:
            kept[key] = options[key]


def _try(use: str, options: Mapping[str, Any]) -> None:
    """Build the rule and, on the meta device, its new activation; compile its patterns."""
    import torch

    from surgery.look.site import matches

    rule = build_rule(use, options)
    for _, pattern in rule.pick:
        matches(pattern, "")
    if use in ("erase_relu", "swap", "erase"):
        try:
            with torch.device("meta"):
                surgery.activations.build(rule.make, 4, **dict(rule.params))
        except (RuntimeError, OverflowError, MemoryError) as error:  # sizes that no tensor has
            why = (str(error).splitlines() or ["too large"])[0]
            raise BadValue(f"{rule.make!r} cannot be built with this: {why}") from error
