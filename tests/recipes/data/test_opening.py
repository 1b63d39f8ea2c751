"""Open data sets by name."""

import hashlib
import pickle
import re
import shutil
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision
from torch import Tensor, nn

import recipes.data.opening
from recipes.data import Data, digits, normalise, open_data
from recipes.data.dataset import Decoding, InMemory
from recipes.data.opening import KNOWN, UntestedClass
from recipes.format.settings import Finetune
from surgery.errors import BadFile, BadValue, UnknownName
from tests.asserts import assert_raises
from tests.recipes.data.folders import TEST, TRAIN, tree, values
from tests.recipes.data.written import picture, write_tree

CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def test_where_there_are_several_parts_to_test_on_it_is_the_one_called_so(tmp_path: Path) -> None:
    tree(tmp_path)
    write_tree(tmp_path, {f"{part}/ant/0.png": picture(7, 8) for part in ("val", "validation")})
    assert values(open_data(str(tmp_path)))[1] == TEST
    shutil.rmtree(tmp_path / "test")
    (tmp_path / "validation" / "ant").rename(tmp_path / "validation" / "none")
    with pytest.warns(UntestedClass, match="2 of its 3 classes: bee, cow"):
        assert values(open_data(str(tmp_path)))[1] == [(7, 0)]


@pytest.mark.parametrize(("bytes_of_pixels", "small"), [(18 * 3 * 8 * 8, True), (18 * 3 * 8 * 8 - 1, False)])
def test_many_pictures_are_left_to_the_loader(
    tmp_path: Path, bytes_of_pixels: int, small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipes.data.opening, "_SMALL_SET", bytes_of_pixels)
    assert isinstance(open_data(str(tree(tmp_path))).source, InMemory if small else Decoding)


def test_so_many_of_each_part_the_same_every_time(tmp_path: Path) -> None:
    place = str(tree(tmp_path))
    some = values(open_data(place, train_num_samples=5, val_num_samples=3))
    assert some == values(open_data(place, train_num_samples=5, val_num_samples=3))
    assert [len(part) for part in some] == [5, 3] and set(some[0]) < set(TRAIN) and set(some[1]) < set(TEST)
    more = values(open_data(place, train_num_samples=6))
    assert set(some[0]) < set(more[0]) and more[1] == TEST
    assert_raises(BadValue, lambda: open_data(place, train_num_samples=13), "fewer images", "13", "12")
    assert_raises(BadValue, lambda: open_data(place, val_num_samples=0), "val_num_samples must be at least 1")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"size": 10**9}, "size must be at most 4096, not 1000000000"),
        ({"size": 0}, "size must be at least 1, not 0"),
        ({"workers": 10**6}, "workers must be at most 1024, not 1000000"),
        ({"workers": -1}, "workers must be at least 0, not -1"),
        ({"workers": "a"}, "workers must be an integer, not 'a'"),
        ({"workers": None}, "workers must be an integer, not None"),
        ({"size": 8.0}, "size must be an integer, not 8.0"),
        ({"train_num_samples": True}, "train_num_samples must be an integer, not True"),
        ({"val_num_samples": "3"}, "val_num_samples must be an integer, not '3'"),
    ],
)
def test_a_number_out_of_its_range_is_told_by_itself(given: dict[str, Any], says: str) -> None:
    """Names that are not compared are not reported."""
    (name,) = given
    others = {"size", "workers", "train_num_samples", "val_num_samples"} - {name}
    with pytest.raises(BadValue, match=re.escape(says)) as caught:
        open_data("digits", **given)
    assert not any(other in str(caught.value) for other in others)


def test_another_size_is_made_in_batch(tmp_path: Path) -> None:
    data = open_data(str(tree(tmp_path)), size=12)
    images, _ = next(iter(data.testing()))
    assert data.size == 12 and images.shape == (6, 3, 12, 12)
    assert isinstance(data.source, InMemory) and data.source.test.images.shape == (6, 3, 8, 8)
    assert values(data) == (TRAIN, TEST)


def test_grey_pictures_are_fed_in_colour(tmp_path: Path) -> None:
    tree(tmp_path)
    write_tree(tmp_path, {"test/ant/0.png": torch.full((1, 8, 8), 100, dtype=torch.uint8)})
    assert values(open_data(str(tmp_path))) == (TRAIN, TEST)


