"""Run as a program under TRITON_INTERPRET=1: every Triton kernel on the CPU beside its closed form, a line per case.

Each line is a case and how far the worst of its values and gradients is from that of the closed form in float64, in
units of what is allowed: above 1 is wrong.
"""

from __future__ import annotations

import json
import warnings

import torch
from torch import Tensor

from surgery.activations.dispatch import Function, gradients_of, value_of
from surgery.activations.kernels import triton_kernels
from surgery.activations.kernels.triton_kernels import FUNCTIONS, KERNELS

# Shape, axis of the channels, and how it lies in memory.
PLACES = {
    "odd planes": ((3, 8, 7, 9), 1, "plain"),
    "odd rows": ((3, 8, 7, 9), 1, "channels_last"),
    "vectors": ((3, 5, 4, 4), 1, "plain"),
    "many rows": ((2, 70, 5, 5), 1, "channels_last"),
    "sequence": ((2, 5, 4), 1, "plain"),
    "last axis": ((2, 5, 4), -1, "plain"),
    "table": ((6, 3), 1, "plain"),
    "first axis": ((3, 6), 0, "transposed"),
    "with gaps": ((3, 4, 5), 1, "sliced"),
    "five axes": ((2, 3, 2, 3, 2), 1, "plain"),
    "one place": ((2, 7, 1, 1), 1, "plain"),
}
SPECIAL = (float("inf"), float("-inf"), float("nan"), 1.0, -1.0, 0.0)  # bounds and joints of some channel among them


def main() -> None:
    torch.manual_seed(0)
    for name, function in FUNCTIONS.items():
        # What is common to all functions of one or two parameters is tried with one of them.
        for place, (shape, axis, layout) in list(PLACES.items())[: None if name in ("frelu", "pwlu") else 2]:
            x = laid_out(1.5 * torch.randn(shape), layout)
            report(f"{name}, {place}", function, x, axis, parameters(name, shape[axis]))
        x = 1.5 * torch.randn(2, 5, 7, 3)
        for layout in ("plain", "channels_last"):
            report(f"{name}, bfloat16 {layout}", function, laid_out(x.bfloat16(), layout), 1, parameters(name, 5))
        report(f"{name}, shared", function, laid_out(x, "channels_last"), 1, parameters(name, 1))
        first, *others = parameters(name, 5)
        report(f"{name}, some shared", function, x, 1, [first, *(other[:1] for other in others)])
        report(f"{name}, half parameters", function, x[:1, :, :2], 1, [tensor.half() for tensor in (first, *others)])
        if name == "pwlu":
            first, left, right, *others = parameters(name, 5)
            report(f"{name}, bounds that cross", function, x, 1, [first, left, left - right, *others])
        report(f"{name}, a number", function, torch.tensor(-0.5), -1, parameters(name, 1))
        report(f"{name}, nothing", function, torch.empty(0, 3, 2), 1, parameters(name, 3))
        special = torch.tensor(SPECIAL).expand(2, 6).t()  # one channel each, so that they do not hide each other
        for layout in ("plain", "transposed"):
            report(f"{name}, special {layout}", function, laid_out(special, layout), 0, ones(name, 6))
    loops()


def loops() -> None:
    """Programs that go over several tiles, several of them per channel, with offsets of 64 bits."""
    triton_kernels._PROGRAMS = {"forward": 6, "backward": 6}
    triton_kernels._WIDE = 0
    for name, function in FUNCTIONS.items():
        for place, layout in (("planes", "plain"), ("rows", "channels_last")):
            x = laid_out(1.5 * torch.randn(30, 3, 7, 12), layout)
            report(f"{name}, tiles of {place}", function, x, 1, parameters(name, 3))
    for intervals in (1, 7, 64, 65):
        for place, layout in (("planes", "plain"), ("rows", "channels_last")):
            x = laid_out(1.5 * torch.randn(4, 3, 3, 12), layout)
            report(f"pwlu, {intervals} intervals of {place}", FUNCTIONS["pwlu"], x, 1, parameters("pwlu", 3, intervals))


def laid_out(x: Tensor, layout: str) -> Tensor:
    match layout:
        case "channels_last":
            return x.to(memory_format=torch.channels_last)
        case "transposed":
            return x.t().contiguous().t()
        case "sliced":
            return torch.stack([x, x], -1)[..., 0]
    return x.contiguous()


def parameters(name: str, channels: int, intervals: int = 5) -> list[Tensor]:
    """Some of each, other in each channel."""
    some = [torch.rand(channels) for _ in range(4)]
    if name == "pwlu":
        heights = torch.randn(intervals + 1, channels).cumsum(0) / intervals
        return [heights, -some[0] - 0.5, some[1] + 0.5, some[2] - 0.5, some[3] - 0.5]
    return [some[0] + 0.3, some[1] - 0.5][: 2 if name in ("frelu", "affine") else 1]


def ones(name: str, channels: int) -> list[Tensor]:
    """All 1 but the bounds: from -1 to 1."""
    given = [torch.ones_like(param) for param in parameters(name, channels, 4)]
    if name == "pwlu":
        given[0], given[1] = torch.linspace(0, 1, 5)[:, None].square().repeat(1, channels), -given[1]
    return given


def report(case: str, function: Function, x: Tensor, axis: int, params: list[Tensor]) -> None:
    kernel, grad = KERNELS[function.name], torch.randn(x.shape).to(x.dtype)
    y = kernel.forward(x, axis, *params)
    of_x, *of_params = kernel.backward(grad, x, axis, *params)
    like = torch.empty_like(x)
    assert all(tensor.stride() == like.stride() and tensor.dtype == x.dtype for tensor in (y, of_x)), f"{case}: layout"
    same = zip(of_params, params, strict=True)
    assert all(tensor.shape == param.shape and tensor.dtype == param.dtype for tensor, param in same), (
        f"{case}: parameters"
    )

    exact = [param.double() for param in params]
    wanted = [value_of(function, axis, x.double(), exact)]
    wanted += gradients_of(function, axis, grad.double(), x.double(), exact)
    # The interpreter cuts bfloat16 off instead of rounding it: a whole unit in the last place.
    worst = max(apart(got, other) for got, other in zip([y, of_x, *of_params], wanted, strict=True))
    print(json.dumps([case, worst]))


def apart(found: Tensor, wanted: Tensor) -> float:
    if not found.numel():
        return 0.0
    step = {torch.float32: 0.0, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}[found.dtype]
    finite = wanted.isfinite()
    if not torch.equal(found.double()[~finite].nan_to_num(), wanted[~finite].nan_to_num()):
        return float("inf")
    if not torch.equal(found.isnan(), wanted.isnan()):
        return float("inf")
    found, wanted = found.double()[finite], wanted[finite]
    size = wanted.abs().max().item() if len(wanted) else 1.0
    return ((found - wanted).abs() / (step * wanted.abs() + 2e-6 * (1 + size))).max().item() if len(wanted) else 0.0


if __name__ == "__main__":
    # Numbers where there is nothing, and infinities: what numpy says of them is none of a GPU's business.
    warnings.filterwarnings("ignore", category=RuntimeWarning, module="triton")
    main()
