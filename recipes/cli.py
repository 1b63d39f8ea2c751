"""The command `surgery`: list the activation calls of a model, edit them and save the result, or watch the demo."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from torch import Tensor

# Everything heavy is imported inside the commands: `surgery --help` must answer at once.


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, or 2 after one line about what was wrong on stderr."""
    options = _parser().parse_args(arguments)
    try:
        code = _run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has gone (`surgery sites ... | head`). Python would flush once more at exit, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # as a command ends that SIGPIPE stopped
    except KeyboardInterrupt:
        return 130  # as one that SIGINT stopped
    return code


def one_line(error: Exception) -> str:
    """An error as one line: its sentence, then its facts."""
    sentence, *facts = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()] or [repr(error)]
    return "; ".join([sentence.rstrip(".") if facts else sentence, *facts])


def _run(options: argparse.Namespace) -> int:
    from surgery.errors import SurgeryError

    commands = {"sites": _sites, "transform": _transform, "demo": _demo}
    try:
        commands[options.command](options)
    except BrokenPipeError:
        raise
    except (SurgeryError, OSError) as error:
        print(f"surgery: {one_line(error)}", file=sys.stderr)
        return 2
    return 0


def _sites(options: argparse.Namespace) -> None:
    import surgery
    from recipes.models import build
    from recipes.rule_text import patterns_from_text

    patterns = patterns_from_text(options.where)
    sites = surgery.find_sites(build(options.model), _example(options.shape)).where(**patterns)
    print(sites.to_json() if options.json else sites)


def _transform(options: argparse.Namespace) -> None:
    import surgery
    from recipes.as_data import report_data
    from recipes.models import build, full_name
    from recipes.rule_text import rule_from_text

    rules = [rule_from_text(text) for text in options.rule]
    model = build(options.model, pretrained=options.weights or options.pretrained)
    report = surgery.transform_(model, rules, _example(options.shape))
    if options.save:
        surgery.save(model, options.save, name=full_name(options.model))
    print(json.dumps(report_data(report), indent=1) if options.json else report)
    if options.save and not options.json:
        print(f"saved in {options.save}" + ("" if options.weights or options.pretrained else ", with fresh weights"))


def _demo(options: argparse.Namespace) -> None:
    from recipes.demo import demo

    outcome = demo(
        model=options.model,
        epochs=options.epochs,
        finetune_epochs=options.finetune_epochs,
        seed=options.seed,
        say=_to_stderr if options.json else _to_stdout,
    )
    print(json.dumps(outcome.facts(), indent=1) if options.json else outcome)


def _example(shape: tuple[int, ...] | None) -> Tensor | None:
    if shape is None:
        return None
    import torch

    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def _to_stdout(text: str) -> None:
    print(text, flush=True)


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, like every other error of the command."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"surgery: {message}; try {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="surgery",
        description="Change which activations a vision network uses, and where.",
        epilog="Models are timm/NAME, torchvision/NAME or cifar/resnet20, 32, 44, 56, 110.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    sites = _command(commands, "sites", "list every activation call of a model", "surgery sites timm/resnet18")
    _add_model(sites)
    sites.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="KEY=PATTERN",
        help="only the sites with this fact, such as block=layer3.* or activation=relu (repeatable)",
    )

    example = "surgery transform timm/resnet18 --rule erase_relu:location=last,share=0.5 --save out"
    transform = _command(commands, "transform", "edit the activation calls of a model", example)
    _add_model(transform)
    transform.add_argument(
        "--rule",
        action="append",
        required=True,
        metavar="RULE",
        help="erase_relu:location=last,share=0.5 or swap:to=silu,block=layer3.* or erase:position=1 (repeatable)",
    )
    transform.add_argument("--save", metavar="DIR", help="save the edited model there")
    weights = transform.add_mutually_exclusive_group()
    weights.add_argument("--pretrained", action="store_true", help="start from the weights its catalogue publishes")
    weights.add_argument("--weights", metavar="FILE", help="start from the weights in this safetensors file")

    demo = _command(commands, "demo", "train, erase, fine-tune a small network on digits", "surgery demo")
    demo.add_argument("--model", default="timm/resnet18", help="the network to train (default: %(default)s)")
    demo.add_argument("--epochs", type=_count, default=4, help="passes before the surgery (default: %(default)s)")
    demo.add_argument("--finetune-epochs", type=_count, default=2, help="passes after it (default: %(default)s)")
    demo.add_argument("--seed", type=int, default=0, help="of weights, order and nothing else (default: %(default)s)")
    return parser


def _command(
    commands: argparse._SubParsersAction[_Parser], name: str, about: str, example: str
) -> argparse.ArgumentParser:
    description = about[0].upper() + about[1:] + "."
    command = commands.add_parser(name, help=about, description=description, epilog=f"Example: {example}")
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return command


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", metavar="MODEL", help="timm/NAME, torchvision/NAME or cifar/NAME")
    command.add_argument(
        "--shape", type=_shape, metavar="N,C,H,W", help="run the model on random input of this shape instead of its own"
    )


def _count(text: str) -> int:
    count = int(text)
    if count < 0:
        raise argparse.ArgumentTypeError(f"{count} is less than 0")
    return count


def _shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a shape such as 2,3,224,224")
    return shape


if __name__ == "__main__":
    raise SystemExit(main())
