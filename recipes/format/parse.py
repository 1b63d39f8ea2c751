"""Parse: recipes from and to TOML, as data only; all problems of a file are reported together."""

from __future__ import annotations

import tomllib
import unicodedata
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import surgery
from recipes.format.options import problems_of
from recipes.format.recipe import Recipe
from recipes.format.rule_options import FACTS, MAYBE_FACTS, RULES, build_rule, named_options, rule_problems, takes_facts
from recipes.format.settings import Choice, Finetune, Pruning
from recipes.format.write import FORMAT, written
from recipes.models.names import CATALOGUES
from surgery.errors import BadFile, nearest

MOST_TEXT = 4000  # characters of one text
MOST_IN_A_FILE = 2**20  # bytes of a recipe, and so characters
VERSIONED = ("torch", "torchvision", "timm")

_KEYS = ("format", "about", "source", "models", "skip_uneditable", "rule", "pruning", "finetune", "choose", "result")

Problem = tuple[str, str]  # the table, and the key with what was found and what is allowed


def parse(given: str | Mapping[str, Any], name: str = "recipe") -> Recipe:
    """Parse a recipe from TOML text, or from a mapping with the same content; `name` is the name it gets.

    Nothing is imported, run, read or written. In a `[[rule]]` table, `use` names a rule function of `surgery` and every
    other key one of its arguments. Lists become tuples, and `false` means "absent" for facts of a site that may be
    absent (`block = false`: outside any block). `expect` is a number of sites, or a table of them by full model name.
    `skip_uneditable = true` leaves calls alone that cannot be edited. `[pruning]` and `[finetune]` contain options of
    `Pruning` and `Finetune`, `[choose]` says how the rules were chosen, `[result]` has measured results.

    Raises:
        BadFile: the text has mistakes, all of which are listed: the table, the key, what was found, what is allowed.
    """
    if isinstance(given, str):
        if len(given) > MOST_IN_A_FILE:
            raise BadFile(f"{name} is too long.", asked=f"{len(given)} characters", there=f"at most {MOST_IN_A_FILE}")
        try:
            given = tomllib.loads(given)
        except (ValueError, RecursionError) as error:
            says = (str(error).splitlines() or ["it is nested too deeply"])[0]
            raise BadFile(f"{name} is not TOML: {says}", try_="surgery recipes show resnet-erase-last") from error
    # Values that TOML does not have, and unreadable text, would break the following checks, or the terminal.
    problems = list(_odd_values(given)) or list(_problems(given))
    if problems:
        count = "one problem" if len(problems) == 1 else f"{len(problems)} problems"
        listed = "".join(f"\n  {table}: {text}" for table, text in problems)
        raise BadFile(f"{name} has {count}:{listed}", try_="surgery recipes show resnet-erase-last, an example")
    return _recipe(given, name)


def to_toml(recipe: surgery.Recipe, result: Mapping[str, Any] | None = None) -> str:
    """Convert a recipe to TOML text, without settings at their default; `parse` reads it back.

    `result` contains measured numbers and texts, or tables of them, such as
    `{"model": "cifar/resnet20", "before": {"top1": 91.7}, "after": {"top1": 92.0}}`. The versions of torch,
    torchvision, timm and of the format are added if missing.

    Raises:
        BadValue: a rule expects both a number of sites and a table of them, which a file cannot express.
        BadFile: `result` is not such a table, or a text is not readable.
    """
    text = written(recipe, None if result is None else {"versions": versions()} | dict(result))
    parse(text, recipe.name)  # check that the file is valid
    return text


def versions() -> dict[str, str | int]:
    """The versions to record with a result: of the format, torch, torchvision and timm."""
    found: dict[str, str | int] = {"format": FORMAT}
    for package in VERSIONED:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _recipe(given: Mapping[str, Any], name: str) -> Recipe:
    tables = given.get("rule", [])
    expects = tuple(dict(expected) if isinstance(expected := table.get("expect"), Mapping) else {} for table in tables)
    return Recipe(
        name,
        tuple(build_rule(table["use"], _options(table)) for table in tables),
        given.get("about", ""),
        given.get("source", ""),
        tuple(given.get("models", ())),
        expects if any(expects) else (),
        Pruning(**given["pruning"]) if "pruning" in given else None,
        Finetune(**given["finetune"]) if "finetune" in given else None,
        given.get("skip_uneditable", False),
        Choice(**given["choose"]) if "choose" in given else None,
    )


