"""HeLU: the limit of the paper."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from surgery.activations.functions.helu import HeLU
from tests.surgery.activations.functions.line import LINE, STEP, derivative


def test_helu_is_relu_as_alpha_vanishes() -> None:
    relu = derivative(F.relu)
    wrong = []
    for alpha in (1.0, 0.125, STEP, 0.0):
        helu = HeLU(alpha)
        assert torch.equal(helu(LINE), F.relu(LINE)), "forward it is one at any alpha"
        apart = derivative(helu) != relu
        # x > -alpha, strictly; at 0 itself ReLU passes nothing.
        assert torch.equal(apart, (-alpha < LINE) & (LINE <= 0))
        wrong.append(int(apart.sum()))
    assert wrong == [1024, 128, 1, 0]
    assert torch.equal(derivative(HeLU(1.0).eval()), relu)
