"""Image files: a folder per class, tars, their order, and damaged pictures."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from recipes.data import open_data
from recipes.data.dataset import InMemory
from recipes.data.image_files import Damage, Damaged, DamagedImage
from surgery.errors import BadFile
from tests.asserts import assert_raises
from tests.recipes.data.folders import TEST, TRAIN, tree, values
from tests.recipes.data.written import picture, png, write_tar, write_tree


@pytest.mark.parametrize("test", ["test", "val", "validation"])
def test_a_folder_per_class(tmp_path: Path, test: str) -> None:
    data = open_data(str(tree(tmp_path / "mine", test=test)))
    assert isinstance(data.source, InMemory)
    assert (data.name, data.classes, data.size) == ("mine", ("ant", "bee", "cow"), 8)
    assert values(data) == (TRAIN, TEST)
    assert values(open_data("mine", data_dir=tmp_path)) == (TRAIN, TEST)


def test_tars_of_one_set(tmp_path: Path) -> None:
    for part, base, copies in (("train-0", 0, (0, 1)), ("train-1", 0, (2, 3)), ("test", 100, (0, 1))):
        members = {
            f"any/{name}/{copy}.png": png(picture(base + 10 * label + copy, 8))
            for label, name in enumerate(("ant", "bee", "cow"))
            for copy in copies
        }
        write_tar(tmp_path / f"{part}.tar", members)
    assert values(open_data(str(tmp_path))) == (TRAIN, TEST)


def test_tars_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    tree(tmp_path)
    for shard in (1, 0):
        members = {
            f"{name}/{shard}.png": png(picture(100 + 10 * label + shard, 8))
            for label, name in enumerate(("ant", "bee", "cow"))
        }
        write_tar(tmp_path / f"test-{shard}.tar", members)
    shutil.rmtree(tmp_path / "test")
    assert values(open_data(str(tmp_path)))[1] == sorted(TEST, key=lambda pair: pair[0] % 10)


def test_pictures_of_a_class_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    tree(tmp_path)
    shutil.rmtree(tmp_path / "test" / "ant")
    names = [11 * number % 40 for number in range(40)]
    write_tree(tmp_path, {f"test/ant/{name:02}.png": picture(200 + name, 8) for name in names})
    assert values(open_data(str(tmp_path)))[1][:40] == [(200 + name, 0) for name in range(40)]


def test_a_damaged_picture_is_left_out_named_and_counted(tmp_path: Path) -> None:
    place = tree(tmp_path)
    whole = (place / "train/bee/2.png").read_bytes()
    for name in ("train/ant/0.png", "test/cow/0.png"):
        (place / name).write_bytes(whole[: len(whole) // 2])
    with pytest.warns(DamagedImage) as warned:
        train, test = values(open_data(str(place)))
    assert [str(warning.message).partition(" is ")[0] for warning in warned] == ["train/ant/0.png", "test/cow/0.png"]
    assert "it is left out, 1 damaged image so far" in str(warned[0].message)
    assert train == TRAIN[1:] and test == [pair for pair in TEST if pair != (120, 2)]
    (place / "test/cow/1.png").write_bytes(b"no image")
    with pytest.warns(DamagedImage):
        assert_raises(BadFile, lambda: open_data(str(place)), "3 of 18 images are damaged", "is not a PNG image")


def test_damage_is_named_at_first_and_then_counted() -> None:
    damage, names = Damage(2000), [f"{number}.png is not an image." for number in range(150)]
    with pytest.warns(DamagedImage) as warned:
        for name in [*names, *names]:
            damage.add(Damaged(name))
    assert [int(str(warning.message).split()[-5]) for warning in warned] == [*range(1, 11), 100]


def test_a_picture_that_is_too_large_for_a_small_one_is_named(tmp_path: Path) -> None:
    place = tree(tmp_path)
    (place / "train/bee/2.png").write_bytes(b"0" * (1 << 21))
    assert_raises(BadFile, lambda: open_data(str(place)), "train/bee/2.png is too large for a small image")


def test_hidden_and_other_files_are_passed_over(tmp_path: Path) -> None:
    place = tree(tmp_path)
    (place / "train" / ".cache").mkdir()
    for name in ("train/ant/._0.png", "train/ant/about.txt", "train/list.csv"):
        (place / name).write_text("no images")
    (place / "train/ant/more").mkdir()
    (place / "train/ant/0.png").rename(place / "train/ant/more/0.png")
    assert values(open_data(str(place))) == (TRAIN, TEST)
