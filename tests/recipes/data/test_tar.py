"""Tar files of PNG images as tensors."""

import gzip
import io
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from recipes.data import read_tar
from recipes.data.tar import list_tar
from surgery.errors import BadFile
from tests.recipes.data.written import picture, png, write_tar


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({}, "contains no images"),
        ({"test/cat/a.png": b"no picture"}, "a.png in odd.tar is not a PNG image"),
        ({"test/cat/a.txt": b"text"}, "not CLASS/NAME.png"),
        ({"a.png": b""}, "not CLASS/NAME.png"),
        ({"test/cat/a.jpg": png(picture(1))}, "not CLASS/NAME.png"),
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


def test_names_in_capitals_and_pictures_of_one_bit(tmp_path: Path) -> None:
    spots = torch.randint(0, 2, (6, 9), dtype=torch.uint8)
    stream = io.BytesIO()
    Image.fromarray((255 * spots).numpy()).convert("1").save(stream, format="PNG")
    write_tar(tmp_path / "ok.tar", {"test/CAT/A.PNG": stream.getvalue(), "test/CAT/b.png": png(255 * spots[None])})
    images, classes = read_tar(tmp_path / "ok.tar")
    assert images.shape == (2, 1, 6, 9) and (images == 255 * spots).all() and classes == ["CAT", "CAT"]


def test_a_picture_is_its_own_bytes_alone(tmp_path: Path) -> None:
    members = {f"test/cat/{index}.png": png(picture(index)) for index in range(3)}
    write_tar(tmp_path / "ok.tar", members)
    assert [file.content() for file in list_tar(tmp_path / "ok.tar")] == list(members.values())


def test_a_file_is_listed_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    plain = tarfile.open
    monkeypatch.setattr(tarfile, "open", lambda path, mode: opened.append(path) or plain(path, mode))
    for members in (["a"], ["a", "b"]):
        write_tar(file := tmp_path / "ok.tar", {f"test/cat/{name}.png": png(picture(1)) for name in members})
        opened.clear()
        assert [len(list_tar(file)), len(list_tar(file))] == [len(members)] * 2
        assert len(opened) == 1


def test_a_compressed_tar_is_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "plain.tar", {"test/cat/a.png": png(picture(1))})
    (tmp_path / "odd.tar").write_bytes(gzip.compress((tmp_path / "plain.tar").read_bytes()))
    with pytest.raises(BadFile, match="cannot be read as a tar file"):
        read_tar(tmp_path / "odd.tar")


def test_a_small_file_that_unpacks_to_much_is_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "odd.tar", {"test/cat/a.png": png(torch.zeros(1, 1100, 1100, dtype=torch.uint8))})
    with pytest.raises(BadFile, match="too large for a small image"):
        read_tar(tmp_path / "odd.tar")


def test_a_file_that_is_no_tar(tmp_path: Path) -> None:
    (tmp_path / "odd.tar").write_bytes(b"x" * 2000)
    with pytest.raises(BadFile, match="cannot be read as a tar file"):
        read_tar(tmp_path / "odd.tar")


def test_a_file_with_holes_is_not_read_in_place(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "odd.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        member = tarfile.TarInfo("test/cat/a.png")
        member.type = tarfile.GNUTYPE_SPARSE
        archive.addfile(member)
    with pytest.raises(BadFile, match="contains a sparse file"):
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
