"""Teacher and student: a convolutional filter learns another one from what that returns, averaged over patches.

Source: Du, Lee and Tian 2017, "When is a convolutional filter easy to learn?", arXiv 1709.06129.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Inputs:
    """Images as patches (N, patches, size), whose mean square is 1, for a teacher of length 1.

    `closeness` is the correlation of the patches of an image, at the same place of a patch. Kinds: "normal"; "axes",
    one of the vectors in both directions of each axis, and "points", one of eight others, always the same ones, both
    with a part `smoothness` of the variance normal; "signal", overlapping windows of a line in which neighbours have
    the correlation `closeness`; "cone", directions that are at most `angle` degrees from the teacher.
    """

    kind: str = "normal"
    patches: int = 8
    closeness: float = 0.0
    smoothness: float = 1.0
    angle: float = 20.0

    def draw(self, count: int, teacher: Tensor, generator: torch.Generator) -> Tensor:
        """The patches of so many images."""
        size = len(teacher)
        if self.kind == "signal":
            return _windows(_line(count, self.patches + size - 1, self.closeness, generator), size)
        shared, own = (self._vectors(count * n, teacher, generator) for n in (1, self.patches))
        shared, own = shared.view(count, 1, size), own.view(count, self.patches, size)
        return math.sqrt(self.closeness) * shared + math.sqrt(1 - self.closeness) * own

    def _vectors(self, count: int, teacher: Tensor, generator: torch.Generator) -> Tensor:
        size = len(teacher)
        noise = torch.randn(count, size, generator=generator, dtype=teacher.dtype)
        if self.kind in ("axes", "points"):
            points = (_axes if self.kind == "axes" else _points)(size)
            chosen = points[torch.randint(len(points), (count,), generator=generator)]
            return math.sqrt(1 - self.smoothness) * chosen + math.sqrt(self.smoothness) * noise
        if self.kind == "cone":
            aside = noise - (noise @ teacher)[:, None] * teacher
            angles = math.radians(self.angle) * torch.rand(count, 1, generator=generator, dtype=teacher.dtype)
            return math.sqrt(size) * (angles.cos() * teacher + angles.sin() * aside / aside.norm(dim=1, keepdim=True))
        return noise


def response(filters: Tensor, patches: Tensor, function: Function) -> Tensor:
    """What filters (F, size) return for patches (N, patches, size): the mean over the patches, (N, F)."""
    return function(patches @ filters.T).mean(1)


def gradient(filters: Tensor, teacher: Tensor, patches: Tensor, function: Function) -> Tensor:
    """The gradient, for each filter (F, size), of half the mean squared distance to the teacher (size)."""
    filters = filters.detach().requires_grad_()
    with torch.no_grad():
        wanted = response(teacher[None], patches, function)
    loss = (response(filters, patches, function) - wanted).square().mean(0).sum() / 2
    return torch.autograd.grad(loss, filters)[0]


def expected_gradient(filters: Tensor, teacher: Tensor, patches: int) -> Tensor:
    """The same for ReLU, in expectation over independent normal patches.

    It is zero at the teacher, and at a saddle in the opposite direction: see `saddle`.

    Source: Brutzkus and Globerson 2017, "Globally optimal gradient descent for a ConvNet with Gaussian inputs", arXiv
    1702.07966, for a teacher of any length.
    """
    length = filters.norm(dim=1, keepdim=True)
    directions, size = filters / length, teacher.norm()
    angles = (directions @ teacher / size).clamp(-1, 1).acos()[:, None]
    own = filters / 2 - (size * directions * angles.sin() + (math.pi - angles) * teacher) / (2 * math.pi)
    across = (filters - size * directions) / (2 * math.pi)
    return (own + (patches - 1) * across) / patches


def saddle(patches: int) -> float:
    """How long the filter opposite to the teacher is at which the expected gradient is zero, in lengths of the teacher.

    Source: Brutzkus and Globerson 2017, arXiv 1702.07966, theorem 5.1.
    """
    return (patches - 1) / (patches - 1 + math.pi)


def curvatures(patches: int, closeness: float) -> tuple[float, float]:
    """The curvature of the expected loss of ReLU at the teacher, across it and along it, for normal patches.

    A step of size s shortens a small distance across the teacher by the factor 1 - s times the former.
    """
    both = 0.25 + math.asin(closeness) / (2 * math.pi)  # of two patches both activate
    returned = math.sqrt(1 - closeness**2) / (2 * math.pi) + closeness * both  # the mean product of what both return
    across, along = ((0.5 + (patches - 1) * of_two) / patches for of_two in (closeness * both, returned))
    return across, along


def steepness(teacher: Tensor, patches: Tensor, function: Function) -> tuple[float, float]:
    """The smallest and the largest curvature of the loss at the teacher, on these patches (N, patches, size)."""
    z = (patches @ teacher).requires_grad_()
    (slopes,) = torch.autograd.grad(function(z).sum(), z)
    means = (slopes[..., None] * patches).mean(1)
    values = torch.linalg.eigvalsh(means.T @ means / len(means))
    return values[0].item(), values[-1].item()


def starts(count: int, teacher: Tensor, radius: float, generator: torch.Generator) -> Tensor:
    """Random filters (count, size), uniform in a ball around zero; `radius` in lengths of the teacher."""
    directions = torch.randn(count, len(teacher), generator=generator, dtype=teacher.dtype)
    lengths = torch.rand(count, 1, generator=generator, dtype=teacher.dtype) ** (1 / len(teacher))
    return radius * teacher.norm() * lengths * directions / directions.norm(dim=1, keepdim=True)


def fan(count: int, teacher: Tensor, radius: float, generator: torch.Generator) -> Tensor:
    """Filters (count, size) of length `radius`, at evenly spaced angles to the teacher from 0 to 180 degrees."""
    noise = torch.randn(count, len(teacher), generator=generator, dtype=teacher.dtype)
    direction = teacher / teacher.norm()
    aside = noise - (noise @ direction)[:, None] * direction
    angles = math.pi * (torch.arange(count, dtype=teacher.dtype)[:, None] + 0.5) / count
    return radius * teacher.norm() * (angles.cos() * direction + angles.sin() * aside / aside.norm(dim=1, keepdim=True))


def near(filters: Tensor, teacher: Tensor) -> Tensor:
    """Whether each filter is nearer to the teacher than zero is: the condition of Du et al.'s theorem."""
    return (filters - teacher).norm(dim=1) < teacher.norm()


def _axes(size: int) -> Tensor:
    eye = math.sqrt(size) * torch.eye(size, dtype=torch.float64)
    return torch.cat([eye, -eye])


def _points(size: int) -> Tensor:
    points = torch.randn(8, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return math.sqrt(size) * points / points.norm(dim=1, keepdim=True)


def _line(count: int, length: int, correlation: float, generator: torch.Generator) -> Tensor:
    """Stationary normal lines (count, length), whose neighbours have this correlation."""
    noise = torch.randn(count, length, generator=generator, dtype=torch.float64)
    for place in range(1, length):
        noise[:, place] = correlation * noise[:, place - 1] + math.sqrt(1 - correlation**2) * noise[:, place]
    return noise


def _windows(line: Tensor, size: int) -> Tensor:
    return line.unfold(1, size, 1)
