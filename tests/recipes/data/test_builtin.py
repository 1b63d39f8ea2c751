"""The digits, and CIFAR-10 from tar files."""

import sys
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits

from recipes.data import ImageSet, Pictures, cifar10, digits, shared_folder
from surgery.errors import BadFile, SurgeryError, UnknownName
from tests.recipes.data.written import picture, png, write_tar

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images of each class in train-0 and train-1, one in test; the grey value identifies each."""
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
    source = load_digits()
    known = [(pixels.tobytes(), int(label)) for pixels, label in zip(source.images, source.target, strict=True)]
    whole = zip(torch.cat([train.images, test.images])[:, 0], torch.cat([train.labels, test.labels]), strict=True)
    assert sorted(((16 * image).double().numpy().tobytes(), int(label)) for image, label in whole) == sorted(known)
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
    with pytest.raises(SurgeryError, match="which is not a folder"):
        shared_folder()
    monkeypatch.delenv("SURGERY_DATA")
    with pytest.raises(SurgeryError, match="no environment variable SURGERY_DATA"):
        cifar10()


def test_missing_classes_are_told(folder: Path) -> None:
    write_tar(folder / "train-0.tar", {"train/cat/a.png": png(picture(1))})
    with pytest.raises(BadFile, match="ten classes, these files have 1"):
        cifar10(folder, test=False)


@pytest.mark.data
def test_the_shared_test_set(surgery_data: Path) -> None:
    test = cifar10(shards=()).test
    assert test is not None and test.images.shape == (10_000, 3, 32, 32)
    assert torch.bincount(test.labels).tolist() == [1000] * 10


def parts(data: ImageSet, train: bool = True) -> tuple[Pictures, ...]:
    """The training split, if wanted, and the test split, which must exist."""
    found = (data.train, data.test) if train else (data.test,)
    kept = tuple(part for part in found if part is not None)
    assert len(kept) == len(found)
    return kept
