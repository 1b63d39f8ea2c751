"""Commands that look at a model, or edit it without training: `sites`, `transform`, `merge`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from recipes.cli.flags import (
    Commands,
    add_model,
    add_rules,
    add_weights,
    check_new,
    command,
    example_of,
    rules_of,
    skips,
)

if TYPE_CHECKING:
    from torch.nn import Module

    from recipes.models.names import ModelName
    from surgery.merging.report import MergeReport
    from surgery.plan.report import Report


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

    about = "merge the linear neighbours of a model into single layers, batch norms among them"
    merge = command(commands, "merge", _merge, about, "surgery merge out --save merged")
    add_model(merge)
    merge.add_argument("--save", metavar="DIR", help="save the merged model there")
    add_weights(merge)


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
    from surgery.errors import BadValue

    rules = rules_of(options)
    if not rules:
        raise BadValue("no rules to apply.", try_="--rule RULE, or --recipe NAME")
    check_new(options.save, "--save")
    named = resolve(options.model)
    model = build(named, pretrained=options.weights or options.pretrained)
    report = surgery.transform_(model, rules, example_of(options), skip_uneditable=skips(options))
    _saved(options, model, named, report)


def _merge(options: argparse.Namespace) -> None:
    import surgery
    from recipes.models.build import build
    from recipes.models.names import resolve

    check_new(options.save, "--save")
    named = resolve(options.model)
    model = build(named, pretrained=options.weights or options.pretrained)
    merged, report = surgery.merge(model.eval(), example=example_of(options))
    _saved(options, merged, named, report)


def _saved(options: argparse.Namespace, model: Module, named: ModelName, report: Report | MergeReport) -> None:
    """Save the model, if that is asked for, and print what was done to it."""
    import surgery

    if options.save:
        surgery.save(model, options.save, name=named.full, kwargs=dict(named.kwargs))
    print(report.to_json() if options.json else report)
    if options.save and not options.json:
        fresh = not (options.weights or options.pretrained or named.folder)
        print(f"saved in {options.save}" + (", with fresh weights" if fresh else ""))
