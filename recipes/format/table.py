"""Tables of the ready-made recipes in Markdown, one per family: what each does, on which models, and its results."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from itertools import groupby

from recipes.format.library import load, names, text_of
from recipes.format.recipe import Recipe

# The usual name of each family, by the first word of the names of its recipes.
_TITLES = {
    "convnext": "ConvNeXt", "densenet": "DenseNet", "efficientnet": "EfficientNet", "inception": "Inception",
    "mixer": "MLP-Mixer", "mobilenet": "MobileNet", "mobilenetv2": "MobileNetV2", "regnet": "RegNet",
    "resnet": "ResNet, ResNeXt, Wide ResNet", "swin": "Swin transformer", "vgg": "VGG", "vit": "ViT, DeiT",
}  # fmt: skip


def catalogue(pattern: str = "*") -> str:
    """A section per family, with the models its recipes were checked on and a row per recipe.

    "not yet" marks recipes without a recorded result. Recipes of one family that were checked on different models get
    separate tables.
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
