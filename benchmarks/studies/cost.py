"""Cost: time and memory of a training step of an edited network, relative to the network before surgery."""

from __future__ import annotations

import statistics
import time
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.memory import bytes_kept

PAIRS = 9
IMAGES = 32  # on the CPU; a GPU needs the whole batch to be busy


def step_ratio(edited: nn.Module, plain: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The time of forward and backward of `edited` relative to `plain`: the median of pairs in alternating order.

    On the processor its own time, which others on the machine do not lengthen. The networks are left as they are.
    """
    ours, theirs = (deepcopy(model).train() for model in (edited, plain))
    if not images.is_cuda:
        images, labels = images[:IMAGES], labels[:IMAGES]
    ratios = []
    for turn in range(PAIRS + 1):
        first, second = (ours, theirs) if turn % 2 else (theirs, ours)
        times = _seconds(first, images, labels), _seconds(second, images, labels)
        ratios.append(times[0] / times[1] if turn % 2 else times[1] / times[0])
    return statistics.median(ratios[1:])  # the first pair is a warm-up


def kept_ratio(edited: nn.Module, plain: nn.Module, images: Tensor) -> float:
    """The bytes that the forward pass of `edited` saves for the backward pass, relative to `plain`."""
    ours, theirs = (bytes_kept(deepcopy(model).train(), images[:IMAGES]) for model in (edited, plain))
    return ours / theirs


def _seconds(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    clock = time.perf_counter if images.is_cuda else time.process_time
    started = clock()
    F.cross_entropy(model(images), labels).backward()
    if images.is_cuda:
        torch.cuda.synchronize()
    return clock() - started
