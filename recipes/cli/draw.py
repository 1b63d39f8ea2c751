"""The command that draws: `draw`."""

from __future__ import annotations

import argparse
from typing import Any

from recipes.cli.flags import Commands, add_model, add_rules, add_weights, command, example_of, rules_of, skips


def add_commands(commands: Commands[Any]) -> None:
    """Add the command `draw`."""
    about = "draw the activation calls of a model as a page for the browser, also before and after rules"
    example = "surgery draw timm/resnet18 --rule erase_relu --output network.html"
    draw = command(commands, "draw", _draw, about, example, json=False)
    add_model(draw)
    add_rules(draw)
    add_weights(draw)
    draw.add_argument("--after", metavar="MODEL", help="another model, to draw beside it")
    draw.add_argument("--output", metavar="FILE.html", default="network.html", help="the page (default: %(default)s)")


def _draw(options: argparse.Namespace) -> None:
    import surgery
    from recipes.models.build import build
    from recipes.models.names import full_name
    from surgery.drawing.draw import html_path
    from surgery.errors import BadValue

    html_path(options.output)
    rules = rules_of(options)
    if rules and options.after:
        raise BadValue("Either rules or another model say what comes after.", asked=f"--after {options.after}")
    model, example = build(options.model, options.weights or options.pretrained), example_of(options)
    drawn: Any = model
    if rules:
        drawn = surgery.transform_(model, rules, example, skip_uneditable=skips(options))
    after = build(options.after) if options.after else None
    title = full_name(options.model) + (f" and {full_name(options.after)}" if options.after else "")
    print(f"drawn in {surgery.draw(drawn, options.output, after=after, example=example, title=title)}")
