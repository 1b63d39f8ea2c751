"""Cost: time and memory of a training step of an edited network, against the network before surgery."""

from __future__ import annotations

import statistics
import time
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.memory import bytes_kept

PAIRS, IMAGES = 9, 32


def step_ratio(edited: nn.Module, plain: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Time of forward and backward of `edited` over that of `plain`: the median of pairs, one right after the other.

    On the processor its own time, which others on the machine do not lengthen. The networks are left as they are.
    """
    copies = [deepcopy(one).train() for one in (edited, plain)]
    images, labels = images[:IMAGES], labels[:IMAGES]
    pairs = [[_seconds(one, images, labels) for one in copies] for _ in range(PAIRS + 1)]
    return statistics.median(ours / theirs for ours, theirs in pairs[1:])


def kept_ratio(edited: nn.Module, plain: nn.Module, images: Tensor) -> float:
    """Bytes that the forward pass of `edited` keeps for the backward pass over those that `plain` keeps."""
    ours, theirs = (bytes_kept(deepcopy(one).train(), images[:IMAGES]) for one in (edited, plain))
    return ours / theirs


def _seconds(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    clock = time.perf_counter if images.is_cuda else time.process_time
    started = clock()
    F.cross_entropy(model(images), labels).backward()
    if images.is_cuda:
        torch.cuda.synchronize()
    return clock() - started
