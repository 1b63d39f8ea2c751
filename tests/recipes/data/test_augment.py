"""Augmentation of whole batches."""

import pytest
import torch
from torch import Tensor

from recipes.data import crop_and_flip, cutout, normalise
from recipes.data.augment import generator_for, resized


def test_normalise_is_the_formula() -> None:
    images = torch.tensor([0, 128, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    expected = [(0 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    assert normalise(images).flatten().tolist() == pytest.approx(expected)


def test_crop_and_flip_agree_with_a_loop() -> None:
    images = torch.arange(6 * 2 * 5 * 5, dtype=torch.float32).view(6, 2, 5, 5) + 1
    got = crop_and_flip(images, torch.Generator().manual_seed(3), padding=2)
    seen = set()
    for image, after in zip(images, got, strict=True):
        padded = torch.nn.functional.pad(image, (2, 2, 2, 2))
        found = [
            (down, right, flipped)
            for down in range(5)
            for right in range(5)
            for flipped in (False, True)
            if torch.equal(maybe_flipped(padded[:, down : down + 5, right : right + 5], flipped), after)
        ]
        assert len(found) == 1
        seen.add(found[0])
    assert len(seen) > 3 and {flipped for *_, flipped in seen} == {False, True}
    assert torch.equal(got, crop_and_flip(images, torch.Generator().manual_seed(3), padding=2))


def test_a_crop_of_nothing_and_the_share_of_mirrored_ones() -> None:
    images = torch.arange(2000 * 6, dtype=torch.uint8).view(2000, 1, 2, 3)
    assert torch.equal(crop_and_flip(images, generator_for(0), padding=0, hflip=0.0), images)
    assert torch.equal(crop_and_flip(images, generator_for(0), padding=0, hflip=1.0), images.flip(3))
    some = crop_and_flip(images, generator_for(0), padding=0, hflip=0.2)
    mirrored = (some != images).flatten(1).any(1)
    assert torch.equal(some[mirrored], images[mirrored].flip(3))
    assert 340 < int(mirrored.sum()) < 460  # 400 expected, with a deviation of 18


@pytest.mark.parametrize("side", [1, 4, 5])
def test_a_square_is_cut_out_round_each_centre(side: int) -> None:
    images = torch.ones(300, 2, 9, 7)
    got = cutout(images, generator_for(1), side)
    assert (images == 1).all() and set(got.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(got[:, 0], got[:, 1])
    before, after = side // 2, side - side // 2
    squares = set()
    for hole in got[:, 0] == 0:
        rows, columns = (hole.any(axis).nonzero().flatten() for axis in (1, 0))
        first, last = (rows[0], columns[0]), (rows[-1], columns[-1])
        assert hole.sum() == len(rows) * len(columns), "one rectangle"
        squares.add((int(first[0]), int(first[1]), int(last[0]), int(last[1])))
    every = {
        (max(row - before, 0), max(column - before, 0), min(row + after, 9) - 1, min(column + after, 7) - 1)
        for row in range(9)
        for column in range(7)
    }
    assert squares <= every and len(squares) > 0.8 * len(every)
    assert min(squares)[0] == 0 and max(square[2] for square in squares) == 8


def test_random_numbers_depend_on_each_number() -> None:
    drawn = {
        tuple(torch.rand(3, generator=generator_for(*numbers)).tolist())
        for numbers in [(0,), (1,), (0, 0), (0, 1), (1, 0), (12, 3), (1, 23), (-1, 0)]
    }
    assert len(drawn) == 8
    again = torch.rand(3, generator=generator_for(12, 3))
    assert tuple(again.tolist()) in drawn


def test_resizing_keeps_flat_pictures_flat_and_the_right_size_untouched() -> None:
    images = torch.rand(2, 3, 6, 6)
    assert resized(images, 6) is images
    for size in (3, 8):
        flat = resized(torch.full((1, 3, 6, 4), 0.25), size)
        assert flat.shape == (1, 3, size, size) and flat.flatten().tolist() == pytest.approx([0.25] * 3 * size**2)


def test_shrinking_takes_every_pixel_into_account() -> None:
    column = torch.arange(20)
    stripes = ((column % 4 == 1) | (column % 4 == 2)).float().expand(1, 3, 20, 20)
    small = resized(stripes, 5)
    assert small[..., 1:4].flatten().tolist() == pytest.approx([0.5] * 3 * 5 * 3), "not only those it falls on"


def maybe_flipped(image: Tensor, flipped: bool) -> Tensor:
    return image.flip(2) if flipped else image
