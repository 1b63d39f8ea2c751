"""Ready-made recipes as data files, and the models, data, fine-tuning and command line that run them.

Pick with `names` and `load`, try with `surgery.transform(model, recipe)`, carry out with `run`, reload with
`load_model`. Importing this package imports neither timm nor torchvision: `surgery --help` must answer at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__all__ = [
    "Finetune",
    "Pruning",
    "Recipe",
    "build",
    "data",
    "describe",
    "effects",
    "find",
    "load",
    "load_model",
    "names",
    "preprocessing_of",
    "rehearse",
    "run",
    "search",
]

if TYPE_CHECKING:
    from recipes import data
    from recipes.activation_search.search import search
    from recipes.check.suggestions import find
    from recipes.format.effects import effects
    from recipes.format.library import describe, load, names
    from recipes.format.recipe import Recipe
    from recipes.format.settings import Finetune, Pruning
    from recipes.models.build import build, load_model
    from recipes.models.preprocessing import preprocessing_of
    from recipes.runs.rehearsal import rehearse
    from recipes.runs.run import run
else:
    # The imports above, made on first access.
    _HOMES = {
        "build": "models.build", "load_model": "models.build", "preprocessing_of": "models.preprocessing",
        "names": "format.library", "load": "format.library", "describe": "format.library",
        "effects": "format.effects", "find": "check.suggestions", "rehearse": "runs.rehearsal", "run": "runs.run",
        "Recipe": "format.recipe", "Pruning": "format.settings", "Finetune": "format.settings",
        "search": "activation_search.search",
    }  # fmt: skip

    def __getattr__(name: str) -> object:
        if name in _HOMES:
            return getattr(import_module(f"recipes.{_HOMES[name]}"), name)
        if name in __all__:
            return import_module(f"recipes.{name}")
        raise AttributeError(f"module 'recipes' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
