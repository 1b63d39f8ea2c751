"""Old names: modules of version 0.1 that pickled models refer to, and where their classes are now."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "surgery.activations.affine": "surgery.activations.functions.affine",
    "surgery.activations.classifier": "surgery.activations.functions.rectified_scores",
    "surgery.activations.fade": "surgery.activations.functions.fade",
    "surgery.activations.helu": "surgery.activations.functions.helu",
    "surgery.activations.npwlu": "surgery.activations.functions.npwlu",
    "surgery.activations.parts": "surgery.activations.functions.simple",
    "surgery.activations.pwlu": "surgery.activations.functions.pwlu",
    "surgery.activations.slopes": "surgery.activations.functions.prelu",
    "surgery.activations.smooth": "surgery.activations.functions.smelu",
    "surgery.activations.swish": "surgery.activations.functions.swish",
    "surgery.edits": "surgery.edit.change",
    "surgery.report": "surgery.plan.report",
    "surgery.rewrite": "surgery.code.subclass",
    "surgery.rules": "surgery.plan.rules",
    "surgery.sites": "surgery.look.site",
}


class OldNames(MetaPathFinder, Loader):
    """Imports a module under its old name, with the content of the new one."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        vars(module).update({name: value for name, value in vars(new(module)).items() if not name.startswith("__")})


def new(module: ModuleType) -> ModuleType:
    """The module that replaces this one."""
    return import_module(MOVED[module.__name__])


def install() -> None:
    """Make pickles of version 0.1 loadable in this process."""
    if not any(isinstance(finder, OldNames) for finder in sys.meta_path):
        sys.meta_path.append(OldNames())
