"""The rows of the catalogue, and what can be asked of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from surgery.activations.parts import QuickGELU, SquaredReLU
from surgery.errors import BadValue, UnknownName, nearest
from surgery.kinds import TAG, activation_of_module


@dataclass(frozen=True, slots=True)
class Activation:
    """One row: how to build the function, under which other names people know it, and where it comes from.

    `build` takes the function's parameters as keywords, and `channels` if it has parameters per channel.
    """

    name: str
    build: Callable[..., nn.Module]
    aliases: tuple[str, ...] = ()
    source: str = ""


def _prelu(channels: int | None = None, init: float = 0.25) -> nn.Module:
    return nn.PReLU(1, init=init)


_ROWS = (
    Activation("identity", lambda: nn.Identity(), ("linear", "none")),
    Activation("relu", lambda: nn.ReLU()),
    Activation("relu6", lambda: nn.ReLU6()),
    Activation("leaky_relu", lambda negative_slope=0.01: nn.LeakyReLU(negative_slope), ("lrelu",)),
    Activation("prelu", _prelu, (), "He et al. 2015, section 2.1; one slope for all channels"),
    Activation("elu", lambda alpha=1.0: nn.ELU(alpha), (), "Clevert et al. 2015"),
    Activation("selu", lambda: nn.SELU(), (), "Klambauer et al. 2017"),
    Activation("celu", lambda alpha=1.0: nn.CELU(alpha), (), "Barron 2017"),
    Activation("gelu", lambda: nn.GELU(), (), "Hendrycks and Gimpel 2016"),
    Activation("gelu_tanh", lambda: nn.GELU(approximate="tanh"), (), "Hendrycks and Gimpel 2016, section 2"),
    Activation("quick_gelu", lambda: QuickGELU(), (), "Hendrycks and Gimpel 2016, section 2"),
    Activation("silu", lambda: nn.SiLU(), ("swish",), "Elfwing et al. 2017; Ramachandran et al. 2017"),
    Activation("mish", lambda: nn.Mish(), (), "Misra 2019"),
    Activation("hardswish", lambda: nn.Hardswish(), ("hard_swish",), "Howard et al. 2019, section 5.2"),
    Activation("hardtanh", lambda min_val=-1.0, max_val=1.0: nn.Hardtanh(min_val, max_val)),
    Activation("softplus", lambda beta=1.0, threshold=20.0: nn.Softplus(beta, threshold)),
    Activation("squared_relu", lambda: SquaredReLU(), ("relu2",), "So et al. 2021, section 4"),
    Activation("sigmoid", lambda: nn.Sigmoid()),
    Activation("hardsigmoid", lambda: nn.Hardsigmoid(), ("hard_sigmoid",)),
    Activation("tanh", lambda: nn.Tanh()),
)
_BY_NAME = {name: row for row in _ROWS for name in (row.name, *row.aliases)}


def names(pattern: str = "*") -> list[str]:
    """The names of all activations that can be put in, or of those that match a pattern such as "*gelu*"."""
    return sorted({row.name for row in _BY_NAME.values() if fnmatchcase(row.name, pattern)})


def build(name: str, channels: int | None = None, **params: Any) -> nn.Module:
    """Build one activation by name, for tensors with this many channels.

    Raises:
        UnknownName: no activation, or no parameter of it, has this name.
        BadValue: the builder refuses a parameter.
    """
    row = row_of(name)
    known = parameters(name)
    for key in params:
        if key not in known:
            raise UnknownName(
                f"{row.name!r} has no parameter {key!r}.", there=", ".join(known) or "no parameters",
                try_=nearest(key, known),
            )  # fmt: skip
    wants_channels = "channels" in inspect.signature(row.build).parameters
    try:
        module = row.build(channels=channels, **params) if wants_channels else row.build(**params)
    except (TypeError, ValueError) as error:
        raise BadValue(
            f"{row.name!r} cannot be built.", asked=", ".join(f"{key}={value!r}" for key, value in params.items()),
            there=str(error).partition("\n")[0],
        ) from error  # fmt: skip
    if activation_of_module(module) != row.name and row.name != "identity":
        module.__dict__[TAG] = row.name  # so that looking again finds it under this name
    return module


def parameters(name: str) -> tuple[str, ...]:
    """The names of the parameters `build` takes for this activation."""
    return tuple(key for key in inspect.signature(row_of(name).build).parameters if key != "channels")


def register(name: str, build: Callable[..., nn.Module], *, source: str = "") -> None:
    """Add your own activation: `build` returns a module, from keyword parameters and, if it asks for it, `channels`.

    Raises:
        BadValue: the name is taken.
    """
    if name in _BY_NAME:
        raise BadValue(f"An activation named {name!r} exists already.", try_="another name")
    _BY_NAME[name] = Activation(name, build, (), source)


def row_of(name: str) -> Activation:
    """The row with this name or alias.

    Raises:
        UnknownName: there is none.
        BadValue: this is no name.
    """
    if not isinstance(name, str):
        raise BadValue("An activation is asked for by its name.", asked=repr(name), try_="'gelu'")
    if name not in _BY_NAME:
        raise UnknownName(
            f"No activation is named {name!r}.",
            there=", ".join(names()),
            try_=nearest(name, _BY_NAME) or f"surgery.activations.register({name!r}, build)",
        )
    return _BY_NAME[name]
