"""Fade: an activation that turns into another as progress goes from 0 to 1."""

import torch
from torch import Tensor, nn

from surgery.dataflow.operations import TAG


class Fade(nn.Module):
    """A weighted mean of two activations: first `start` alone, finally `end` alone, linear in between.

    It fades while the progress goes through `over`. The progress is set by `surgery.set_progress`, and is not part of
    the state dict. Weights of a PReLU that fades out are under `start`, those of a learnable function that fades in
    under `end`. With the identity as `end`, fading erases gradually.
    """

    progress: Tensor

    def __init__(self, start: nn.Module, end: nn.Module, over: tuple[float, float] = (0.0, 1.0)) -> None:
        super().__init__()
        self.over = over
        self.start = start
        self.end = end
        # A tensor, not a number, so that a compiled model is not recompiled at every step.
        self.register_buffer("progress", torch.zeros(()), persistent=False)
        self.__dict__[TAG] = "fade"

    def set_progress(self, progress: float, step: int = 0) -> None:
        """Move to this progress in [0, 1]; `step`, for functions that alternate, is ignored."""
        begin, finish = self.over
        self.progress.fill_(min(max((progress - begin) / (finish - begin), 0.0), 1.0))

    def settled(self) -> nn.Module:
        """The module that remains after the fade."""
        return self.end

    def forward(self, input: Tensor) -> Tensor:
        """Return (1 - progress) start(x) + progress end(x), for any shape, in the dtype of the input."""
        start, end = self.start(input), self.end(input)
        mixed = torch.lerp(start, end, self.progress.to(start.dtype))
        # At both ends only one of them: infinity times 0 is NaN.
        return torch.where(self.progress <= 0, start, torch.where(self.progress >= 1, end, mixed))
