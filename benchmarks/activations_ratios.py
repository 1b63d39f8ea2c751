"""The time of every activation relative to nn.ReLU, by whichever build of this library is found first: a list as JSON.

Run by `benchmarks.activations_before`. It imports nothing but torch and what every build has in public.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from surgery import activations

FUNCTIONS = ("prelu", "frelu", "smelu", "gsmelu", "swish", "pwlu", "npwlu", "affine", "helu")
FORMS = ("default", "closed", "formula")
LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SHAPES = {"default": (64, 64, 56, 56), "closed": (8, 64, 56, 56), "formula": (8, 64, 56, 56)}
APART, TRIES = 1.25, 3  # by which factor, and how many rounds are tried for each that counts


def ratios_of_all(rounds: dict[str, int]) -> Iterator[tuple[str, str, str, str, list[float]]]:
    """Function, form, layout, type, and the ratios to ReLU, as many as there are to be rounds of the form."""
    for form in FORMS:
        for dtype in DTYPES if rounds[form] else ():
            for layout in LAYOUTS:
                torch.manual_seed(0)
                x, grad = (
                    torch.randn(SHAPES[form]).to(DTYPES[dtype]).to(memory_format=LAYOUTS[layout]) for _ in range(2)
                )
                x.requires_grad_()
                for name in FUNCTIONS:
                    if name == ("gsmelu" if form == "default" else "helu"):  # without a kernel; with one form
                        continue
                    module = activations.build(name, SHAPES[form][1])
                    with contextlib.nullcontext() if form == "default" else activations.only(form):
                        yield name, form, layout, dtype, ratios(module, x, grad, rounds[form])


def ratios(module: nn.Module, x: Tensor, grad: Tensor, rounds: int) -> list[float]:
    """The time of each step over the mean of ReLU's just before and just after, unless these differ much."""
    relu, found = nn.ReLU(), []
    step(module, x, grad), step(relu, x, grad)
    before = step(relu, x, grad)
    for _ in range(TRIES * rounds):
        spent, after = step(module, x, grad), step(relu, x, grad)
        if max(before, after) <= APART * min(before, after):
            found.append(2 * spent / (before + after))
        before = after
        if len(found) == rounds:
            break
    return found


def step(module: nn.Module, x: Tensor, grad: Tensor) -> float:
    """Seconds of processor time of a forward and backward pass."""
    started = time.process_time()
    module(x).backward(grad)
    spent = time.process_time() - started
    for tensor in (x, *module.parameters()):
        tensor.grad = None
    return spent


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(list(ratios_of_all(json.loads(sys.argv[1])))))
