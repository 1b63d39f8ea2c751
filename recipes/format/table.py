"""The table of the ready-made recipes, in Markdown: what each does, on what, what came of it, and how to run it."""

from __future__ import annotations

import tomllib

from recipes.format.library import load, names, text_of
from recipes.format.recipe import Recipe


def catalogue(pattern: str = "*") -> str:
    """A row for every ready-made recipe; "not yet measured" where its file records no result."""
    head = ["| recipe | what it does | checked on | measured | command |", "|---|---|---|---|---|"]
    return "\n".join(head + [_row(load(name)) for name in names(pattern)])


def _row(recipe: Recipe) -> str:
    result = tomllib.loads(text_of(recipe.name)).get("result", {})
    measured = result.get("measured", "not yet measured")
    models = ", ".join(f"`{model}`" for model in recipe.models)
    command = f"`surgery run {recipe.name} --model {recipe.models[0]} --data DATA --output out`"
    return f"| [`{recipe.name}`](files/{recipe.name}.toml) | {recipe.about} | {models} | {measured} | {command} |"
