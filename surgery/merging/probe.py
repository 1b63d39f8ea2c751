"""Probe: the kernel of a linear module, read off its Jacobian, where its code cannot be read."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from surgery.merging.maps.linear_map import LinearMap, NotMergeable, spatial
from surgery.model import in_mode

_CANVASES = (12, 24, 48)  # sizes to probe on, one after the other until the kernel fits
_REMAINDERS = 8  # a size leaves the remainder that the example leaves, so that strides up to this one fit
_ROUNDING = 1e-9  # relative
_CONVOLVE: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def probed(module: nn.Module, shape: tuple[int, ...]) -> LinearMap:
    """The map of a module in eval mode for inputs (N, C, *space), found by running it in float64 on the CPU.

    On a zero canvas, the output in the middle is the bias, and its Jacobian, cropped to where it is not 0, the kernel.
    The map is compared with the module on random numbers, border included.

    Raises:
        NotMergeable: it is not linear, or not the same at all places, or its border has no exact form.

    Source: Ben Dror et al. 2021, "Layer Folding", per channel there.
    """
    if not 1 <= len(shape) - 2 <= 3:
        raise NotMergeable("its input is not an image")
    run = in_mode(copy.deepcopy(module).cpu().double(), "eval").requires_grad_(False)
    try:
        for least in _CANVASES:
            canvas = (shape[1], *(least + size % _REMAINDERS for size in shape[2:]))
            stride = _check_alike(run, canvas)
            if (made := _read(run, canvas, stride)) is not None:
                _compare(made, run, (2, *canvas))
                return made
    except NotMergeable:
        raise
    except Exception as error:  # whatever a forward may raise
        raise NotMergeable(f"it does not run alone ({type(error).__name__})") from error
    raise NotMergeable("it reads all of its input")


@torch.no_grad()
def _check_alike(run: nn.Module, canvas: tuple[int, ...]) -> tuple[int, ...]:
    """Check cheaply that a module is affine and does the same everywhere, border included; return its stride."""
    one, two = _random((2, *canvas)), _random((2, *canvas), seed=1)
    zero = run(torch.zeros_like(one))
    if not isinstance(zero, Tensor) or zero.dim() != one.dim():
        raise NotMergeable("it does not return an image")
    got, other, both = run(one.clone()), run(two.clone()), run(one + two)
    if not _equal(got + other, both + zero):
        raise NotMergeable("it is not linear")
    middle = zero[spatial(slice(size // 2, size // 2 + 1) for size in zero.shape[2:])]
    stride = tuple(max(round(n / m), 1) for n, m in zip(canvas[1:], zero.shape[2:], strict=True))
    around = run(F.pad(one, (_REMAINDERS,) * 2 * len(stride)))
    cut = [_REMAINDERS // step for step in stride]
    inner = (slice(low, low + size) for low, size in zip(cut, got.shape[2:], strict=True))
    if not _equal(zero, middle.expand_as(zero)) or not _equal(around[spatial(inner)], got):
        raise NotMergeable("its border has no exact form; move the padding first")
    return stride


def _read(run: nn.Module, canvas: tuple[int, ...], stride: tuple[int, ...]) -> LinearMap | None:
    """The map, by the Jacobian of the output in the middle; None if that reads the canvas up to its border."""
    zero = torch.zeros((1, *canvas), dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        result = run(zero * 1)  # a forward may write into its input, which a leaf does not allow
        if not result.requires_grad:
            raise NotMergeable("it does not depend on its input")
        sizes = list(zip(canvas[1:], result.shape[2:], strict=True))
        middle = tuple(after // 2 for _, after in sizes)
        place = result[0][spatial(middle)]
        rows = [torch.autograd.grad(value, zero, retain_graph=True)[0][0] for value in place]
    jacobian = torch.stack(rows)
    used = jacobian.flatten(0, 1).abs().sum(0)
    lows, windows = [], []
    for axis, (step, at, size) in enumerate(zip(stride, middle, canvas[1:], strict=True)):
        along = used.movedim(axis, 0).reshape(size, -1).sum(1).nonzero().flatten()
        first, last = (int(along[0]), int(along[-1])) if len(along) else (step * at, step * at)
        if first == 0 or last == size - 1:
            return None
        lows.append(min(first, step * at))
        windows.append(last + 1 - lows[-1])
    window = tuple(slice(low, low + size) for low, size in zip(lows, windows, strict=True))
    padding = []
    for low, size, step, at, (before, after) in zip(lows, windows, stride, middle, sizes, strict=True):
        pad = step * at - low
        padding.append((pad, max(step * (after - 1) + size - before - pad, 0)))
    weight, groups = _grouped(jacobian[spatial(window)])
    bias = place.detach()
    ones = (1,) * len(stride)
    return LinearMap(weight, bias if bool(bias.any()) else None, stride, tuple(padding), ones, groups)


def _grouped(weight: Tensor) -> tuple[Tensor, int]:
    """The weight (out, in / groups, *kernel) of a dense one, with as many groups as leave out nothing but zeros."""
    outputs, inputs = weight.shape[:2]
    common = math.gcd(outputs, inputs)
    for groups in sorted((g for g in range(2, common + 1) if common % g == 0), reverse=True):
        parts = weight.reshape(groups, outputs // groups, groups, inputs // groups, *weight.shape[2:])
        own = parts[range(groups), :, range(groups)]
        if int(own.count_nonzero()) == int(parts.count_nonzero()):
            return own.reshape(outputs, inputs // groups, *weight.shape[2:]), groups
    return weight, 1


@torch.no_grad()
def _compare(made: LinearMap, run: nn.Module, shape: tuple[int, ...]) -> None:
    given = _random(shape)
    padded = F.pad(given, [side for sides in reversed(made.padding) for side in sides])
    got = _CONVOLVE[len(made.kernel)](padded, made.weight, made.bias, made.stride, groups=made.groups)
    if not _equal(got, run(given.clone())):
        raise NotMergeable("it is not the same at all places")


def _equal(one: Tensor, two: Tensor) -> bool:
    limit = _ROUNDING * float(two.abs().max())
    return one.shape == two.shape and float((one - two).abs().max()) <= limit


def _random(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
