"""Library: the ready-made recipes, and recipes from files."""

from __future__ import annotations

import textwrap
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path
from typing import Any

from recipes.format.options import options_of
from recipes.format.parse import MOST_IN_A_FILE, parse
from recipes.format.recipe import Recipe
from recipes.format.write import rule_line
from surgery.errors import BadFile, UnknownName, nearest


def names(pattern: str = "*") -> list[str]:
    """The sorted names of the ready-made recipes that match a pattern such as `resnet-*`."""
    found = (path.name.removesuffix(".toml") for path in _folder().iterdir() if path.name.endswith(".toml"))
    return sorted(name for name in found if fnmatchcase(name, pattern))


def load(name: str | Path) -> Recipe:
    """Load a ready-made recipe by its name, or any file whose name ends in .toml.

    Raises:
        UnknownName: not a ready-made recipe; the hint has the nearest names.
        BadFile: the file does not exist, is too large, or has mistakes, all of which are listed.
    """
    text = text_of(name)
    return parse(text, Path(name).stem if is_file(name) else str(name))


def text_of(name: str | Path) -> str:
    """The text of a recipe file, with its comments; `name` is as in `load`.

    Raises:
        UnknownName, BadFile: as `load`.
    """
    if is_file(name):
        return _read(Path(name))
    if str(name) not in names():
        raise UnknownName(
            f"unknown recipe {str(name)!r}.",
            there=f"{len(names())} recipes, see surgery recipes ls",
            try_=nearest(str(name), names()) or "a name from the list, or a file that ends in .toml",
        )
    return _folder().joinpath(f"{name}.toml").read_text(encoding="utf-8")


def tables_of(name: str) -> Mapping[str, Any]:
    """What stands in the file of a ready-made recipe, without the checks of `load`, which take longer.

    Raises:
        UnknownName: as `load`.
    """
    return tomllib.loads(text_of(name))


def describe(name: str | Path | Recipe) -> str:
    """Describe a recipe as text: about, source, models, rules, pruning and fine-tuning."""
    recipe = name if isinstance(name, Recipe) else load(name)
    facts = [("about", recipe.about), ("source", recipe.source), ("models", ", ".join(recipe.models))]
    facts += [(f"rule {number}", rule_line(rule)) for number, rule in enumerate(recipe.rules, 1)]
    for title, table in (("pruning", recipe.pruning), ("finetune", recipe.finetune), ("choose", recipe.choice)):
        if table is not None:
            default = {field.name: field.default for field in fields(table)}
            # All of the short table, and of the long one what differs from the defaults.
            shown = {name: getattr(table, name) for name in options_of(type(table))}
            settings = [
                f"{name}={value!r}" for name, value in shown.items() if title == "pruning" or value != default[name]
            ]
            facts.append((title, ", ".join(settings) or "as usual"))
    width = max(len(title) for title, _ in facts) + 2
    return "\n".join([recipe.name, *(f"  {title.ljust(width)}{text}" for title, text in facts if text)])


def measured_lines(name: str | Path) -> list[str]:
    """What a ready-made recipe was measured to do, as comment lines for below its text; none for another file."""
    from recipes.format.effects import all_effects, effects

    if is_file(name):
        return []
    found = effects(str(name))
    if not found:
        return ["", "# Not measured."]
    said = [f"Measured on {effect}" for effect in found] + [all_effects().conditions]
    return ["", *(f"# {line}" for text in said for line in textwrap.wrap(text, 118))]


def is_file(name: str | Path) -> bool:
    """Whether this names a file rather than a ready-made recipe."""
    return isinstance(name, Path) or name.endswith(".toml")


def _read(path: Path) -> str:
    try:
        with path.open("rb") as opened:
            # One byte more than allowed is enough to know, whatever the file claims to be.
            raw = opened.read(MOST_IN_A_FILE + 1)
        if len(raw) > MOST_IN_A_FILE:
            raise BadFile(f"{path} is too large for a recipe.", asked=f"more than {MOST_IN_A_FILE // 1024} KiB")
        return raw.decode("utf-8")
    except OSError as error:
        raise BadFile(f"{path} cannot be read.", asked=error.strerror or type(error).__name__) from error
    except UnicodeDecodeError as error:
        raise BadFile(f"{path} is not UTF-8 text.", asked=f"byte {error.start}") from error


def _folder() -> resources.abc.Traversable:
    return resources.files("recipes").joinpath("files")
