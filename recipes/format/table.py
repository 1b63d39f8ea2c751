"""Tables of the ready-made recipes in Markdown, one per family: what each does, on which models, and its results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

from recipes.format.effects import Effect, all_effects, percent
from recipes.format.library import names, tables_of
from recipes.format.recipe import Recipe

# The usual name of each family, by the first word of the names of its recipes.
_TITLES = {
    "convnext": "ConvNeXt", "densenet": "DenseNet", "efficientnet": "EfficientNet", "inception": "Inception",
    "mixer": "MLP-Mixer", "mobilenet": "MobileNet", "mobilenetv2": "MobileNetV2", "regnet": "RegNet",
    "resnet": "ResNet, ResNeXt, Wide ResNet", "swin": "Swin transformer", "vgg": "VGG", "vit": "ViT, DeiT",
}  # fmt: skip

_HEAD = (
    "recipe", "what it does", "network", "before", "after surgery", "trained", "untouched", "difference", "it costs",
)  # fmt: skip
_RULE = ("---", "---", "---", "---:", "---:", "---:", "---:", "---:", "---")


def catalogue(pattern: str = "*") -> str:
    """A section per family, with the models its recipes were checked on and a row per recipe.

    Each row has what was measured, see `recipes.effects`; a recipe that was measured on several networks has several
    rows. Recipes of one family that were checked on different models get separate tables.
    """
    recipes = sorted(map(_titled, names(pattern)), key=_family)
    return "\n\n".join(_section(*family, recipes) for family, recipes in groupby(recipes, key=_family))


def _titled(name: str) -> Recipe:
    """The name of a recipe, what it does, and its models; the rest of its file is not read."""
    tables = tables_of(name)
    return Recipe(name=name, rules=(), about=tables["about"], models=tuple(tables["models"]))


def _family(recipe: Recipe) -> tuple[str, tuple[str, ...]]:
    return recipe.name.partition("-")[0], recipe.models


def _section(family: str, models: tuple[str, ...], recipes: Iterable[Recipe]) -> str:
    head = [f"## {_TITLES.get(family, family)}", "", f"Checked on {_by_source(models)}.", ""]
    rows = [row for recipe in recipes for row in _rows(recipe)]
    return "\n".join([*head, *(f"| {' | '.join(cells)} |" for cells in (_HEAD, _RULE, *rows))])


def _by_source(models: tuple[str, ...]) -> str:
    """Each source of models once, with its own names behind it."""
    split = [model.split("/", 1) for model in models]
    groups = {source: [name for other, name in split if other == source] for source, _ in split}
    return "; ".join(f"{source}: " + ", ".join(f"`{name}`" for name in found) for source, found in groups.items())


def _rows(recipe: Recipe) -> Iterator[tuple[str, ...]]:
    found = all_effects().of(recipe.name)
    for number, effect in enumerate(found):
        yield (*(_first(recipe) if number == 0 else ("", "")), *_cells(effect))
    if not found:
        yield (*_first(recipe), "not measured", "", "", "", "", "", "")


def _first(recipe: Recipe) -> tuple[str, str]:
    return f"[`{recipe.name}`](files/{recipe.name}.toml)", recipe.about


def _cells(effect: Effect) -> tuple[str, ...]:
    accuracies = map(percent, (effect.before, effect.after_surgery, effect.accuracy, effect.control))
    points = f"**{effect.points}**" if effect.harms else effect.points
    return (effect.network, *accuracies, points, effect.cost)
