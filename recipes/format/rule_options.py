"""Rule options: build a rule from its name and options as given in text or files; report all problems together."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from typing import Any

import surgery
from surgery.errors import BadValue, SurgeryError, UnknownName, nearest
from surgery.look.site import Site

RULES: dict[str, Callable[..., surgery.Rule]] = {
    "erase_relu": surgery.erase_relu, "swap": surgery.swap, "erase": surgery.erase,
    "rectify_scores": surgery.rectify_scores,
}  # fmt: skip
TEXT_FACTS = frozenset(one.name for one in fields(Site) if "str" in str(one.type)) | {"site"}
MAYBE_FACTS = frozenset(one.name for one in fields(Site) if "None" in str(one.type))  # may be absent
FACTS = frozenset(one.name for one in fields(Site)) | {"site"}


def build_rule(use: str, options: Mapping[str, Any], asked: str = "") -> surgery.Rule:
    """The rule that the function called `use` gives for these options.

    Raises:
        UnknownName: no such rule, or no such option; the nearest is named.
        BadValue: a missing option, or a value outside its range.
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
    """The options that a rule names itself; facts of sites and parameters come on top where it takes them."""
    parameters = inspect.signature(RULES[use]).parameters.values()
    return tuple(one.name for one in parameters if one.kind is not inspect.Parameter.VAR_KEYWORD)


def defaults(use: str) -> dict[str, Any]:
    """The options of a rule that have a value unless told otherwise, and that value."""
    parameters = inspect.signature(RULES[use]).parameters.values()
    return {one.name: one.default for one in parameters if one.default is not inspect.Parameter.empty}


def required_options(use: str) -> tuple[str, ...]:
    """The required options of a rule."""
    return tuple(key for key in inspect.signature(RULES[use]).parameters if key == "to")


def takes_facts(use: str) -> bool:
    """Whether the facts of a site say where the rule applies."""
    return use in ("swap", "erase")


def rule_problems(use: str, options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Everything wrong with the options of a known rule: the option ("" for all together), and what is allowed."""
    kept: dict[str, Any] = {}
    for key in required_options(use):
        if key not in options:
            yield key, "is missing; it is one of " + ", ".join(surgery.activations.names())
            return
        try:
            build_rule(use, {key: options[key]})
        except SurgeryError as error:
            yield key, one_line(error)
            return  # what the other options mean depends on it
        kept[key] = options[key]
    # Each is added to what is right so far. How a fade starts can be told only after whether it fades.
    for key in sorted(options.keys() - kept.keys(), key=lambda one: (one == "start", list(options).index(one))):
        try:
            _try(use, kept | {key: options[key]})
        except SurgeryError as error:
            yield key, one_line(error)
        else:
            kept[key] = options[key]


def one_line(error: SurgeryError) -> str:
    """An error in one line, without the value it got, which is shown next to it."""
    first, *facts = str(error).splitlines()
    rest = [" ".join(fact.split()) for fact in facts if not fact.startswith("  got:")]
    return "; ".join([first.rstrip("."), *rest])


def _try(use: str, options: Mapping[str, Any]) -> None:
    """Build the rule and, without memory for it, the function that it puts in; compile its patterns."""
    import torch

    from surgery.look.site import matches

    rule = build_rule(use, options)
    for _, pattern in rule.pick:
        matches(pattern, "")
    if use != "rectify_scores":
        try:
            with torch.device("meta"):
                surgery.activations.build(rule.make, 4, **dict(rule.params))
        except (RuntimeError, OverflowError, MemoryError) as error:  # sizes that no tensor has
            why = (str(error).splitlines() or ["too large"])[0]
            raise BadValue(f"{rule.make!r} cannot be built with this: {why}") from error
