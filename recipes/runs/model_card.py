"""Model card: describe the content of a result folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recipes.data.preprocessing import Preprocessing
from recipes.runs.outcome import Outcome
from surgery.errors import BadFile
from surgery.serialization.model_folder import read_steps

MARK = "library_name: activation-surgery"
HEADER = f"""---
{MARK}
pipeline_tag: image-classification
tags:
- activation-surgery
---
"""
TRAP = """\
**Do not load it in any other way.** An edited network has the same weight names and shapes as the original one, so
`timm.create_model` and torchvision's builders load these weights without an error, but compute something else: every
activation that was erased or swapped is back. The edits are in `surgery.json`, not in the weights."""


def card(folder: str | Path) -> str:
    """The model card, in Markdown, of a folder that `surgery.save` or a run wrote.

    It lists the edits, the versions, the measurements (from `result.json`, if present), and how to load the network.
    It is built from the files in the folder alone, and does not mention paths, users or machines.

    Raises:
        BadFile: `folder` was not written by `surgery.save`, or its `result.json` is damaged.
    """
    source = Path(folder)
    saved = read_steps(source)
    outcome = Outcome.from_json(text) if (text := _text(source / "result.json")) else None
    model = (saved["model"] or {}).get("name") or saved["kind"]
    parts = [HEADER + f"# {model}" + (f", {outcome.recipe}" if outcome else ""), "\n".join(_done(saved, outcome))]
    if outcome:
        parts += ["## Measured", f"On the test images of {outcome.data}:", outcome.to_markdown()]
    if outcome and outcome.preprocessing:
        parts += ["## Input", f"Preprocessing of its images: {Preprocessing().changed(outcome.preprocessing)}."]
    parts += ["## Load", _how_to_load(saved)]
    if saved["steps"]:
        parts += [TRAP]
    if recipe := _text(source / "recipe.toml"):
        parts += ["## Recipe", _fenced(recipe, "toml")]
    versions = {**(outcome.versions if outcome else {}), **saved["versions"]}  # the latter include torch's build
    versions.pop("format", None)
    parts += ["## Versions", ", ".join(f"{name} {version}" for name, version in versions.items())]
    return "\n\n".join(parts) + "\n"


def _done(saved: dict[str, Any], outcome: Outcome | None) -> Iterator[str]:
    """What was done, as a list: rule by rule, or step by step without rules."""
    if not saved["steps"]:
        yield "No activation was edited: the network is the one that its library builds."
    for step in saved["steps"]:
        if step["kind"] != "surgery":
            yield f"- a step of the kind `{step['kind']}`"
            continue
        yield from (f"- `{rule}`" for rule in step["data"]["asked"])
        yield f"- together: {_counted(step['data']['edits'])}"
    if outcome:
        yield f"\nIt took {outcome.seconds:.0f} s."


def _counted(edits: list[dict[str, Any]]) -> str:
    """The replacements and their counts."""
    counts: dict[str, int] = {}
    for edit in edits:
        change = f"{edit['was']} to {edit['make']}"
        counts[change] = counts.get(change, 0) + 1
    return ", ".join(f"{count} times {change}" for change, count in counts.items()) or "nothing"


def _how_to_load(saved: dict[str, Any]) -> str:
    if saved["model"]:
        lines = ["import recipes", "", "model = recipes.load_model(FOLDER).eval()  # or hf-hub:USER/NAME"]
    else:
        lines = ["import surgery", "", "model = surgery.load(FOLDER, fresh)  # fresh: the network before surgery"]
    return "With `pip install activation-surgery`:\n\n" + _fenced("\n".join(lines), "python")


def _fenced(text: str, language: str) -> str:
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8") if file.is_file() else ""
    except UnicodeDecodeError as error:
        raise BadFile(f"{file.name} is not text.", asked=str(error)) from error
