"""Catalogue: a row for every activation function, with its builder, its parameters and its source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from torch import nn

from surgery.activations.dispatch import kernel_of
from surgery.activations.expressions.expression import Expression
from surgery.activations.functions.affine import Affine
from surgery.activations.functions.formula import Formula
from surgery.activations.functions.helu import HeLU
from surgery.activations.functions.npwlu import NPWLU
from surgery.activations.functions.prelu import Alternation, FReLU, PReLU
from surgery.activations.functions.pwlu import PWLU
from surgery.activations.functions.rectified_scores import RectifiedScores
from surgery.activations.functions.simple import QuickGELU, SquaredReLU
from surgery.activations.functions.smelu import GSmeLU, SmeLU, rescu
from surgery.activations.functions.swish import Swish
from surgery.errors import BadValue

Per = Literal["channel", "layer"]

NONLINEARITY, GATE, HEAD, LINEAR = "nonlinearity", "gate", "head", "linear"


@dataclass(frozen=True, slots=True)
class Activation:
    """One row: how to build the function, its aliases, and its source.

    `build` takes the function's parameters as keywords; `channels` and `axis` if it has parameters per channel; `like`,
    a module, if it computes the replaced function for a while. `formula` is what it computes, `learns` its trained
    parameters, `ranges` the valid values of its parameters. `role` is its use: "nonlinearity", "gate", "head"
    (on the scores of a classifier), or "linear", which is not an activation.

    It can be initialised to match the functions in `begins` exactly, and any other as closely as possible, by the
    method in `fits`. A parameter named in `starts`, if given, determines the initial function instead, or only its own
    part of it if the parameters are independent (`apart`).
    """

    name: str
    build: Callable[..., nn.Module]
    aliases: tuple[str, ...] = ()
    formula: str = ""
    source: str = ""
    role: str = NONLINEARITY
    learns: tuple[str, ...] = ()
    ranges: Mapping[str, str] = field(default_factory=dict)
    begins: tuple[str, ...] = ()
    fits: str = ""
    starts: tuple[str, ...] = ()
    apart: bool = False
    kernel: str = ""

    @property
    def beginning(self) -> str:
        """How it can be initialised, in words."""
        exact = f"{', '.join(self.begins)} exactly" if self.begins else ""
        fitted = f"any other by {self.fits}" if self.fits else ""
        return "; ".join(part for part in (exact, fitted) if part) or (
            "its own values" if self.starts else "itself only"
        )

    def running(self) -> dict[str, str]:
        """How it is run, by device type."""
        if not self.kernel:
            return {"everywhere": "torch's own operations"}
        libraries = {"cpu": "numba", "cuda": "Triton"}
        return {
            device: f"one kernel ({library})" if kernel_of(self.kernel, device) else "the closed form"
            for device, library in libraries.items()
        }


def _shared(channels: int | None, per: Per) -> int:
    """The number of channels with separate parameters."""
    if per not in get_args(Per):
        raise BadValue("Parameters are per channel, or per layer.", asked=f"per={per!r}", try_="'channel' or 'layer'")
    return channels if channels is not None and per == "channel" else 1


def _above_zero(name: str, value: float) -> float:
    if not value > 0:
        raise BadValue(f"`{name}` must be above 0.", asked=f"{name}={value!r}")
    return value


def _prelu(channels: int | None = None, axis: int = 1, per: Per = "channel", init: float = 0.25) -> nn.Module:
    return PReLU(_shared(channels, per), init, axis)


def _frelu(
    channels: int | None = None, axis: int = 1, per: Per = "channel", positive: float = 1.0, negative: float = 0.0,
    alternate: Alternation | None = None, every: int = 1,
) -> nn.Module:  # fmt: skip
    return FReLU(_shared(channels, per), positive, negative, alternate=alternate, every=every, axis=axis)


def _pwlu(
    channels: int | None = None, axis: int = 1, like: nn.Module | None = None, per: Per = "channel",
    intervals: int = 16, bound: float | None = None, warmup: float = 0.0, snap: bool = True,
) -> nn.Module:  # fmt: skip
    return PWLU(_shared(channels, per), intervals, bound, warmup=warmup, snap=snap, like=like, axis=axis)


def _npwlu(
    channels: int | None = None, axis: int = 1, per: Per = "channel", intervals: int = 4, bound: float | None = None
) -> nn.Module:
    return NPWLU(_shared(channels, per), intervals, bound, axis=axis)


def _swish(
    channels: int | None = None, axis: int = 1, per: Per = "channel", beta: float = 1.0, learn: bool = True
) -> nn.Module:
    return Swish(_shared(channels, per), beta, learn=learn, axis=axis)


def _smelu(
    channels: int | None = None, axis: int = 1, per: Per = "channel", beta: float = 1.0, learn: bool = True
) -> nn.Module:
    return SmeLU(_shared(channels, per), beta, learn=learn, axis=axis)


def _gsmelu(
    channels: int | None = None, axis: int = 1, per: Per = "channel", left: float = 1.0, right: float = 1.0,
    low_slope: float = 0.0, high_slope: float = 1.0, height: float = 0.0, learn: bool = True,
) -> nn.Module:  # fmt: skip
    return GSmeLU(_shared(channels, per), left, right, low_slope, high_slope, height, learn=learn, axis=axis)


def _rescu(
    channels: int | None = None, axis: int = 1, per: Per = "channel", low_slope: float = 0.0,
    low_intercept: float = 0.0, high_slope: float = 1.0, high_intercept: float = 0.0, joint: float = 2.0,
    learn: bool = False,
) -> nn.Module:  # fmt: skip
    left, right = (low_slope, low_intercept), (high_slope, high_intercept)
    return rescu(left, right, joint, channels=_shared(channels, per), learn=learn, axis=axis)


def _affine(
    channels: int | None = None, axis: int = 1, per: Per = "channel", weight: float = 1.0, bias: float = 0.0
) -> nn.Module:
    return Affine(_shared(channels, per), weight, bias, axis=axis)


_PER = {"per": "'channel' or 'layer'"}
_PIECES = {"intervals": "1 to 512", "bound": "above 0, or None: from the input statistics"}
_HENDRYCKS = "Hendrycks and Gimpel 2016, arXiv 1606.08415, section 2"
_SHAMIR = "Shamir et al. 2020, arXiv 2010.09931"

ROWS = (
    Activation("identity", lambda: nn.Identity(), ("linear", "none"), "x", role=LINEAR),
    Activation(
        "affine", _affine, (), "weight x + bias", "the least-squares line of what it replaces", LINEAR,
        learns=("weight", "bias"), ranges=_PER, starts=("weight", "bias"), kernel="affine",
    ),
    Activation("relu", lambda: nn.ReLU(), (), "max(0, x)"),
    Activation("relu6", lambda: nn.ReLU6(), (), "min(max(0, x), 6)", "Howard et al. 2017, arXiv 1704.04861"),
    Activation(
        "leaky_relu", lambda negative_slope=0.01: nn.LeakyReLU(negative_slope), ("lrelu",),
        "max(0, x) + negative_slope min(0, x)", "Maas et al. 2013",
    ),
    Activation(
        "prelu", _prelu, (), "max(0, x) + weight min(0, x)", "He et al. 2015, arXiv 1502.01852, section 2.1",
        learns=("weight",), ranges=_PER, begins=("relu", "leaky_relu", "prelu"), fits="its value at -1",
        starts=("init",), kernel="prelu",
    ),
    Activation(
        "frelu", _frelu, (), "positive max(0, x) + negative min(0, x)",
        "Varshney and Singh 2021, DOI 10.1007/s11760-021-01863-z, abstract", learns=("positive", "negative"),
        ranges=_PER | {"alternate": "'slopes', 'weights' or None", "every": "steps, 1 or more"},
        begins=("relu", "leaky_relu", "prelu", "frelu"), fits="its values at -1 and 1",
        starts=("positive", "negative"), apart=True, kernel="frelu",
    ),
    Activation(
        "pwlu", _pwlu, (), "straight lines between heights at equal steps",
        "Zhou et al. 2021, arXiv 2104.03693, section 3", learns=("heights", "left", "right", "low_slope", "high_slope"),
        ranges=_PER | _PIECES | {"warmup": "share of the training, 0 to below 1"},
        begins=("relu", "relu6", "leaky_relu", "prelu", "frelu", "pwlu"), fits="least squares", kernel="pwlu",
    ),
    Activation(
        "npwlu", _npwlu, ("n_pwlu",), "straight lines between knots of any distance",
        "Zhou et al. 2022, ICPR, abstract", learns=("start", "height", "widths", "slopes"),
        ranges=_PER | _PIECES,
        begins=("relu", "relu6", "leaky_relu", "prelu", "frelu"), fits="least squares", kernel="npwlu",
    ),
    Activation(
        "smelu", _smelu, (), "0 below -beta, (x + beta)^2 / (4 beta), x above beta", f"{_SHAMIR}, SmeLU",
        learns=("beta",), ranges=_PER | {"beta": "above 0"}, begins=("smelu",), fits="the nearest member",
        starts=("beta",), kernel="smelu",
    ),
    Activation(
        "gsmelu", _gsmelu, (), "two lines joined by a parabola from -left to right", f"{_SHAMIR}, equation 11",
        learns=("left", "right", "low_slope", "high_slope", "height"), ranges=_PER | {"left": "left + right above 0"},
        begins=("gsmelu",), fits="the nearest member",
        starts=("left", "right", "low_slope", "high_slope", "height"), kernel="gsmelu",
    ),
    Activation(
        "rescu", _rescu, (), "two lines, joined by a parabola where they cross",
        f"{_SHAMIR}, RESCU", ranges=_PER | {"joint": "above 0"}, begins=(), fits="",
        starts=("low_slope", "low_intercept", "high_slope", "high_intercept", "joint"), kernel="gsmelu",
    ),
    Activation(
        "helu", lambda alpha=0.05: HeLU(alpha), (), "max(0, x); the gradient passes where x > -alpha",
        "Kimhi et al. 2024, arXiv 2411.10573", ranges={"alpha": "0 or more"}, begins=("relu",),
    ),
    Activation(
        "elu", lambda alpha=1.0: nn.ELU(_above_zero("alpha", alpha)), (), "x, or alpha (exp(x) - 1) below 0",
        "Clevert et al. 2015, arXiv 1511.07289", ranges={"alpha": "above 0"},
    ),
    Activation("selu", lambda: nn.SELU(), (), "1.0507 times ELU at alpha 1.6733", "Klambauer et al. 2017"),
    Activation(
        "celu", lambda alpha=1.0: nn.CELU(_above_zero("alpha", alpha)), (), "x, or alpha (exp(x / alpha) - 1) below 0",
        "Barron 2017, arXiv 1704.07483", ranges={"alpha": "above 0"},
    ),
    Activation("gelu", lambda: nn.GELU(), (), "x Phi(x)", _HENDRYCKS),
    Activation(
        "gelu_tanh", lambda: nn.GELU(approximate="tanh"), (), "x/2 (1 + tanh(0.7979 (x + 0.044715 x^3)))", _HENDRYCKS
    ),
    Activation("quick_gelu", lambda: QuickGELU(), (), "x sigmoid(1.702 x)", _HENDRYCKS),
    Activation("silu", lambda: nn.SiLU(), ("swish1",), "x sigmoid(x)", "Elfwing et al. 2017, arXiv 1702.03118"),
    Activation(
        "swish", _swish, (), "x sigmoid(beta x)", "Ramachandran et al. 2017, arXiv 1710.05941, section 4",
        learns=("beta",), ranges=_PER, begins=("silu", "swish", "quick_gelu"), fits="the nearest member",
        starts=("beta",), kernel="swish",
    ),
    Activation("mish", lambda: nn.Mish(), (), "x tanh(softplus(x))", "Misra 2019, arXiv 1908.08681"),
    Activation(
        "hardswish", lambda: nn.Hardswish(), ("hard_swish",), "x relu6(x + 3) / 6",
        "Howard et al. 2019, arXiv 1905.02244, section 5.2",
    ),
    Activation(
        "hardtanh", lambda min_val=-1.0, max_val=1.0: nn.Hardtanh(min_val, max_val), (),
        "min(max(min_val, x), max_val)", ranges={"min_val": "below max_val", "max_val": "above min_val"},
    ),
    Activation(
        "softplus", lambda beta=1.0, threshold=20.0: nn.Softplus(_above_zero("beta", beta), threshold), (),
        "log(1 + exp(beta x)) / beta", ranges={"beta": "above 0"},
    ),
    Activation("squared_relu", lambda: SquaredReLU(), ("relu2",), "max(0, x)^2", "So et al. 2021, section 4"),
    Activation("sigmoid", lambda: nn.Sigmoid(), (), "1 / (1 + exp(-x))", role=GATE),
    Activation("hardsigmoid", lambda: nn.Hardsigmoid(), ("hard_sigmoid",), "relu6(x + 3) / 6", role=GATE),
    Activation("tanh", lambda: nn.Tanh(), (), "tanh(x)"),
    Activation(
        "rectified_scores", lambda reading="scores", axis=-1: RectifiedScores(reading, axis=axis), (),
        "max(0, scores), or the logarithm of their shares", "Agarap 2018, arXiv 1803.08375",
        role=HEAD, ranges={"reading": "'scores' or 'shares'"},
    ),
)  # fmt: skip


def row_of_expression(expression: Expression) -> Activation:
    """The row of the function that an expression computes; its name is the expression as printed."""
    text = str(expression)

    def learned(channels: int | None = None, axis: int = 1, per: Per = "channel", learn: bool = True) -> nn.Module:
        return Formula(text, _shared(channels, per), learn=learn, axis=axis)

    source = "Ramachandran et al. 2017, arXiv 1710.05941, section 2"
    if not expression.betas:
        return Activation(text, lambda: Formula(text), formula=expression.formula, source=source)
    return Activation(text, learned, formula=expression.formula, source=source, learns=("beta",), ranges=_PER)