@pytest.mark.parametrize("odd", [(9, 9), (8, 6)])
def test_pictures_of_different_sizes_are_left_to_the_loader(tmp_path: Path, odd: tuple[int, int]) -> None:
    tree(tmp_path)
    write_tree(tmp_path, {"test/bee/0.png": torch.zeros(3, *odd, dtype=torch.uint8)})
    data = open_data(str(tmp_path))
    assert isinstance(data.source, Decoding) and data.size == 224


@pytest.mark.parametrize(("size", "small"), [(96, True), (97, False)])
def test_large_pictures_are_left_to_the_loader(tmp_path: Path, size: int, small: bool) -> None:
    data = open_data(str(tree(tmp_path, size)))
    assert isinstance(data.source, InMemory if small else Decoding) and data.size == (size if small else 224)


def test_what_a_folder_lacks_is_told(tmp_path: Path) -> None:
    place = tree(tmp_path / "set")
    assert_raises(UnknownName, lambda: open_data("digts"), "digts", "cifar10", "hfds/NAME", "hint", "digits")
    assert_raises(UnknownName, lambda: open_data(str(tmp_path / "sat")), "or folder", "hint", "set")
    (tmp_path / "file").write_text("")
    assert_raises(BadFile, lambda: open_data(str(tmp_path / "file")), "is not a folder")
    (place / "test").rename(place / "tests")
    assert_raises(UnknownName, lambda: open_data(str(place)), "no test (or val, validation)", "tests, train")
    (place / "tests").rename(place / "test")
    (place / "train").rename(place / "training")
    assert_raises(UnknownName, lambda: open_data(str(place)), "no train in", "training")
    (place / "train").mkdir()
    assert_raises(BadFile, lambda: open_data(str(place)), "does not have a folder per class", "train/CLASS/*.png")


def test_classes_that_do_not_fit_are_told(tmp_path: Path) -> None:
    place = tree(tmp_path)
    write_tree(place, {"train/dog/0.png": picture(30, 8)})
    with pytest.warns(UntestedClass, match="no image to test on of 1 of its 4 classes: dog"):
        assert open_data(str(place)).classes == ("ant", "bee", "cow", "dog"), "a class need not be tested"
    write_tree(place, {"test/bees/0.png": picture(1, 8)})
    assert_raises(BadFile, lambda: open_data(str(place)), "not trained: bees", "4 classes", "hint", "bee")
    (place / "test" / "bees" / "0.png").rename(place / "test" / "bees" / "note.txt")
    assert_raises(BadFile, lambda: open_data(str(place)), "the class bees", "has no images")


def test_digits_are_enlarged_and_in_three_channels() -> None:
    data = open_data("digits", val_num_samples=40, train_num_samples=30)
    images, labels = next(iter(data.testing(40)))
    assert (data.size, data.classes) == (32, tuple("0123456789"))
    assert images.shape == (40, 3, 32, 32) and images.min() >= 0 and images.max() <= 1
    source = digits().test
    assert source is not None
    large = nn.functional.interpolate(source.images, size=(32, 32), mode="bilinear", align_corners=False)
    for image, label in zip(images, labels, strict=True):
        assert any(
            torch.equal(image[0], stored[0]) and label == of for stored, of in zip(large, source.labels, strict=True)
        )
    fed = data.training(Finetune(batch_size=10, hflip=1.0))
    assert fed.steps == 3 and open_data("digits", size=16).size == 16
    assert len(labels_of(open_data("digits"))) == 359
    assert_raises(BadValue, lambda: open_data("digits", data_dir="here"), "data_dir=here")


def labels_of(data: Data) -> Tensor:
    return torch.cat([labels for _, labels in data.testing()])


