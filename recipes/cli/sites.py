"""Commands that look at a model, or edit it without training: `sites`, `transform`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from recipes.cli.flags import Commands, add_model, add_rules, add_weights, command, example_of, rules_of, skips


def add_commands(commands: Commands[Any]) -> None:
    """Declare them."""
    sites = command(
        commands, "sites", _sites, "list every activation call of a model", "surgery sites timm/resnet18"
    )  # fmt: skip
    add_model(sites)
    sites.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="KEY=PATTERN",
        help="only the sites with this fact, such as block=layer3.* or activation=relu (repeatable)",
    )

    example = "surgery transform timm/resnet18 --rule erase_relu:location=last,share=0.5 --save out"
    transform = command(commands, "transform", _transform, "edit the activation calls of a model", example)
    add_model(transform)
    add_rules(transform)
    transform.add_argument("--save", metavar="DIR", help="save the edited model there")
    add_weights(transform)


def _sites(options: argparse.Namespace) -> None:
    import surgery
    from recipes.format.rule_text import patterns_from_text
    from recipes.models.build import build

    patterns = patterns_from_text(options.where)
    sites = surgery.find_sites(build(options.model), example_of(options)).where(**patterns)
    print(sites.to_json() if options.json else sites)


def _transform(options: argparse.Namespace) -> None:
    import surgery
    from recipes.models.build import build
    from recipes.models.names import resolve
    from surgery.errors import BadFile, BadValue

    rules = rules_of(options)
    if not rules:
        raise BadValue("no rules to apply.", try_="--rule RULE, or --recipe NAME")
    if options.save and Path(options.save).is_dir() and any(Path(options.save).iterdir()):
        raise BadFile(f"{options.save} is not empty.", try_="another --save")
    named = resolve(options.model)
    model = build(named, pretrained=options.weights or options.pretrained)
    report = surgery.transform_(model, rules, example_of(options), skip_uneditable=skips(options))
    if options.save:
        surgery.save(model, options.save, name=named.full, kwargs=dict(named.kwargs))
    print(report.to_json() if options.json else report)
    if options.save and not options.json:
        print(f"saved in {options.save}" + ("" if options.weights or options.pretrained else ", with fresh weights"))
