"""Rectified scores: ReLU as the classification function, in both readings of the paper."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from surgery.errors import BadValue

Reading = Literal["scores", "shares"]


class RectifiedScores(nn.Module):
    """max(0, o) of a classifier's scores o; whichever class had the largest positive score still has the largest.

    `reading` says what the loss receives, because the paper leaves it open:

    "scores": max(0, o) itself, to be fed to a softmax cross-entropy.

    "shares": the logarithm of p = max(0, o) / sum max(0, o), clamped from below at `floor` and renormalised to a sum
    of 1. Its cross-entropy, `F.cross_entropy` or `F.nll_loss`, is -sum y log(p). This is what a rectified output does
    with Keras' categorical cross-entropy, whose epsilon is the floor, except that a row without positive scores,
    where Keras divides 0 by 0, becomes uniform.

    A class whose score is not positive gets no gradient: if it is the true class, it stays dead until other examples
    revive it ("scores" still pushes the others down; "shares" has no gradient at all). Classes are on `axis`.
    Arithmetic is in float32 or float64, the result in the dtype of the input: in half precision, fractions that differ
    by less than its resolution become equal.

    Raises:
        BadValue: another reading, or a floor outside (0, 0.01).

    Source: Agarap 2018, "Deep learning using rectified linear units (ReLU)", arXiv 1803.08375, section 2.
    """

    surgery_activation = "rectified_scores"

    def __init__(self, reading: Reading = "scores", *, floor: float = 1e-7, axis: int = -1) -> None:
        super().__init__()
        if reading not in get_args(Reading):
            raise BadValue("Unknown reading of the paper.", asked=f"reading={reading!r}", there="'scores' or 'shares'")
        if not 0 < floor < 0.01:
            raise BadValue("`floor` must be a small positive number.", asked=f"floor={floor!r}", try_="1e-7")
        self.reading = reading
        self.floor = float(floor)
        self.axis = axis
        self.least = torch.finfo(torch.float32).tiny

    def forward(self, input: Tensor) -> Tensor:
        """Return the rectified scores, or the logarithms of their fractions, in shape and dtype of `input`."""
        if self.reading == "scores":
            return F.relu(input)
        positive = F.relu(input if input.dtype == torch.float64 else input.float())
        total = positive.sum(self.axis, keepdim=True).clamp_min(self.least)
        shares = (positive / total).clamp(self.floor, 1 - self.floor)
        return torch.log_softmax(shares.log(), self.axis).to(input.dtype)

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"reading={self.reading!r}" + f", axis={self.axis}" * (self.axis != -1)
