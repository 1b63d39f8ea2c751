"""Augmentation of whole batches of small images on their device, with random numbers drawn on the CPU."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from recipes.format.settings import Interpolation

Colour = tuple[float, float, float]

MEAN: Colour = (0.485, 0.456, 0.406)
DEVIATION: Colour = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True, eq=False)
class Moves:
    """How each of N images is shifted and mirrored: `down` and `right` (N, 1), 0 to 2 * padding, `mirrored` (N, 1)."""

    padding: int
    down: Tensor
    right: Tensor
    mirrored: Tensor

    def part(self, which: slice) -> Moves:
        """The moves of some of the images."""
        return Moves(self.padding, self.down[which], self.right[which], self.mirrored[which])


def generator_for(*numbers: int) -> torch.Generator:
    """A random generator on the CPU whose seed is a hash of all these numbers."""
    digest = hashlib.blake2b(",".join(map(str, numbers)).encode(), digest_size=4).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


def normalise(images: Tensor, mean: Colour = MEAN, std: Colour = DEVIATION) -> Tensor:
    """Normalise images (N, 3 or 1, H, W), uint8 or float in [0, 1], to float32 (N, 3, H, W).

    `mean` and `std` (standard deviation) are per channel, by default those of ImageNet.
    """
    scaled = images.to(torch.float32) / 255.0 if images.dtype == torch.uint8 else images
    centre, spread = (torch.tensor(channels, device=images.device).view(1, 3, 1, 1) for channels in (mean, std))
    return (scaled - centre) / spread


def resized(images: Tensor, size: int, interpolation: Interpolation = "bilinear") -> Tensor:
    """Resize float images (N, C, H, W) to squares of `size` pixels, "bilinear" or "bicubic", with antialiasing.

    Bicubic results match those of PIL up to rounding, but are not clipped to the range of the pixels.
    """
    height, width = images.shape[-2:]
    if (height, width) == (size, size):
        return images
    # With antialiasing, bicubic weights are PIL's also when enlarging; bilinear ones do not depend on it there.
    smoothed = size < height or size < width or interpolation == "bicubic"
    return F.interpolate(images, size=(size, size), mode=interpolation, align_corners=False, antialias=smoothed)


def crop_and_flip(images: Tensor, generator: torch.Generator, padding: int = 4, hflip: float = 0.5) -> Tensor:
    """Shift each image (N, C, H, W) by up to `padding` pixels, filled with zeros, and mirror a fraction `hflip`.

    `generator` is on the CPU, so that the result does not depend on the device.
    """
    return moved(images, draw_moves(len(images), generator, padding, hflip))


def draw_moves(count: int, generator: torch.Generator, padding: int = 4, hflip: float = 0.5) -> Moves:
    """Draw for each of `count` images how far it is shifted, up to `padding` pixels, and whether it is mirrored."""
    down, right = torch.randint(0, 2 * padding + 1, (2, count, 1), generator=generator)
    return Moves(padding, down, right, torch.rand(count, 1, generator=generator) < hflip)


def moved(images: Tensor, moves: Moves) -> Tensor:
    """Shift and mirror images (N, C, H, W) according to `moves`, filled with zeros."""
    count, _, height, width = images.shape
    device = images.device
    # One transfer instead of three.
    down, right, mirrored = torch.stack((moves.down, moves.right, moves.mirrored.to(torch.int64))).to(device)
    rows = down + torch.arange(height, device=device)
    across = torch.arange(width, device=device)
    columns = right + torch.where(mirrored.bool(), across.flip(0), across)
    padded = F.pad(images, (moves.padding,) * 4)
    which = torch.arange(count, device=device).view(count, 1, 1)
    picked = padded[which, :, rows.unsqueeze(2), columns.unsqueeze(1)]
    return picked.permute(0, 3, 1, 2).contiguous()


def cutout(images: Tensor, generator: torch.Generator, side: int) -> Tensor:
    """Set a square of `side` pixels to zero in each image (N, C, H, W); it may extend beyond the border.

    In normalised images, zero is the mean colour. The centres are drawn from `generator`, which is on the CPU.

    Source: DeVries and Taylor 2017, "Improved regularization of convolutional neural networks with cutout".
    """
    return cut(images, draw_centres(images.shape, generator), side)


def draw_centres(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Draw a pixel in each image of a batch of this shape (N, C, H, W): rows and columns, int64 (2, N, 1)."""
    count, _, height, width = shape
    rows = torch.randint(0, height, (count, 1), generator=generator)
    return torch.stack((rows, torch.randint(0, width, (count, 1), generator=generator)))


def cut(images: Tensor, centres: Tensor, side: int) -> Tensor:
    """Set a square of `side` pixels around `centres` (2, N, 1) to zero in images (N, C, H, W)."""
    rows, columns = centres.to(images.device) - side // 2
    down, across = (torch.arange(length, device=images.device) for length in images.shape[-2:])
    inside_rows = (down >= rows) & (down < rows + side)
    inside_columns = (across >= columns) & (across < columns + side)
    square = inside_rows.unsqueeze(2) & inside_columns.unsqueeze(1)
    return images.masked_fill(square.unsqueeze(1), 0.0)
