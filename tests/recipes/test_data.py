"""Images as tensors: the digits, tar files of PNG pictures, augmentation in batch."""

import io
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from recipes.data import ImageSet, Pictures, cifar10, crop_and_flip, digits, normalise, read_tar, shared_folder
from surgery.errors import BadFile, SurgeryError, UnknownName

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def png(image: Tensor) -> bytes:
    stream = io.BytesIO()
    pixels = image.permute(1, 2, 0).numpy()
    Image.fromarray(pixels[..., 0] if len(image) == 1 else pixels).save(stream, format="PNG")
    return stream.getvalue()


def picture(value: int, size: int = 32) -> Tensor:
    return torch.full((3, size, size), value, dtype=torch.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures of each class in train-0 and train-1, one in test; the grey value tells which it is."""
    for shard, start in (("train-0", 0), ("train-1", 100), ("test", 200)):
        count = 1 if shard == "test" else 2
        members = {
            f"{shard.split('-')[0]}/{name}/{copy:04}.png": png(picture(start + 2 * index + copy))
            for index, name in reversed(list(enumerate(CLASSES)))
            for copy in range(count)
        }
        write_tar(tmp_path / f"{shard}.tar", members)
    return tmp_path


def test_digits_are_split_the_same_way_every_time() -> None:
    data, again = digits(), digits()
    train, test = parts(data)
    assert train.images.shape == (1438, 1, 8, 8) and test.images.shape == (359, 1, 8, 8)
    assert train.images.dtype == torch.float32 and train.labels.dtype == torch.int64
    assert train.images.min() == 0 and train.images.max() == 1
    assert data.classes == tuple("0123456789")
    assert set(test.labels.tolist()) == set(range(10))
    assert torch.equal(train.images, parts(again)[0].images) and torch.equal(test.labels, parts(again)[1].labels)
    assert not torch.equal(test.labels, parts(digits(seed=1))[1].labels)


def test_digits_without_scikit_learn_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(SurgeryError, match=r"activation-surgery\[demo\]"):
        digits()


def test_cifar10_reads_tars_and_labels_by_sorted_names(folder: Path) -> None:
    train, test = parts(cifar10(folder, shards=("train-0", "train-1")))
    assert cifar10(folder).classes == CLASSES
    assert train.images.shape == (40, 3, 32, 32) and train.images.dtype == torch.uint8
    assert test.images.shape == (10, 3, 32, 32)
    for value, label in zip(train.images[:, 0, 0, 0].tolist(), train.labels.tolist(), strict=True):
        assert value % 100 // 2 == label
    assert (test.images[:, 0, 0, 0].to(torch.int64) - 200 == 2 * test.labels).all()
    assert train.labels.tolist() != sorted(train.labels.tolist()), "the files are sorted, training must not be"
    assert sorted(path.name for path in folder.iterdir()) == ["test.tar", "train-0.tar", "train-1.tar"]


def test_cifar10_reads_only_what_is_asked_for(folder: Path) -> None:
    (folder / "test.tar").unlink()
    data = cifar10(folder, test=False)
    assert data.test is None and data.train is not None and len(data.train) == 20
    (folder / "train-0.tar").unlink()
    with pytest.raises(UnknownName, match=r"train-0\.tar") as caught:
        cifar10(folder, test=False)
    assert "train-1.tar" in str(caught.value)


def test_cifar10_looks_where_the_variable_says(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = folder / "shared" / "data" / "cifar10"
    place.mkdir(parents=True)
    (folder / "test.tar").rename(place / "test.tar")
    monkeypatch.setenv("SURGERY_DATA", str(folder / "shared"))
    assert len(parts(cifar10(shards=()), train=False)[0]) == 10
    monkeypatch.setenv("SURGERY_DATA", str(folder / "nowhere"))
    with pytest.raises(SurgeryError, match="which is no folder"):
        shared_folder()
    monkeypatch.delenv("SURGERY_DATA")
    with pytest.raises(SurgeryError, match="no environment variable SURGERY_DATA"):
        cifar10()


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({}, "holds no picture"),
        ({"test/cat/a.png": b"no picture"}, "a.png in odd.tar is not a PNG picture"),
        ({"test/cat/a.txt": b"text"}, "not CLASS/NAME.png"),
        ({"a.png": b""}, "not CLASS/NAME.png"),
        ({"test/cat/a.png": b"0" * (1 << 21)}, "too large"),
        ({"t/cat/a.png": png(picture(1)), "t/dog/a.png": png(picture(1, size=16))}, "different sizes"),
    ],
)
def test_a_tar_that_is_not_what_it_should_be(tmp_path: Path, members: dict[str, bytes], says: str) -> None:
    write_tar(tmp_path / "odd.tar", members)
    with pytest.raises(BadFile, match=says):
        read_tar(tmp_path / "odd.tar")


@pytest.mark.parametrize("channels", [1, 3])
def test_every_pixel_arrives(tmp_path: Path, channels: int) -> None:
    images = torch.randint(0, 256, (3, channels, 6, 9), dtype=torch.uint8)
    write_tar(tmp_path / "ok.tar", {f"test/cat/{index}.png": png(image) for index, image in enumerate(images)})
    assert torch.equal(read_tar(tmp_path / "ok.tar")[0], images)


def test_a_small_file_that_unpacks_to_much_is_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "odd.tar", {"test/cat/a.png": png(torch.zeros(1, 1100, 1100, dtype=torch.uint8))})
    with pytest.raises(BadFile, match="too large for a small picture"):
        read_tar(tmp_path / "odd.tar")


def test_a_file_that_is_no_tar(tmp_path: Path) -> None:
    (tmp_path / "odd.tar").write_bytes(b"x" * 2000)
    with pytest.raises(BadFile, match="cannot be read as a tar file"):
        read_tar(tmp_path / "odd.tar")


def test_links_and_climbing_names_touch_no_disk(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    with tarfile.open(inside / "odd.tar", "w") as archive:
        link = tarfile.TarInfo("test/cat/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "../../../secret"
        archive.addfile(link)
        climbing = tarfile.TarInfo("../../cat/a.png")
        content = png(picture(7))
        climbing.size = len(content)
        archive.addfile(climbing, io.BytesIO(content))
    images, classes = read_tar(inside / "odd.tar")
    assert classes == ["cat"] and images.shape == (1, 3, 32, 32) and (images == 7).all()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["inside", "odd.tar"]


def test_missing_classes_are_told(folder: Path) -> None:
    write_tar(folder / "train-0.tar", {"train/cat/a.png": png(picture(1))})
    with pytest.raises(BadFile, match="ten classes, these files have 1"):
        cifar10(folder, test=False)


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


def test_images_and_labels_must_belong_together() -> None:
    with pytest.raises(BadFile, match="do not belong together"):
        Pictures(torch.zeros(3, 1, 8, 8), torch.zeros(2, dtype=torch.int64))


@pytest.mark.data
def test_the_shared_test_set(surgery_data: Path) -> None:
    test = cifar10(shards=()).test
    assert test is not None and test.images.shape == (10_000, 3, 32, 32)
    assert torch.bincount(test.labels).tolist() == [1000] * 10


def maybe_flipped(image: Tensor, flipped: bool) -> Tensor:
    return image.flip(2) if flipped else image


def parts(data: ImageSet, train: bool = True) -> tuple[Pictures, ...]:
    """The training part, if wanted, and the test part, which must be there."""
    found = (data.train, data.test) if train else (data.test,)
    kept = tuple(part for part in found if part is not None)
    assert len(kept) == len(found)
    return kept
