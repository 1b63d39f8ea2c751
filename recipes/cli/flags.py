"""Flags: how commands are declared, and the flags that several of them share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from recipes.format.options import Option, options_of

if TYPE_CHECKING:
    from torch import Tensor

    from surgery import Rule

Commands = argparse._SubParsersAction  # argparse has no public name for what add_subparsers returns
Do = Callable[[argparse.Namespace], None]


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, like all errors of the command; flags cannot be abbreviated."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"surgery: {message}; hint: {self.prog} --help\n")


def command(
    commands: Commands[Any], name: str, do: Do, about: str, example: str, *, json: bool = True
) -> argparse.ArgumentParser:
    """A command that calls `do`, with an example in its help."""
    description = about[0].upper() + about[1:] + "."
    made: argparse.ArgumentParser = commands.add_parser(
        name, help=about, description=description, epilog=f"Example: {example}"
    )
    made.set_defaults(do=do)
    made.add_argument("--debug", action="store_true", help="show where an error comes from")
    if json:
        made.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return made


def add_model(parser: argparse.ArgumentParser) -> None:
    """The model as an argument, and the shape to run it on."""
    parser.add_argument("model", metavar="MODEL", help="timm/NAME, torchvision/NAME, cifar/NAME or a saved folder")
    add_shape(parser)


def add_shape(parser: argparse.ArgumentParser) -> None:
    """The shape of the input that a model is run on."""
    parser.add_argument(
        "--shape", type=_shape, metavar="N,C,H,W", help="run the model on random input of this shape instead of its own"
    )


def add_rules(parser: argparse.ArgumentParser) -> None:
    """The rules of the surgery: one by one, or those of a recipe."""
    rules = parser.add_mutually_exclusive_group()
    rules.add_argument(
        "--rule",
        action="append",
        default=[],
        metavar="RULE",
        help="erase_relu:location=last,share=0.5 or swap:to=silu,block=layer3.* or erase:position=1 (repeatable)",
    )
    rules.add_argument("--recipe", metavar="NAME|FILE", help="the rules of this recipe")
    add_skip(parser)


def add_skip(parser: argparse.ArgumentParser) -> None:
    """The flag that skips calls that cannot be edited."""
    about = "leave calls alone that cannot be edited, and say why, instead of stopping"
    parser.add_argument("--skip-uneditable", action="store_true", help=about)


def add_weights(parser: argparse._ActionsContainer) -> None:
    """The initial weights of the model."""
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--pretrained", action="store_true", help="start from the weights its catalogue publishes")
    weights.add_argument("--weights", metavar="FILE", help="start from the weights in this safetensors file")


def add_settings(parser: argparse.ArgumentParser, kind: type, title: str, rename: dict[str, str] | None = None) -> None:
    """A flag for every option of a dataclass, unset unless given, so that a recipe's own value stays."""
    group = parser.add_argument_group(title)
    defaults = kind()
    for name, setting in options_of(kind).items():
        flag = "--" + (rename or {}).get(name, name).replace("_", "-")
        default = getattr(defaults, name)
        about = setting.about + ("" if default in (None, False) else f" (default: {default})")
        if setting.kind is bool:
            group.add_argument(flag, dest=_dest(kind, name), action=argparse.BooleanOptionalAction, help=about)
        else:
            group.add_argument(
                flag, dest=_dest(kind, name), type=_checked(setting), help=about, metavar=_placeholder(setting),
            )  # fmt: skip


def settings_given(options: argparse.Namespace, kind: type) -> dict[str, Any]:
    """The values given on the command line for the options of a dataclass."""
    given = {name: getattr(options, _dest(kind, name), None) for name in options_of(kind)}
    return {name: value for name, value in given.items() if value is not None}


def rules_of(options: argparse.Namespace) -> tuple[Rule, ...]:
    """The rules of the flags that `add_rules` added; may be empty."""
    from recipes.format.library import load
    from recipes.format.rule_text import rule_from_text
    from recipes.models.names import full_name

    if options.recipe:
        return load(options.recipe).rules_for(full_name(options.model))
    return tuple(rule_from_text(text) for text in options.rule)


def skips(options: argparse.Namespace) -> bool:
    """Whether to skip calls that cannot be edited, according to the flag or to the recipe."""
    from recipes.format.library import load

    recipe = getattr(options, "recipe", None)
    return bool(options.skip_uneditable or (recipe and load(recipe).skip_uneditable))


def example_of(options: argparse.Namespace) -> Tensor | None:
    """Random input of the shape in --shape; None without it."""
    if options.shape is None:
        return None
    import torch

    return torch.rand(options.shape, generator=torch.Generator().manual_seed(0))


def check_new(folder: str | None, flag: str) -> None:
    """Check before anything is done that the folder that a flag names can be written."""
    from surgery.errors import BadFile

    if folder and Path(folder).is_dir() and any(Path(folder).iterdir()):
        raise BadFile(f"{folder} is not empty.", try_=f"another {flag}")


def say_for(options: argparse.Namespace) -> Callable[[str], None]:
    """A function that prints progress: to stdout, or to stderr if stdout is for JSON."""
    stream = sys.stderr if options.json else sys.stdout

    def say(text: str) -> None:
        print(text, file=stream, flush=True)

    return say


def count(text: str) -> int:
    """A whole number from 0."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{number} is less than 0")
    return number


def positive(text: str) -> int:
    """A whole number from 1."""
    if count(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return int(text)


def _dest(kind: type, name: str) -> str:
    return f"{kind.__name__.lower()}_{name}"


def _placeholder(setting: Option) -> str:
    return "|".join(setting.choices) if setting.choices else {int: "N", float: "X", str: "TEXT"}[setting.kind]


def _checked(setting: Option) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            value = setting.kind(text)
        except ValueError:
            value = text
        if problem := setting.problem(value):
            raise argparse.ArgumentTypeError(f"it {problem}")
        return value

    return read


def _shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a shape such as 2,3,224,224")
    return shape
