"""The piecewise linear unit as in public code: the published formula in plain operations, with autograd.

Source: Zhou, Zhu and Zhong 2021, arXiv 2104.03693, section 3. Reimplemented to be timed against ours.
"""

import torch
from torch import Tensor, nn

INTERVALS = 16
BOUND = 3.0


class PublishedByLayer(nn.Module):
    """The published PWLU in plain operations, one function for all channels: three masks and three branches."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Parameter(torch.tensor(-BOUND)), nn.Parameter(torch.tensor(BOUND))
        self.heights = nn.Parameter(torch.linspace(-BOUND, BOUND, INTERVALS + 1).relu())
        self.slopes = nn.Parameter(torch.tensor([0.0, 1.0]))

    def forward(self, x: Tensor) -> Tensor:
        width = (self.right - self.left) / INTERVALS
        below, above = x < self.left, x >= self.right
        inside = ~(below | above)
        index = ((x - self.left) / width).floor().long().clamp(0, INTERVALS - 1)
        low, high = self.heights[index], self.heights[index + 1]
        on_left = (x - self.left) * self.slopes[0] + self.heights[0]
        on_right = (x - self.right) * self.slopes[1] + self.heights[-1]
        between = (x - (self.left + index * width)) * (high - low) / width + low
        return below * on_left + above * on_right + inside * between


class PublishedByChannel(nn.Module):
    """The published PWLU in plain operations, per channel: channel and interval packed into one flat index.

    The outer lines are two more intervals of the table.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.left = nn.Parameter(torch.full((channels, 1, 1), -BOUND))
        self.right = nn.Parameter(torch.full((channels, 1, 1), BOUND))
        width = 2 * BOUND / INTERVALS
        knots = torch.linspace(-BOUND - width, BOUND + width, INTERVALS + 3)
        self.heights = nn.Parameter(knots.relu().repeat(channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        place = (x - self.left) * (INTERVALS / (self.right - self.left)) + 1
        index = place.floor().clamp(0, INTERVALS + 1)
        first = torch.arange(len(self.heights), device=x.device).view(-1, 1, 1) * self.heights.shape[1]
        flat = index.long() + first
        rises = self.heights.diff(dim=1, append=self.heights[:, -1:])
        return torch.take(self.heights, flat) + (place - index) * torch.take(rises, flat)
