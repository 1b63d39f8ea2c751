"""Ready-made recipes as data files, and the models, data, fine-tuning and command line that run them.

Pick with `names` and `load`, try with `surgery.transform(model, recipe)`, carry out with `run`, reload with
`load_model`. Importing this package imports neither timm nor torchvision: `surgery --help` must answer at once.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "build": "models.build", "load_model": "models.build",
    "names": "format.library", "load": "format.library", "describe": "format.library",
    "Recipe": "format.recipe", "Pruning": "format.settings", "Finetune": "format.settings",
    "run": "runs.run", "preprocessing_of": "models.preprocessing",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"recipes.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'recipes' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
