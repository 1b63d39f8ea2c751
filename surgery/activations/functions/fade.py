"""Fade: an activation that turns into another as progress goes from 0 to 1."""

import torch
from torch import Tensor, nn

from surgery.dataflow.operations import TAG


class Fade(nn.Module):
    """The weighted mean of two activations: all `start` first, all `end` at last, in a straight line between.

    It fades while the progress goes through `over`. The progress is set by `surgery.set_progress`, and is no part of
    the state dict. Weights of a PReLU that fades stand under `start`, those of a learnable function it fades to under
    `end`. With the identity as `end`, fading erases gradually.
    """

    progress: Tensor

    def __init__(self, start: nn.Module, end: nn.Module, over: tuple[float, float] = (0.0, 1.0)) -> None:
        super().__init__()
        self.over = over
        self.start = start
        self.end = end
        # A tensor, not a number: a compiled model need not be compiled again at every step.
        self.register_buffer("progress", torch.zeros(()), persistent=False)
        self.__dict__[TAG] = "fade"

    def set_progress(self, progress: float, step: int = 0) -> None:
        """Move to this progress in [0, 1]; `step` is for functions that alternate, a fade needs none."""
        begin, finish = self.over
        self.progress.fill_(min(max((progress - begin) / (finish - begin), 0.0), 1.0))

    def settled(self) -> nn.Module:
        """The module that stays when the fade is over."""
        return self.end

    def forward(self, input: Tensor) -> Tensor:
        """Return (1 - progress) start(x) + progress end(x), for any shape, in the dtype of the input."""
        start, end = self.start(input), self.end(input)
        mixed = torch.lerp(start, end, self.progress.to(start.dtype))
        # At both ends one of them alone: infinity times 0 is no number.
        return torch.where(self.progress <= 0, start, torch.where(self.progress >= 1, end, mixed))
