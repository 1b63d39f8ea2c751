"""Commands about recipe files: `recipes ls`, `find`, `show`, `copy`, `check`, `new`."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from recipes.cli.flags import Commands, add_skip, command


def add_commands(commands: Commands[Any]) -> None:
    """Declare them."""
    recipes = commands.add_parser("recipes", help="list, find, show, copy, check and write recipes")
    own = recipes.add_subparsers(dest="what", metavar="COMMAND", required=True)

    ls = command(own, "ls", _ls, "list the ready-made recipes", "surgery recipes ls 'resnet*'")
    ls.add_argument("pattern", nargs="?", default="*", metavar="PATTERN", help="only these, such as 'vit-*'")
    ls.add_argument("--markdown", action="store_true", help="print tables, with models and what was measured")

    about, example = (
        "find the recipes that fit a model, best for a goal first",
        "surgery recipes find --model timm/resnet50",
    )
    found = command(own, "find", _find, about, f"{example} --goal speed")
    found.add_argument("--model", required=True, help="timm/NAME, torchvision/NAME, cifar/NAME or a saved folder")
    goals = "accuracy, speed, relu-count, deploy:TARGET or deploy:TARGET:int8 (default: accuracy)"
    found.add_argument("--goal", default="accuracy", metavar="GOAL", help=goals)

    show = command(own, "show", _show, "print a recipe", "surgery recipes show resnet-erase-last", json=False)
    show.add_argument("recipe", metavar="RECIPE", help="a name, or a file that ends in .toml")

    example = "surgery recipes copy resnet-ap mine.toml"
    copy = command(own, "copy", _copy, "copy a ready-made recipe to edit it", example, json=False)
    copy.add_argument("recipe", metavar="NAME", help="a name of `surgery recipes ls`")
    copy.add_argument("file", metavar="FILE", help="a new file that ends in .toml")

    about = "check a recipe, and show what it would pick on a model"
    check = command(own, "check", _check, about, "surgery recipes check mine.toml --model timm/resnet50")
    check.add_argument("recipe", metavar="RECIPE", help="a name, or a file that ends in .toml")
    check.add_argument("--model", help="look without weights which sites each rule picks there")
    add_skip(check)

    about = "write a commented recipe that lists every site of a model"
    new = command(own, "new", _new, about, "surgery recipes new timm/resnet18 > mine.toml", json=False)
    new.add_argument("model", metavar="MODEL", help="timm/NAME, torchvision/NAME or cifar/NAME")


def _ls(options: argparse.Namespace) -> None:
    from recipes.format.effects import effects
    from recipes.format.library import names, tables_of
    from recipes.format.table import catalogue
    from surgery.errors import UnknownName, nearest
    from surgery.text import table

    if not names(options.pattern):
        raise UnknownName(f"unknown recipe {options.pattern!r}.", try_=nearest(options.pattern, names()))
    if options.markdown:
        print(catalogue(options.pattern))
        return
    found = {name: tables_of(name) for name in names(options.pattern)}
    if options.json:
        facts = [
            {"name": name, "about": tables["about"], "models": tables["models"],
             "effects": [asdict(effect) for effect in effects(name)]}
            for name, tables in found.items()
        ]  # fmt: skip
        print(json.dumps(facts))
        return
    rows = [(name, measured, tables["about"]) for name, tables in found.items() for measured in _points(name)]
    print("\n".join(table(("name", "points", "about"), rows)))


def _points(name: str) -> list[str]:
    """What the recipe cost or gained on the first network it was measured on."""
    from recipes.format.effects import effects

    return [effect.points for effect in effects(name)[:1]] or ["not measured"]


def _find(options: argparse.Namespace) -> None:
    from recipes.check.suggestions import find

    found = find(options.model, options.goal)
    print(json.dumps(found.facts()) if options.json else found)


def _show(options: argparse.Namespace) -> None:
    from recipes.format.library import measured_lines, text_of

    print("\n".join([text_of(options.recipe).rstrip(), *measured_lines(options.recipe)]))


def _copy(options: argparse.Namespace) -> None:
    from recipes.format.library import text_of
    from surgery.errors import BadValue
    from surgery.files import write_text

    text, file = text_of(options.recipe), Path(options.file)
    if file.suffix != ".toml" or file.exists():
        raise BadValue("a recipe is copied to a new file that ends in .toml.",
                       asked=f"{file}{', a file of this name exists' if file.exists() else ''}")  # fmt: skip
    write_text(file, text)
    print(f"copied to {file}")


def _check(options: argparse.Namespace) -> None:
    from recipes.check.check import check
    from recipes.format.library import describe, load
    from surgery.errors import NothingPicked

    recipe = load(options.recipe)
    if options.model is None:
        print(json.dumps({"name": recipe.name, "ok": True}) if options.json else describe(options.recipe))
        return
    if options.skip_uneditable:
        recipe = replace(recipe, skip_uneditable=True)
    checked = check(recipe, options.model)
    print(json.dumps(checked.facts(), indent=1) if options.json else checked)
    if not checked.holds:
        raise NothingPicked(f"{recipe.name} cannot be applied to {options.model}.")


def _new(options: argparse.Namespace) -> None:
    from recipes.check.draft import draft

    print(draft(options.model).rstrip())
