"""Large images, through timm's transforms and loaders."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import recipes.data.loader
from recipes.data import Data, open_data
from recipes.data.dataset import Decoding
from recipes.data.image_files import DamagedImage
from recipes.format.settings import Finetune
from surgery.errors import BadFile, BadValue
from tests.asserts import assert_raises
from tests.recipes.data.pictures import grey, greys, labels_of
from tests.recipes.data.written import png as encoded
from tests.recipes.data.written import write_tar

ALL_ON = Finetune(batch_size=2, aa="rand-m9-mstd0.5-inc1", reprob=0.5)
# Python 3.12 and newer warn of what torch's loader does.
workers = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


def opened(folder: Path, workers: int = 0, **asked: Any) -> Data:
    return open_data(str(folder), size=16, workers=workers, **asked)


def equal(first: list[tuple[Tensor, Tensor]], second: list[tuple[Tensor, Tensor]]) -> bool:
    pairs = list(zip(first, second, strict=True))
    return bool(pairs) and all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in pairs)


def noisy(folder: Path) -> Path:
    """The same folder with images on which every augmentation is visible."""
    for path in folder.rglob("*.png"):
        path.write_bytes(encoded(torch.randint(0, 256, (3, 110, 120), dtype=torch.uint8)))
    return folder


def test_the_test_part_comes_whole_and_in_order(folder: Path) -> None:
    data = opened(folder)
    assert isinstance(data.source, Decoding) and (data.name, data.classes, data.size) == ("large", ("ant", "bee"), 16)
    batches = data.testing(3)
    for _ in range(2):
        images, labels = (torch.cat(part) for part in zip(*batches, strict=True))
        assert images.shape == (4, 3, 16, 16) and images.dtype == torch.float32 and labels.dtype == torch.int64
        assert labels.tolist() == [0, 0, 1, 1]
        assert greys(images) == [grey(label, copy) for label in range(2) for copy in range(2)]


def test_every_picture_is_trained_on_once_an_epoch(folder: Path) -> None:
    fed = opened(folder).training(Finetune(batch_size=3))
    assert fed.steps == 2
    images, labels = (torch.cat(part) for part in zip(*fed.epoch(0), strict=True))
    assert images.shape == (6, 3, 16, 16) and len(labels) == 6
    order = [labels_of(opened(folder).training(Finetune(batch_size=1), seed=1), epoch) for epoch in (0, 1, 2)]
    assert all(sorted(epoch) == [0] * 4 + [1] * 4 for epoch in order) and len({tuple(epoch) for epoch in order}) > 1


@workers
def test_batches_depend_on_seed_epoch_and_number_alone(folder: Path) -> None:
    noisy(folder)
    fed = opened(folder).training(ALL_ON, seed=4)
    first = list(fed.epoch(1))
    random.seed(9), np.random.seed(9), torch.manual_seed(9)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    assert equal(first, list(fed.epoch(1)))
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]
    assert equal(first, list(opened(folder, workers=1).training(ALL_ON, seed=4).epoch(1)))
    assert equal(first[1:], list(fed.epoch(1, start=1))) and not list(fed.epoch(1, start=4))
    for other in (fed.epoch(2), opened(folder).training(ALL_ON, seed=5).epoch(1)):
        assert not equal(first, list(other))
    assert_raises(BadValue, lambda: fed.epoch(0, 5), "batch 5")


def test_every_picture_is_augmented_in_its_own_way(folder: Path) -> None:
    same = encoded(torch.randint(0, 256, (3, 110, 120), dtype=torch.uint8))
    for path in folder.rglob("*.png"):
        path.write_bytes(same)
    images = torch.cat([batch for batch, _ in opened(folder).training(Finetune(batch_size=4)).epoch(0)])
    assert len(images) == 8 and len(images.unique(dim=0)) == 8


def test_processes_together_see_what_one_sees(folder: Path) -> None:
    data = opened(noisy(folder))
    whole = data.training(Finetune(batch_size=4, reprob=0.5))
    parts = [data.training(Finetune(batch_size=2, reprob=0.5), rank=rank, world=2).epoch(0) for rank in (0, 1)]
    joined = [(torch.cat((a[0], b[0])), torch.cat((a[1], b[1]))) for a, b in zip(*parts, strict=True)]
    assert equal(list(whole.epoch(0)), joined)


def test_options_reach_the_transforms(folder: Path) -> None:
    noisy(folder)

    def first(**options: Any) -> Tensor:
        fed = opened(folder).training(Finetune(batch_size=8, **options))
        return next(fed.epoch(0))[0]

    plain = first(hflip=0.0)
    assert torch.equal(plain, first(hflip=0.0)) and not torch.equal(plain, first(hflip=1.0))
    assert not torch.equal(plain, first(hflip=0.0, reprob=1.0))
    assert not torch.equal(plain, first(hflip=0.0, aa="3a"))


@pytest.mark.parametrize("processes", [0, 1])
@workers
def test_a_damaged_picture_is_left_out_named_and_counted(folder: Path, processes: int) -> None:
    whole = (folder / "val/bee/1.png").read_bytes()
    for name in ("train/ant/2.png", "val/bee/1.png"):
        (folder / name).write_bytes(whole[: len(whole) // 2])
    data = opened(folder, workers=processes)
    options, fed = Finetune(batch_size=4, hflip=0.0), []
    with pytest.warns(DamagedImage, match=r"train/ant/2.png is not a PNG image .*left out, 1 damaged image so far"):
        feed = data.training(options)
        fed = list(feed.epoch(0))
    assert [len(images) for images, _ in fed] == [4, 4], "another image takes its place"
    assert len(list(feed.epoch(1))) == 2, "it is named once"
    with pytest.warns(DamagedImage, match=r"val/bee/1.png is not a PNG image"):
        tested = list(data.testing(3))
    assert [len(images) for images, _ in tested] == [3]
    for name in ("val/bee/0.png", "val/ant/0.png"):
        (folder / name).write_bytes(b"no image")
    with pytest.warns(DamagedImage), pytest.raises(BadFile, match="3 of 4 images are damaged"):
        list(data.testing(3))


def test_timms_prefetching_feeds_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = opened(noisy(folder))
    options = Finetune(batch_size=4)
    plain = [*data.testing(3), *data.training(options).epoch(0)]
    monkeypatch.setattr(recipes.data.loader, "_prefetched", lambda device: True)
    fed = [*data.testing(3), *data.training(options).epoch(0)]
    for (images, labels), (others, of) in zip(plain, fed, strict=True):
        assert images.dtype == others.dtype and torch.allclose(images, others, atol=1e-5) and torch.equal(labels, of)
    erased = data.training(Finetune(batch_size=4, reprob=1.0)).epoch(0)
    assert all(not torch.allclose(a[0], b[0]) for a, b in zip(erased, data.training(options).epoch(0), strict=True))
    assert not list(data.training(options).epoch(0, start=2))


@pytest.mark.gpu
def test_large_pictures_on_the_gpu(folder: Path) -> None:
    data = opened(noisy(folder), workers=1)
    options = Finetune(batch_size=4, aa="3a")
    for there, here in zip(
        data.training(options, device="cuda").epoch(0), data.training(options).epoch(0), strict=True
    ):
        assert there[0].is_cuda and there[1].is_cuda and torch.equal(there[1].cpu(), here[1])
        assert torch.allclose(there[0].cpu(), here[0], atol=1e-5)


def test_samples_of_large_pictures(folder: Path) -> None:
    data = opened(folder, train_num_samples=3, val_num_samples=1)
    assert data.training(Finetune(batch_size=1)).steps == 3
    assert sum(len(labels) for _, labels in data.testing()) == 1


def test_tars_and_other_kinds_of_pictures(folder: Path) -> None:
    for path in list(folder.rglob("*.png")):
        with Image.open(path) as stored:
            stored.save(path.with_suffix(".JPEG"), quality=95)
        path.unlink()
    assert greys(next(iter(opened(folder).testing()))[0])[0] == 0
    place = folder.parent / "tars"
    place.mkdir()
    for part in ("train", "val"):
        members = {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob(f"{part}/*/*"))}
        write_tar(place / f"{part}.tar", members)
    assert equal(list(opened(place).testing()), list(opened(folder).testing()))
