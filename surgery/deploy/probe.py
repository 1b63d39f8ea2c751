"""Probe: one activation alone on a target: the operators it becomes, and how far they are from torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from surgery.activations import build, parameters, row_of
from surgery.activations.support import FAILS, FLOAT, OPERATOR, PIECES, WRONG
from surgery.dataflow.trace import CallRecord
from surgery.deploy.comparison import HALF_TOLERANCE, TOLERANCE, max_error
from surgery.deploy.network import Flat, Network
from surgery.deploy.target import Target
from surgery.deploy.written import written
from surgery.errors import in_full
from surgery.isolation.leftovers import no_leftovers
from surgery.isolation.meta_copy import copied, scratch_copy
from surgery.look.listen import trace_forward
from surgery.look.observe import Key
from surgery.look.site import Site, Sites
from surgery.model import home_of, in_mode
from surgery.rng import seeded

_FEW = 4  # operators that are named where there is little room
_POOLS: dict[int, type[nn.Module]] = {3: nn.MaxPool1d, 4: nn.MaxPool2d}
_UNLIKE = 0.1  # how far parameters of the first and the last channel are set apart


@dataclass(frozen=True, slots=True)
class Probed:
    """What a target makes of one function: its operators in order, the maximum error, or the problem it has with it.

    The error is relative where the output of torch is above 1, absolute below; None where the target was not run. It is
    wrong above `tolerance`. `in_float`: between quantised layers, it is computed in float.
    """

    operators: tuple[str, ...] = ()
    error: float | None = None
    problem: str = ""
    tolerance: float = TOLERANCE
    in_float: bool = False

    @property
    def verdict(self) -> str:
        """One of "fails", "wrong", "one operator", "decomposed"."""
        if self.problem:
            return FAILS
        if self.error is not None and not self.error <= self.tolerance:
            return WRONG
        if self.in_float:
            return FLOAT
        return OPERATOR if len(self.operators) <= 1 else PIECES

    def __str__(self) -> str:
        if self.problem:
            return FAILS
        return in_short(self.operators, most=_FEW) + (f", {WRONG}" if self.verdict == WRONG else "")


def probed(function: nn.Module, entered: Tensor, target: Target) -> Probed:
    """Export a function alone, run it on this input on the target, row by row, and compare it with torch."""
    pool = _POOLS.get(entered.dim()) if target.frame else None
    alone = nn.Sequential(pool(1), function, pool(1)) if pool else function
    network = Network(in_mode(Flat(alone), "eval"), (entered,))
    tolerance = HALF_TOLERANCE if entered.dtype == torch.float16 else TOLERANCE
    try:
        with written(network.one_by_one(), target) as made:
            operators = tuple(name for name in made.operators if name not in target.frame)
            if target.load is None:
                return Probed(operators, tolerance=tolerance)
            run = made.loaded()
            found = torch.cat([run([row])[0] for row in entered.split(1)])
    except Exception as error:  # a runtime may raise whatever it likes where it runs, too
        return Probed(problem=in_full(error))
    return Probed(operators, error_of(found, network.run([entered])[0]), tolerance=tolerance)


def error_of(found: Tensor, wanted: Tensor) -> float:
    """The maximum error, relative where the wanted value is above 1, absolute below."""
    if found.shape != wanted.shape:
        return float("inf")
    scale = wanted.double().abs().clamp(min=1.0).nan_to_num(1.0, 1.0)
    return max_error([found / scale], [wanted / scale])


def function_at(model: nn.Module, site: Site) -> nn.Module:
    """A copy of what is called at a site; of a function, or of what works in place, a module that computes the same."""
    learns = row_of(site.activation).learns
    if site.module is not None and not site.by_reference and (learns or not site.inplace):
        return copied(model.get_submodule(site.module)).cpu()
    known = parameters(site.activation)
    options: dict[str, Any] = {name: value for name, value in site.options if name in known}
    return build(site.activation, site.channels if learns else None, axis=site.channel_axis, **options)


def as_trained(function: nn.Module) -> nn.Module:
    """A copy whose channels are unlike: some targets take a function only as long as all channels are alike."""
    trained = copied(function)
    with torch.no_grad():
        for parameter in trained.parameters():
            channels = parameter.shape[-1] if parameter.dim() else 1
            if channels > 1 and (parameter == parameter[..., :1]).all():
                # Added, since a factor leaves zeros alike.
                parameter.add_(torch.linspace(0.0, _UNLIKE, channels, dtype=parameter.dtype))
    return trained


def inputs_at(model: nn.Module, sites: Sites, wanted: Iterable[Site]) -> dict[Key, Tensor]:
    """What each of these calls receives in eval mode on the example: two rows of it."""
    keys = {site.key for site in wanted}
    entered: dict[Key, Tensor] = {}

    def look(record: CallRecord, x: Tensor) -> None:
        if record.key in keys:
            entered.setdefault(record.key, x[:2].detach().float().cpu().clone())

    alone = in_mode(scratch_copy(model, meta=False), "eval")
    with seeded(), no_leftovers(model) as tracking:
        sample = sites.example.on(home_of(model))
        trace_forward(alone, sample.args, sample.kwargs, look, tracking=tracking)
    return entered


def in_short(operators: tuple[str, ...], most: int | None = None) -> str:
    """The operators in order, a run of equal ones as "3 Add"; of more than `most` such runs, how many operators."""
    if not operators:
        return "nothing"
    runs: list[tuple[str, int]] = []
    for name in operators:
        runs = [*runs[:-1], (name, runs[-1][1] + 1)] if runs and runs[-1][0] == name else [*runs, (name, 1)]
    if most is not None and len(runs) > most:
        return f"{len(operators)} operators"
    return " + ".join(name if count == 1 else f"{count} {name}" for name, count in runs)
