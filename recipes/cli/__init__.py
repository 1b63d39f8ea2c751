"""The command `surgery`: look at a model, edit it, prune it, fine-tune it, deploy it, and run recipes."""

from __future__ import annotations

import argparse
import os
import re
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from recipes.cli import choose, dead, deploy, draw, recipes, search, sites, train
from recipes.cli.flags import Parser

# Everything heavy is imported inside the commands: `surgery --help` must answer at once.

# Python arguments in the hints of errors, as patterns, and what to type instead.
_FLAGS = {
    r"pass example=.*?( with|:|$)[^;]*": "--shape N,C,H,W, with a shape that the model accepts",
    r"print\(surgery\.find_sites\(model\)\)": "surgery sites MODEL",
    r"\b(optional|remaining|expect|fade)=(\w+)": r"\1=\2 in --rule",
    r"\bpretrained=FILE": "--weights FILE",
    r"\bpretrained=False": "no --pretrained",
    r"\bsync_bn=False": "--no-sync-bn",
    r"\bbatch_size\b": "--batch-size",
    r"\bdata_dir\b": "--data-dir",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, or 2 after a one-line error message on stderr."""
    options = _parser().parse_args(arguments)
    try:
        code = _run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader is gone (`surgery sites ... | head`). Python would flush again at exit, and print an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # the exit code of a command that SIGPIPE stopped
    except KeyboardInterrupt:
        return 130  # the exit code of a command that SIGINT stopped
    return code


def one_line(error: Exception) -> str:
    """An error as one line: its sentence, then its facts, with flags in the hint."""
    sentence, *facts = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()] or [repr(error)]
    facts = [_in_flags(fact) if fact.startswith("hint:") else fact for fact in facts]
    return "; ".join([sentence.rstrip(".") if facts else sentence, *facts]).replace(":; ", ": ")


def _in_flags(hint: str) -> str:
    """A hint with flags in place of Python arguments."""
    for argument, flag in _FLAGS.items():
        hint = re.sub(argument, flag, hint)
    return hint


def _run(options: argparse.Namespace) -> int:
    from surgery.errors import SurgeryError

    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: print(f"surgery: warning: {message}", file=sys.stderr)
            options.do(options)
    except BrokenPipeError:
        raise
    except (SurgeryError, OSError) as error:
        if options.debug:
            raise
        print(f"surgery: {one_line(error)}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="surgery",
        description="Change which activations a vision network uses, and where; prune it; fine-tune it; deploy it.",
        epilog="Models are timm/NAME, torchvision/NAME, cifar/resnet20 (18, 32, 44, 56, 110), cifar/vgg16_bn, or a "
        "folder that a run saved. Recipes are names of `surgery recipes ls`, or files that end in .toml.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {_version()}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for group in (sites, draw, dead, choose, search, train, deploy, recipes):
        group.add_commands(commands)
    return parser


def _version() -> str:
    """The same as `surgery.__version__`, without importing torch."""
    try:
        return version("activation-surgery")
    except PackageNotFoundError:
        return "0+unknown"
