"""Counts: what a network costs without measuring: multiply-adds, and elements that activations compute."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import BaseTorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from surgery.dataflow.flow import tensors_in
from surgery.isolation.meta_copy import scratch_copy
from surgery.look.example import Example
from surgery.look.site import Site
from surgery.model import check_plain, home_of, in_eval


def relu_count(sites: Iterable[Site]) -> int:
    """How many elements nonlinearities compute per image, in eval mode; what private inference pays for.

    Gates, heads and activations of weights do not count. A ResNet-18 for CIFAR images has 557,056.

    >>> surgery.relu_count(surgery.find_sites(model))
    """
    return sum(map(elements, sites))


def elements(site: Site) -> int:
    """How many elements a nonlinearity computes per image; 0 for other activations."""
    return prod(site.shape[1:]) if site.role == "nonlinearity" and "eval" in site.modes else 0


def macs(model: nn.Module, example: Any = None) -> int:
    """How many multiply-adds convolutions and matrix products take per image, in eval mode.

    `example` is as in `find_sites`.

    Raises:
        CannotLook: the model is wrapped or scripted.
    """
    return macs_by_module(model, example).get("", 0)


def macs_by_module(model: nn.Module, example: Any = None) -> dict[str, int]:
    """The multiply-adds per image inside each module, by path, where there are any; "" is the whole network."""
    check_plain(model)
    sample = Example.of(example, model)
    try:
        counted, device = scratch_copy(model, meta=True), torch.device("meta")
        return _counted(counted, sample.on(device))
    except (RuntimeError, NotImplementedError):  # its forward needs values
        return _counted(scratch_copy(model, meta=False), sample.on(home_of(model)))


@contextmanager
def counting_flops() -> Iterator[FlopCounterMode]:
    """Count the floating-point operations of all that runs inside, whatever computes it."""
    counter = FlopCounterMode(display=False)
    # Two kernels would not be counted: that of torch's transformer layers, and in torch 2.11 that of attention.
    with counter, BaseTorchFunctionMode(), sdpa_kernel(SDPBackend.MATH):
        yield counter


def _counted(model: nn.Module, sample: Example) -> dict[str, int]:
    with in_eval(model), counting_flops() as counter:
        model(*sample.args, **sample.kwargs)
    images = max(_images(sample), 1)
    flops: Mapping[str, Mapping[Any, int]] = counter.get_flop_counts()
    start = f"{type(model).__name__}."
    totals = {name: sum(kinds.values()) // (2 * images) for name, kinds in flops.items()}
    return {"": totals.get("Global", 0)} | {
        name.removeprefix(start): count for name, count in totals.items() if name.startswith(start)
    }


def _images(sample: Example) -> int:
    """The size of the batch: the first axis of the first tensor."""
    tensors: list[Tensor] = list(tensors_in((sample.args, sample.kwargs)))
    return tensors[0].shape[0] if tensors and tensors[0].dim() else 1
