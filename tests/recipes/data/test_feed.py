"""Batches of images in memory: what they depend on, and how processes divide them."""

from itertools import islice

import pytest
import torch
from torch import Tensor

from recipes.data import MemoryFeed, Pictures, normalise
from recipes.data.feed import Batch, ImageTransform, MemoryBatches
from recipes.format.settings import Finetune
from surgery.errors import BadValue
from tests.asserts import assert_raises

PLAIN = Finetune(batch_size=8, crop=0, hflip=0.0)
AS_IT_IS = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)  # mean and deviation of what is not normalised
ALL_ON = Finetune(batch_size=8, crop=2, hflip=0.5, cutout=3)


def numbered(count: int, size: int = 6) -> Pictures:
    """Random images whose labels are their indices."""
    images = torch.randint(
        0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return Pictures(images, torch.arange(count))


def feed(count: int = 48, options: Finetune = ALL_ON, *, size: int = 6, **process: int) -> MemoryFeed:
    return MemoryFeed(numbered(count), ImageTransform(size), options, **process)


def same(first: Batch, second: Batch) -> bool:
    return torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


def labels(batches: object) -> Tensor:
    return torch.cat([batch[1] for batch in batches])  # type: ignore[attr-defined]


def test_without_augmentation_the_pictures_themselves_come() -> None:
    pictures = numbered(48)
    fed = MemoryFeed(pictures, ImageTransform(6), PLAIN)
    assert fed.steps == 6
    for images, which in fed.epoch(3):
        assert images.dtype == torch.float32 and which.dtype == torch.int64 and images.shape == (8, 3, 6, 6)
        assert torch.equal(images, normalise(pictures.images[which]))


@pytest.mark.parametrize("options", [PLAIN, ALL_ON])
def test_every_epoch_is_another_order_of_all_pictures(options: Finetune) -> None:
    fed = feed(options=options)
    orders = [labels(fed.epoch(number)).tolist() for number in range(3)]
    assert all(sorted(order) == list(range(48)) for order in orders)
    assert len({tuple(order) for order in [list(range(48)), *orders]}) == 4
    assert labels(feed(options=options, seed=1).epoch(0)).tolist() != orders[0]


def test_augmentation_differs_between_batches_epochs_and_seeds() -> None:
    alike = Pictures(numbered(1).images.expand(48, -1, -1, -1), torch.zeros(48, dtype=torch.int64))
    first, second = (MemoryFeed(alike, ImageTransform(6), ALL_ON, seed=seed) for seed in (0, 1))
    seen = [images for fed in (first, second) for number in (0, 1) for images, _ in islice(fed.epoch(number), 2)]
    assert all(not torch.equal(batch, other) for index, batch in enumerate(seen) for other in seen[:index])


@pytest.mark.parametrize("count", [48, 53])
@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("size", [6, 9])
def test_processes_together_see_what_one_sees(world: int, count: int, size: int) -> None:
    whole = feed(count, Finetune(batch_size=8 * world, crop=2, cutout=3), size=size, seed=5)
    share = Finetune(batch_size=8, crop=2, cutout=3)
    shares = [feed(count, share, size=size, seed=5, rank=rank, world=world) for rank in range(world)]
    assert {share.steps for share in shares} == {whole.steps} and whole.steps == count // (8 * world)
    for together, *parts in zip(whole.epoch(1), *(share.epoch(1) for share in shares), strict=True):
        images, which = (torch.cat(part) for part in zip(*parts, strict=True))
        assert same(together, (images, which))


@pytest.mark.parametrize("start", [0, 1, 5, 6])
def test_an_epoch_may_begin_at_any_batch(start: int) -> None:
    fed = feed()
    tail = list(fed.epoch(2))[start:]
    rest = list(feed().epoch(2, start))
    assert len(rest) == 6 - start and all(same(*pair) for pair in zip(tail, rest, strict=True))
    assert_raises(BadValue, lambda: fed.epoch(2, 7), "batch 7", "6 batches")
    assert_raises(BadValue, lambda: fed.epoch(-1), "epoch -1")


def test_batches_neither_read_nor_move_the_global_random_numbers() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = list(feed().epoch(0))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert all(same(*pair) for pair in zip(first, feed().epoch(0), strict=True))


def test_what_is_left_is_left_out_and_few_pictures_make_one_batch() -> None:
    fed = feed(30)
    assert fed.steps == 3 and len(labels(fed.epoch(0)).unique()) == 24
    assert [len(which) for _, which in feed(5).epoch(0)] == [5]
    parts = [feed(5, rank=rank, world=2) for rank in (0, 1)]
    dealt = [labels(part.epoch(0)) for part in parts]
    assert [len(own) for own in dealt] == [2, 2] and len(torch.cat(dealt).unique()) == 4
    assert_raises(BadValue, lambda: feed(2, rank=0, world=3), "2 images, 3 processes")
    assert_raises(BadValue, lambda: feed(9, rank=3, world=3), "process 3 of 3")


def test_pictures_stay_bytes_and_are_not_changed() -> None:
    pictures = numbered(16)
    before = pictures.images.clone()
    list(MemoryFeed(pictures, ImageTransform(6), ALL_ON).epoch(0))
    list(MemoryBatches(pictures, ImageTransform(6), 5))
    assert pictures.images.dtype == torch.uint8 and torch.equal(pictures.images, before)


def test_shares_of_the_options_are_used() -> None:
    def got(options: Finetune) -> Tensor:
        return next(iter(feed(8, options).epoch(0)))[0]

    plain = got(PLAIN)
    mirrored = got(Finetune(batch_size=8, crop=0, hflip=1.0))
    assert torch.equal(mirrored, plain.flip(3))
    cut = got(Finetune(batch_size=8, crop=0, hflip=0.0, cutout=2))
    assert torch.equal(cut[cut != 0], plain[cut != 0]) and 0 < int((cut == 0).sum()) <= 8 * 3 * 4
    shifted = got(Finetune(batch_size=8, crop=2, hflip=0.0))
    assert not torch.equal(shifted, plain)


def test_a_set_that_must_not_be_mirrored_is_not_and_shifts_little() -> None:
    grey = Pictures(torch.rand(8, 1, 4, 4), torch.arange(8))
    transform = ImageTransform(8, *AS_IT_IS, enlarge_first=True, most_shift=1, mirrored=False)
    images, which = next(iter(MemoryFeed(grey, transform, Finetune(batch_size=8, crop=4, hflip=1.0)).epoch(0)))
    assert images.shape == (8, 3, 8, 8) and torch.equal(images[:, 0], images[:, 2]) and images.is_contiguous()
    plain = torch.cat([fed for fed, _ in MemoryBatches(grey, transform, 3)])[which]
    assert torch.equal(plain[:, 0, 0, 0], grey.images[which, 0, 0, 0]), "corners stay where they are"
    padded = torch.nn.functional.pad(plain, (1, 1, 1, 1))
    for index, image in enumerate(images):
        windows = [padded[index, :, down : down + 8, right : right + 8] for down in range(3) for right in range(3)]
        assert any(torch.equal(image, window) for window in windows)


@pytest.mark.gpu
def test_a_gpu_sees_what_the_processor_sees() -> None:
    for pictures, transform in (
        (numbered(48), ImageTransform(9)),
        (Pictures(torch.rand(48, 1, 4, 4), torch.arange(48)), ImageTransform(9, *AS_IT_IS, enlarge_first=True)),
    ):
        here, there = (MemoryFeed(pictures.to(device), transform, ALL_ON).epoch(0) for device in ("cpu", "cuda"))
        for (images, which), (others, of) in zip(here, there, strict=True):
            assert others.is_cuda and torch.allclose(images, others.cpu(), atol=1e-5) and torch.equal(which, of.cpu())


def test_testing_shows_everything_in_order_again_and_again() -> None:
    pictures = numbered(11)
    batches = MemoryBatches(pictures, ImageTransform(6), 4)
    assert len(batches) == 3
    for _ in range(2):
        images, which = (torch.cat(part) for part in zip(*batches, strict=True))
        assert which.tolist() == list(range(11)) and torch.equal(images, normalise(pictures.images))
