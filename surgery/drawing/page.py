"""Page: a drawing as one HTML file, with the style and the script that it needs."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from html import escape
from importlib.resources import files

from surgery.drawing.call_table import call_table, is_round
from surgery.drawing.cells import WORDS
from surgery.drawing.drawing import Drawing
from surgery.drawing.picture import picture
from surgery.drawing.selection import FORMS

_HELP = (
    "Arrow keys go from call to call, Enter copies the rule that selects it. All calls are listed in the table below."
)


def page(drawing: Drawing) -> str:
    """The HTML of a drawing: it loads nothing, and is the same each time."""
    script, style = _text_of("network.js"), _text_of("network.css")
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{allowed}'"
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        '<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        f"<title>{escape(drawing.title)}: activations</title>",
        f"<style>{style}</style></head>",
        "<body>",
        *_header(drawing),
        "<main>",
        *_legend(drawing),
        *_tools(drawing),
        f'<p id="help" class="unseen">{_HELP}</p>',
        *picture(drawing),
        *call_table(drawing),
        "</main>",
        '<div id="card" role="tooltip" hidden></div>',
        '<p id="said" role="status"></p>',
        f"<script>{script}</script>",
        "</body></html>",
    ]
    return "\n".join(lines) + "\n"


def _text_of(file: str) -> str:
    return (files("surgery.drawing") / file).read_text(encoding="utf-8")


def _header(drawing: Drawing) -> Iterator[str]:
    states = [
        f"{count} {text}" for state, text in WORDS.items() if state != "call" and (count := drawing.states[state])
    ]
    counts = f"{_number(len(drawing.cells), 'activation call')} in {_number(drawing.blocks, 'block')}"
    facts = [f"input {drawing.input_shape}"] if drawing.input_shape else []
    rules = [f'<li id="rule{number}"><code>{escape(rule)}</code></li>' for number, rule in enumerate(drawing.rules, 1)]
    yield f"<header><h1>{escape(drawing.title)}</h1>"
    yield f'<p class="lead">{": ".join([counts, *([", ".join(states)] if states else [])])}</p>'
    if rules:
        yield f'<ol aria-label="Rules">{"".join(rules)}</ol>'
    yield "".join(f"<p>{escape(line)}</p>" for line in (*facts, *drawing.notes))
    yield "</header>"


def _legend(drawing: Drawing) -> Iterator[str]:
    samples: list[tuple[str, str]] = [(state, text) for state, text in WORDS.items() if drawing.states[state]]
    samples += [("call fading", "gradually")] if any(cell.fades for cell in drawing.cells) else []
    if any(is_round(cell.site) for cell in drawing.cells):
        samples.append(("call round", "gate, head, or of weights: edited only if it is named"))
    samples += [("call hatched", "one object that is called several times")] if drawing.shared else []
    items = [f'<li><span class="c {kind}"></span>{text}</li>' for kind, text in samples]
    items += [
        f'<li><span class="row {row.mark}"><span class="block">0</span></span>block: {row.note}</li>'
        for row in {row.mark: row for row in drawing.rows if row.mark}.values()
    ]
    if drawing.values is not None:
        most = max(drawing.values.numbers.values(), default=0.0)
        about = escape(f"{drawing.values.name}, at most {most:.4g}")
        items.append(f'<li><span class="c call" style="--v:.7"></span>{about}</li>')
    items += ["<li>before → after</li>"] if drawing.before_and_after else []
    yield f'<ul class="legend" aria-label="Legend">{"".join(items)}</ul>'


def _tools(drawing: Drawing) -> Iterator[str]:
    """What the script can do: they are hidden without it."""
    yield '<div class="tools" hidden>'
    yield _choice("A click copies", "form", FORMS)
    if drawing.before_and_after:
        yield _choice("Show", "show", {"before and after": "both", "before": "before", "after": "after"})
    yield '<label>Find <input type="search" id="find" placeholder="layer3, relu, ..."></label>'
    yield "</div>"


def _choice(about: str, name: str, values: dict[str, str]) -> str:
    """Radio buttons, the first one chosen."""
    buttons = [
        f'<label><input type="radio" name="{name}" value="{escape(value)}"{"" if number else " checked"}>{text}</label>'
        for number, (text, value) in enumerate(values.items())
    ]
    return f"<fieldset><legend>{about}</legend>{''.join(buttons)}</fieldset>"


def _number(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"
