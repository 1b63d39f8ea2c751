"""Ready-made recipes as data files, and the models, data, fine-tuning and command line that run them.

Importing this package imports neither timm nor torchvision: `surgery --help` must answer at once.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    if name in ("build", "load_model"):
        from recipes import models

        return getattr(models, name)
    raise AttributeError(f"module 'recipes' has no attribute {name!r}")
