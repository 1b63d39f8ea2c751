"""The command that deploys: `deploy`."""

from __future__ import annotations

import argparse
from typing import Any

from recipes.cli.flags import Commands, add_model, add_rules, add_weights, command, example_of, rules_of, skips

# As surgery.deploy.targets(); that package imports torch, which takes its time.
TARGETS = ("onnxruntime", "openvino", "ncnn", "litert", "coreml", "executorch", "tvm")


def add_commands(commands: Commands[Any]) -> None:
    """Add the command `deploy`."""
    about = "write a model for a runtime, run it there, and compare the outputs"
    example = "surgery deploy out --target onnxruntime --output out/onnx"
    deploy = command(commands, "deploy", _deploy, about, example)
    add_model(deploy)
    add_rules(deploy)
    deploy.add_argument("--target", required=True, choices=TARGETS, help="the runtime")
    deploy.add_argument(
        "--output", metavar="DIR", help="a new folder for the written network; not kept if it disagrees"
    )
    add_weights(deploy)


def _deploy(options: argparse.Namespace) -> None:
    import surgery
    from recipes.models.build import build
    from surgery.errors import NotConvertible, NotEqual, NotInstalled

    model = build(options.model, pretrained=options.weights or options.pretrained)
    example = example_of(options)
    if rules := rules_of(options):
        surgery.transform_(model, rules, example, skip_uneditable=skips(options))
    report = surgery.deploy.check(model, options.target, example, output=options.output)
    print(report.to_json() if options.json else report)
    if report.problem:
        what = "run" if report.operators else "convert"
        raise NotConvertible(f"{options.target} cannot {what} {options.model}.", asked=report.problem)
    if report.runs and not report.ok:
        why = f"maximum error {report.error:.2g} of the largest output"
        raise NotEqual(f"{options.model} on {options.target} does not agree with torch.", asked=why)
    if options.output and not options.json:
        print(f"written to {options.output}")
    if report.not_run:
        raise NotInstalled(f"{options.target} cannot run {options.model} here.", asked=report.not_run)
