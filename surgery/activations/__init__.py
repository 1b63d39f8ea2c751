"""The catalogue of activations: the functions that can replace an activation call, by name."""

from surgery.activations.catalogue import Activation
from surgery.activations.dispatch import only
from surgery.activations.functions.affine import Affine
from surgery.activations.functions.arithmetic import Arithmetic
from surgery.activations.functions.fade import Fade
from surgery.activations.functions.formula import Formula
from surgery.activations.functions.helu import HeLU
from surgery.activations.functions.npwlu import NPWLU
from surgery.activations.functions.prelu import FReLU, PReLU
from surgery.activations.functions.pwlu import PWLU
from surgery.activations.functions.rectified_scores import RectifiedScores
from surgery.activations.functions.simple import Copy, InPlace, QuickGELU, SquaredReLU, Unused
from surgery.activations.functions.smelu import GSmeLU, SmeLU, rescu
from surgery.activations.functions.swish import Swish
from surgery.activations.registry import build, describe, names, parameters, register, row_of

__all__ = [
    "NPWLU",
    "PWLU",
    "Activation",
    "Affine",
    "Arithmetic",
    "Copy",
    "FReLU",
    "Fade",
    "Formula",
    "GSmeLU",
    "HeLU",
    "InPlace",
    "PReLU",
    "QuickGELU",
    "RectifiedScores",
    "SmeLU",
    "SquaredReLU",
    "Swish",
    "Unused",
    "build",
    "describe",
    "names",
    "only",
    "parameters",
    "register",
    "rescu",
    "row_of",
]


def __dir__() -> list[str]:
    return __all__
