"""ReLU as the classification function: the scores of a classifier rectified, in both readings of the paper."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from surgery.errors import BadValue

Reading = Literal["scores", "shares"]


class RectifiedScores(nn.Module):
    """max(0, o) of a classifier's scores o; whichever class had the largest positive score still has the largest.

    `reading` says what the loss is to see, because the paper leaves it open:

    "scores": max(0, o) itself, to be fed to a softmax cross-entropy.

    "shares": the logarithm of max(0, o) / sum max(0, o), each share raised to `floor` and the row brought back to a
    sum of 1. Its cross-entropy, `F.cross_entropy` or `F.nll_loss`, is -sum y log(share). This is what a rectified
    output under Keras' categorical cross-entropy does, with the epsilon of Keras as the floor, but a row without any
    positive score, where Keras divides 0 by 0, gets equal shares.

    A class whose score is not positive gets no gradient of its own: where it is the true one, it stays dead until
    other examples revive it ("scores" still pushes the others down; "shares" nothing at all). Classes are on `axis`.
    Arithmetic is in float32 or float64, the result in the dtype of the input: in half precision shares that differ by
    less than its resolution become equal.

    Raises:
        BadValue: another reading, or a floor outside (0, 0.01).

    Source: Agarap 2018, "Deep learning using rectified linear units (ReLU)", arXiv 1803.08375, section 2.
    """

    surgery_activation = "rectified_scores"

    def __init__(self, reading: Reading = "scores", *, floor: float = 1e-7, axis: int = -1) -> None:
        super().__init__()
        if reading not in get_args(Reading):
            raise BadValue("The paper has two readings.", asked=f"reading={reading!r}", try_="'scores' or 'shares'")
        if not 0 < floor < 0.01:
            raise BadValue("`floor` is the least share.", asked=f"floor={floor!r}", try_="a small number, as 1e-7")
        self.reading = reading
        self.floor = float(floor)
        self.axis = axis

    def forward(self, input: Tensor) -> Tensor:
        """Return the rectified scores, or the logarithms of their shares, in shape and dtype of `input`."""
        if self.reading == "scores":
            return F.relu(input)
        positive = F.relu(input.to(torch.promote_types(input.dtype, torch.float32)))
        total = positive.sum(self.axis, keepdim=True).clamp_min(torch.finfo(positive.dtype).tiny)
        shares = (positive / total).clamp(self.floor, 1 - self.floor)
        return torch.log_softmax(shares.log(), self.axis).to(input.dtype)

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"reading={self.reading!r}" + f", axis={self.axis}" * (self.axis != -1)
