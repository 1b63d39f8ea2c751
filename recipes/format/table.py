"""The tables of the ready-made recipes, in Markdown, one a family: what each does, on what, and what came of it."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from itertools import groupby

from recipes.format.library import load, names, text_of
from recipes.format.recipe import Recipe

# What people call the networks that the first word of a recipe's name stands for.
_TITLES = {
    "convnext": "ConvNeXt", "densenet": "DenseNet", "efficientnet": "EfficientNet", "inception": "Inception",
    "mixer": "MLP-Mixer", "mobilenet": "MobileNet", "mobilenetv2": "MobileNetV2", "regnet": "RegNet",
    "resnet": "ResNet, ResNeXt, Wide ResNet", "swin": "Swin transformer", "vgg": "VGG", "vit": "ViT, DeiT",
}  # fmt: skip


def catalogue(pattern: str = "*") -> str:
    """A section for every family: the models its recipes were checked on, named once, and a row for each recipe.

    "not yet" where a recipe's file records no result. Recipes of a family that were checked on other models than the
    rest get a table of their own.
    """
    recipes = sorted((load(name) for name in names(pattern)), key=_family)
    return "\n\n".join(_section(*family, recipes) for family, recipes in groupby(recipes, key=_family))


def _family(recipe: Recipe) -> tuple[str, tuple[str, ...]]:
    return recipe.name.partition("-")[0], recipe.models


def _section(family: str, models: tuple[str, ...], recipes: Iterable[Recipe]) -> str:
    head = [f"## {_TITLES.get(family, family)}", "", f"Checked on {_by_source(models)}.", ""]
    return "\n".join([*head, "| recipe | what it does | measured |", "|---|---|---|", *map(_row, recipes)])


def _by_source(models: tuple[str, ...]) -> str:
    """Each source of models once, with its own names behind it."""
    split = [model.split("/", 1) for model in models]
    groups = {source: [name for other, name in split if other == source] for source, _ in split}
    return "; ".join(f"{source}: " + ", ".join(f"`{name}`" for name in found) for source, found in groups.items())


def _row(recipe: Recipe) -> str:
    measured = tomllib.loads(text_of(recipe.name)).get("result", {}).get("measured", "not yet")
    return f"| [`{recipe.name}`](files/{recipe.name}.toml) | {recipe.about} | {measured} |"
