"""Check: how far a merged layer, and a merged model, are from what they replace."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from surgery.errors import NotProved, cause_of
from surgery.isolation.held_tensors import reachable_tensors
from surgery.isolation.meta_copy import scratch_copy
from surgery.look.example import Example
from surgery.merging.maps.linear_map import LinearMap
from surgery.model import home_of, in_mode
from surgery.rng import seeded

# The largest relative errors that are rounding: of the map in float64, of a layer in the dtype of the model, and of the
# outputs of the model, which grow with its depth.
EXACT = 1e-9
_OF_LAYER = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
_OF_MODEL = {torch.float64: 1e-6, torch.float32: 1e-2, torch.float16: 0.2, torch.bfloat16: 0.5}


@dataclass(frozen=True, slots=True)
class Difference:
    """The maximum error of a merged layer, relative to the largest output: in float64, and in the model's dtype."""

    exact: float
    cast: float


@torch.no_grad()
def difference_of(
    path: str, before: Sequence[nn.Module], after: Sequence[nn.Module], given: Tensor, dtype: torch.dtype
) -> Difference:
    """Run modules one after the other, before and after the merge, on an input in float64.

    Raises:
        NotProved: they differ by more than rounding.
    """
    exact = relative(_run(after, given, torch.float64), _run(before, given, torch.float64))
    rounded = given.to(dtype)
    cast = relative(_run(after, rounded, dtype).double(), _run(before, rounded.double(), torch.float64))
    limit = _OF_LAYER.get(dtype, _OF_LAYER[torch.float32])
    if not exact <= EXACT or not cast <= limit:
        raise NotProved(
            f"The layer merged at {path} is not what it replaces.",
            asked=f"relative error {exact:.2g} in float64, {cast:.2g} in {str(dtype).removeprefix('torch.')}",
            there=f"at most {EXACT:g} and {limit:g}",
        )  # fmt: skip
    return Difference(exact, cast)


def relative(got: Tensor, wanted: Tensor) -> float:
    """The maximum error relative to the largest of the wanted values."""
    if got.shape != wanted.shape:
        return math.inf
    scale = float(wanted.abs().max())
    return float((got - wanted).abs().max()) / (scale or 1.0)


@torch.no_grad()
def outputs_differ(model: nn.Module, merged: nn.Module, sample: Example) -> float:
    """The maximum error of the outputs of a merged model in eval mode, relative to the largest; of the worst output.

    Raises:
        NotProved: they differ by more than rounding, or the merged model does not run.
    """
    expected = _outputs(model, sample)
    try:
        found = _outputs(merged, sample)
    except Exception as error:  # its code reads weights or attributes of a module that is the identity now
        raise NotProved(
            f"The merged {type(model).__name__} does not run.", asked=cause_of(error),
            try_="merge(model, groups=...) without the group that this is about",
        ) from error  # fmt: skip
    worst = 0.0
    for wanted, got in zip(expected, found, strict=True):
        if wanted.is_floating_point() and bool(wanted.isfinite().all()) and wanted.numel():
            limit = _OF_MODEL.get(wanted.dtype, 1e-2)
            worst = max(worst, relative(got.double(), wanted.double()))
            if not worst <= limit:
                raise NotProved(
                    f"The merged {type(model).__name__} does not compute what the unmerged one does.",
                    asked=f"relative error {worst:.2g}", there=f"at most {limit:g}",
                )  # fmt: skip
    return worst


def _outputs(model: nn.Module, sample: Example) -> list[Tensor]:
    with seeded():
        copied = in_mode(scratch_copy(model, meta=False), "eval")
        given = sample.on(home_of(model))
        return list(reachable_tensors(copied(*given.args, **given.kwargs)))


def _run(modules: Iterable[nn.Module], given: Tensor, dtype: torch.dtype) -> Tensor:
    value = given.clone()
    for module in modules:
        value = in_mode(copy.deepcopy(module).cpu().to(dtype), "eval")(value)
    return value


def random_input(made: LinearMap, shape: tuple[int, ...]) -> Tensor:
    """Random numbers of a shape like this one, of as small a space as shows all of a kernel."""
    space = shape[2:] if made.kernel else ()
    small = []
    for size, window, step, (low, high) in zip(space, made.extent, made.stride, made.padding, strict=True):
        least = max(2 * window + 2 * step, low + high + window)
        small.append(min(size, least + (size - least) % step))
    generator = torch.Generator().manual_seed(0)
    sizes = (2, *shape[1:2], *small) if made.kernel else (2, *shape[1:])
    return torch.randn(sizes, dtype=torch.float64, generator=generator)