def _options(table: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments for the rule function in a `[[rule]]` table."""
    kept = {key: value for key, value in table.items() if key != "use"}
    if isinstance(kept.get("expect"), Mapping):
        del kept["expect"]  # depends on the model, see Recipe.rules_for
    facts = takes_facts(str(table["use"]))
    return {key: _value(value, facts and key in MAYBE_FACTS) for key, value in kept.items()}


def _value(value: Any, maybe: bool = False) -> Any:
    if isinstance(value, list):
        return tuple(_value(item, maybe) for item in value)
    return None if maybe and value is False else value


def _problems(given: Mapping[str, Any]) -> Iterator[Problem]:
    top = "top of the file"
    for key in given:
        if key not in _KEYS:
            yield top, _unknown(key, _KEYS)
    if type(given.get("format")) is not int or given["format"] < 1:
        yield (
            top,
            f"format is 1 or {FORMAT}, " + (f"not {given['format']!r}" if "format" in given else "and is missing"),
        )
    elif given["format"] > FORMAT:
        yield top, f"format is {FORMAT} at most here, not {given['format']}: it was written for a newer version"
    for key in ("about", "source"):
        if not isinstance(given.get(key, ""), str):
            yield top, f"{key} is a text, not {given[key]!r}"
    if not isinstance(given.get("skip_uneditable", False), bool):
        yield top, f"skip_uneditable is true or false, not {given['skip_uneditable']!r}"
    models = given.get("models", [])
    if not isinstance(models, list | tuple):
        yield top, f"models is a list of full names such as timm/resnet50, not {models!r}"
    else:
        yield from ((top, f"models: {problem}") for model in models if (problem := _model_problem(model)))
    rules = given.get("rule", [])
    if not isinstance(rules, list | tuple) or not all(isinstance(rule, Mapping) for rule in rules):
        yield top, "rule is a list of tables, each begun by [[rule]]"
    else:
        for number, rule in enumerate(rules, 1):
            yield from ((f"[[rule]] {number}", problem) for problem in _rule_problems(rule))
    if given.get("format") == 1 and "choose" in given:
        yield top, f"choose needs format = {FORMAT}"
    for key, kind in (("pruning", Pruning), ("finetune", Finetune), ("choose", Choice)):
        table = given.get(key, {})
        if not isinstance(table, Mapping):
            yield top, f"{key} is a table, begun by [{key}], not {table!r}"
        else:
            yield from ((f"[{key}]", problem) for problem in problems_of(kind, table))
    yield from (("[result]", problem) for problem in _result_problems(given.get("result")))
    if not any(given.get(key) or (key in given and key != "rule") for key in ("rule", "pruning", "finetune")):
        yield top, "nothing to do; a recipe has [[rule]], [pruning] or [finetune]"


def _rule_problems(table: Mapping[str, Any]) -> Iterator[str]:
    use = table.get("use")
    if not isinstance(use, str) or use not in RULES:
        near = nearest(use, RULES) if isinstance(use, str) else ""
        found = f", not {use!r}" if "use" in table else ", and is missing"
        yield f"use is one of {', '.join(RULES)}{found}" + (f"; near: {near}" if near else "")
        return
    expect = table.get("expect")
    if isinstance(expect, Mapping):
        for model, count in expect.items():
            if problem := _model_problem(model):
                yield f"expect: {problem}"
            if type(count) is not int or count < 0:
                yield f"expect of {model} is an integer, 0 or more, not {count!r}"
    options = _options(table)
    fit = {}
    for key, value in options.items():
        if not takes_facts(use) and key not in named_options(use):
            yield f"{_unknown(key, named_options(use))}; found {table[key]!r}"
        elif problem := _shape_problem(use, key, table[key]):
            yield problem
        else:
            fit[key] = value
    for key, problem in rule_problems(use, fit):
        found = f" = {table[key]!r}" if key in table else ""
        yield f"{key}{found}: {problem}"


def _shape_problem(use: str, key: str, value: Any) -> str:
    """What is wrong with a value that no rule function checks: a pattern, or the table of parameters."""
    if key == "params" and not isinstance(value, Mapping):
        return f"params is a table of parameters, not {value!r}"
    if (takes_facts(use) and key in FACTS) or key == "activation":
        parts = value if isinstance(value, list | tuple) else [value]
        if not parts or not all(isinstance(part, str | int) for part in parts):
            return f"{key} is a pattern: a text, a whole number, a truth value, or a list of them, not {value!r}"
    return ""


def _result_problems(result: Any) -> Iterator[str]:
    if result is None:
        return
    if not isinstance(result, Mapping):
        yield f"it is a table, not {result!r}"
        return
    for key, value in result.items():
        inside = value.values() if isinstance(value, Mapping) else [value]
        if not all(isinstance(item, str | int | float) for item in inside):
            yield f"{key} is a number, a text, or a table of them, not {value!r}"
    recorded = result.get("versions")
    needed = (*VERSIONED, "format")
    if missing := [package for package in needed if not isinstance(recorded, Mapping) or package not in recorded]:
        yield f"versions is a table with {', '.join(needed)}; {', '.join(missing)} missing"


def _model_problem(name: Any) -> str:
    """What is wrong with the full name of a model, "" if nothing; the model need not exist."""
    prefix, _, rest = str(name).partition("/")
    if isinstance(name, str) and prefix in CATALOGUES and rest:
        return ""
    return f"{name!r} is not a full name such as {', '.join(f'{catalogue}/NAME' for catalogue in CATALOGUES)}"


def _unknown(key: str, known: tuple[str, ...]) -> str:
    near = nearest(key, known)
    return f"{key}: unknown key" + (f"; near: {near}" if near else f"; available: {', '.join(known)}")


def _odd_values(value: Any, path: str = "") -> Iterator[Problem]:
    """The problems of values that are not plain numbers, texts, lists or tables, or are not displayable."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str) or not _readable(key):
                yield path or "top of the file", f"a key is a short readable text, not {str(key)[:60]!r}"
            else:
                yield from _odd_values(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value, 1):
            yield from _odd_values(inner, f"{path} {number}")
    elif isinstance(value, str):
        if not _readable(value):
            yield path, f"a text has at most {MOST_TEXT} readable characters, not {len(value)} as {value[:60]!r}"
    elif isinstance(value, bool):
        return
    elif isinstance(value, int | float):
        if not -(2**63) <= value < 2**63:  # not-a-number is not, either
            found = f"{value.bit_length()} bits" if isinstance(value, int) else str(value)
            yield path, f"a number is finite and fits in 64 bits, not {found}"
    else:
        yield path, f"a value is a number, a text, a truth value, a list or a table, not {str(value)[:60]!r}"


def _readable(text: str) -> bool:
    """Whether a text is short, without control characters but tabs and newlines, and without invisible characters."""
    hidden = ("Cc", "Cf", "Cs")
    return len(text) <= MOST_TEXT and not any(unicodedata.category(c) in hidden and c not in "\n\t" for c in text)