def write_cifar(root: Path, kind: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor, Tensor]:
    """Two images per class in each file of torchvision's CIFAR folder, with checksums; returns the test images."""
    count = 100 if kind is torchvision.datasets.CIFAR100 else 10
    key = "fine_labels" if count == 100 else "labels"
    names = CIFAR if count == 10 else tuple(f"class{index:02}" for index in range(100))
    place = root / kind.base_folder
    place.mkdir()

    def written(name: str, content: object) -> list[str]:
        data = pickle.dumps(content)
        (place / name).write_bytes(data)
        return [name, hashlib.md5(data).hexdigest()]

    images = torch.randint(0, 256, (2 * count, 3, 32, 32), dtype=torch.uint8)
    labels = torch.arange(2 * count) % count
    content = {"data": images.flatten(1).numpy(), key: labels.tolist()}
    for attribute in ("train_list", "test_list"):
        monkeypatch.setattr(kind, attribute, [written(name, content) for name, _ in getattr(kind, attribute)])
    monkeypatch.setattr(
        kind, "meta", {**kind.meta, "md5": written(kind.meta["filename"], {kind.meta["key"]: names})[1]}
    )
    return images, labels


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("inside", [False, True])
def test_cifar_as_torchvision_unpacks_it(
    tmp_path: Path, name: str, inside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = getattr(torchvision.datasets, name.upper())
    images, labels = write_cifar(tmp_path, kind, monkeypatch)
    place = tmp_path / kind.base_folder
    data = open_data(name, data_dir=place if inside else tmp_path)
    assert (data.name, data.size, len(data.classes)) == (name, 32, len(labels) // 2) and data.classes[0] != "0"
    got, of = (torch.cat(part) for part in zip(*data.testing(), strict=True))
    assert torch.equal(got, normalise(images)) and torch.equal(of, labels)
    assert data.training(Finetune(batch_size=4)).steps == len(labels) * len(kind.train_list) // 4
    assert len(labels_of(open_data(name, data_dir=tmp_path, val_num_samples=7))) == 7
    first = place / kind.test_list[0][0]
    first.write_bytes(first.read_bytes() + b"more")
    assert_raises(BadFile, lambda: open_data(name, data_dir=tmp_path), "checksums are not those of", "download=True")


def test_cifar_as_a_folder_per_class_needs_all_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = {f"{part}/{name}/0.png": picture(1) for part in ("train", "test") for name in CIFAR}
    place = write_tree(tmp_path / "data" / "cifar10", whole)
    monkeypatch.setenv("SURGERY_DATA", str(tmp_path))
    assert open_data("cifar10").classes == open_data("cifar10", data_dir=place).classes == CIFAR
    write_tree(place, {"train/zebra/0.png": picture(1)})
    assert_raises(BadFile, lambda: open_data("cifar10"), "cifar10 has 10 classes", "has 11", "zebra")


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_is_downloaded_where_it_is_missing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = getattr(torchvision.datasets, name.upper())
    asked: list[Path] = []

    def download(self: Any) -> None:
        asked.append(Path(self.root))
        Path(self.root).mkdir()
        write_cifar(Path(self.root), kind, monkeypatch)

    monkeypatch.setattr(kind, "download", download)
    monkeypatch.delenv("SURGERY_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    count = len(open_data(name).classes)
    assert (count, open_data(name).classes) == (KNOWN[name], open_data(name, data_dir="data").classes)
    assert asked == [Path("data")], "once"
    monkeypatch.setattr(kind, "download", unreachable)
    assert_raises(
        UnknownName, lambda: open_data(name, data_dir="else"), f"{name} is not in else", "no route", "data_dir"
    )


def unreachable(_: Any) -> None:
    raise URLError("no route to host")


def test_processes_share_an_opened_set(tmp_path: Path) -> None:
    data = open_data(str(tree(tmp_path)))
    shares = [data.training(Finetune(batch_size=2), seed=3, rank=rank, world=2) for rank in (0, 1)]
    whole = data.training(Finetune(batch_size=4), seed=3)
    for (images, labels), *parts in zip(whole.epoch(0), *(share.epoch(0) for share in shares), strict=True):
        assert torch.equal(images, torch.cat([part[0] for part in parts]))
        assert torch.equal(labels, torch.cat([part[1] for part in parts]))
    assert_raises(BadValue, lambda: data.testing(0), "batch_size=0")


@pytest.mark.data
def test_the_shared_cifar10(surgery_data: Path) -> None:
    data = open_data("cifar10", data_dir=surgery_data / "data" / "cifar10", train_num_samples=600, val_num_samples=300)
    assert data.classes == CIFAR and data.size == 32
    assert data.training(Finetune(batch_size=100)).steps == 6
    assert set(labels_of(data).tolist()) == set(range(10)) and len(labels_of(data)) == 300
