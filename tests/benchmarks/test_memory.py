"""Memory: tensors kept are counted once, as their sizes say, and peaks are those of known steps."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.memory import bytes_kept, peak_bytes
from surgery import activations

X = torch.zeros(4, 8, 16, 16)
SIZE = X.nbytes


def conv(inputs: int = 8) -> nn.Conv2d:
    return nn.Conv2d(inputs, 8, 3, padding=1)


def test_what_a_network_of_known_layers_keeps() -> None:
    assert bytes_kept(conv(), X) == SIZE  # its input
    assert bytes_kept(nn.Sequential(conv(), nn.ReLU(), conv()), X) == 2 * SIZE  # the ReLU keeps what the next one does
    assert bytes_kept(nn.Sequential(conv(), nn.Tanh(), nn.Flatten(), nn.Linear(2048, 2)), X) == 2 * SIZE
    assert bytes_kept(nn.Sequential(conv(), activations.build("prelu", 8), conv()), X) == 3 * SIZE


def test_what_recomputes_keeps_nothing() -> None:
    layers = [conv(), nn.BatchNorm2d(8), nn.ReLU(), conv()]
    plain = bytes_kept(nn.Sequential(*layers), X)
    assert 3 * SIZE < plain < 3.1 * SIZE
    for memory, more in (("keep", SIZE), ("recompute", 0)):
        layers[2] = activations.build("pwlu", 8, memory=memory)
        assert more <= bytes_kept(nn.Sequential(*layers), X) - plain < more + 0.2 * SIZE  # parameters made positive


def test_the_peak_of_a_step() -> None:
    def step() -> None:
        first = torch.ones(1000)
        second = first + 1
        del first
        second.exp_()
        del second
        torch.ones(1500)

    assert 8000 <= peak_bytes(step) < 8400
