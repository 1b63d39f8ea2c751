"""Swap and erase the ReLU6 of a trained ImageNet network: the accuracy lost without any training.

Needs the folder that SURGERY_DATA names, with `weights/tf_efficientnet_lite0.safetensors` and 1,000 pictures, one of
each class, in `data/imagenet1k/val.tar`. From the root of the repository:

    SURGERY_DATA=FOLDER python -m benchmarks.imagenet_pretrained
"""

import argparse
import copy
import math
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

import numpy
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data import resolve_data_config
from torch import Tensor, nn

import surgery
from benchmarks.conditions import RESULTS, command_line, conditions, markdown_table, paragraph, write_results
from recipes.data import shared_folder
from recipes.models.build import build
from surgery import Site

NAME = "tf_efficientnet_lite0"
SHORT = 256  # pixels of the shorter side: 224 over timm's crop fraction of 0.875
KNOWN = 438  # correct of the 500 images of even rank; any other result means a wrong model or wrong data
SAME = 1e-6  # of the largest score: the rounding error of an exact swap
COUNTS = (1, 2, 4)
UNTOUCHED = "untouched"


@dataclass(frozen=True)
class Pictures:
    """Half of the classes, one image each: for calibration and selection, or for reporting."""

    images: Tensor
    labels: Tensor

    def batches(self) -> list[Tensor]:
        return list(self.images.split(50))


@dataclass(frozen=True)
class Row:
    """One network: its correct images, the points lost against the unedited one, and their confidence interval."""

    what: str
    repair: str
    right: int
    accuracy: float
    lost: float
    low: float
    high: float
    far: float


class Reported:
    """Measures networks on the images for reporting, against the unedited one."""

    def __init__(self, model: nn.Module, pictures: Pictures) -> None:
        self.pictures = pictures
        self.untouched = scores(model, pictures)

    def row(self, what: str, repair: str, model: nn.Module) -> Row:
        """The row of one network; the interval is that of the paired difference to the unedited one."""
        found, labels = scores(model, self.pictures), self.pictures.labels
        right, before = found.argmax(1) == labels, self.untouched.argmax(1) == labels
        each = 100 * (before.double() - right.double())
        half = 1.96 * float(each.std()) / math.sqrt(len(each))
        far = float((found - self.untouched).abs().max() / self.untouched.abs().max())
        lost = float(each.mean())
        row = Row(what, repair, int(right.sum()), float(right.double().mean()), lost, lost - half, lost + half, far)
        print(f"{what}, {repair}: {row.right} right, {lost:+.1f} points lost", flush=True)
        return row


@torch.no_grad()
def scores(model: nn.Module, pictures: Pictures) -> Tensor:
    model.eval()
    return torch.cat([model(batch) for batch in pictures.batches()])


def halves(model: nn.Module, limit: int | None) -> tuple[Pictures, Pictures]:
    """The preprocessed images of odd and of even rank; the class is the rank of the file's name."""
    config = resolve_data_config(model=model)
    side, mean, deviation = config["input_size"][-1], *(torch.tensor(config[key]) for key in ("mean", "std"))
    with tarfile.open(shared_folder() / "data" / "imagenet1k" / "val.tar") as tar:
        members = sorted((member for member in tar.getmembers() if member.isfile()), key=attrgetter("name"))[:limit]
        files = map(tar.extractfile, members)
        pictures = [central(Image.open(file).convert("RGB"), side) for file in files]  # type: ignore[arg-type]
    pixels = torch.stack([torch.from_numpy(numpy.array(picture)) for picture in pictures]) / 255
    images = ((pixels - mean) / deviation).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(len(members))
    odd, even = (Pictures(images[start::2], labels[start::2]) for start in (1, 0))
    return odd, even


def central(picture: Image.Image, side: int) -> Image.Image:
    """The central square of an image, its corner rounded down."""
    assert min(picture.size) == SHORT, f"the short side is {min(picture.size)} pixels"
    left, top = ((length - side) // 2 for length in picture.size)
    return picture.crop((left, top, left + side, top + side))


def mirrored(pictures: Pictures, seed: int) -> list[Tensor]:
    """The images and their mirror images, shuffled, for estimating the statistics of norms."""
    both = torch.cat([pictures.images, pictures.images.flip(3)])
    order = torch.randperm(len(both), generator=torch.Generator().manual_seed(seed))
    return list(both[order].contiguous(memory_format=torch.channels_last).split(100))


def recalibrated(model: nn.Module, batches: list[Tensor]) -> nn.Module:
    """A copy with new statistics; the batches are shuffled, so that is not checked."""
    return surgery.recalibrate(copy.deepcopy(model), batches, force=True)


def exchanged(model: nn.Module, odd: Pictures, batches: list[Tensor], reported: Reported) -> Iterator[Row]:
    """All ReLU6 swapped for learnable functions, initialised to match it as closely as possible."""
    for name in ("pwlu", "prelu", "frelu"):
        edited, _ = surgery.transform(model, surgery.swap(name), odd.images[:8])
        row = reported.row(f"all {len(surgery.find_sites(edited, odd.images[:2]))} ReLU6 to {name}", "-", edited)
        yield row
        if name == "pwlu":
            assert row.far <= SAME, f"PWLU is {row.far:.1e} of the largest score apart from ReLU6"
        else:
            yield reported.row(row.what, "recalibrated", recalibrated(edited, batches))
        assert_kept(model, edited, reported)


def erased(
    model: nn.Module, chosen: list[Site], odd: Pictures, batches: list[Tensor], reported: Reported
) -> Iterator[Row]:
    """The first sites of a ranking, without their activation, with and without repair."""
    for count in COUNTS:
        where, what = [str(site.module) for site in chosen[:count]], f"{count} erased"
        bare, _ = surgery.transform(model, surgery.erase(module=where), odd.images[:8])
        yield reported.row(what, "identity", bare)
        yield reported.row(what, "identity, recalibrated", recalibrated(bare, batches))
        lines = fitted(model, where, odd)
        yield reported.row(what, "affine, fitted", lines)
        yield reported.row(what, "affine, fitted, recalibrated", recalibrated(lines, batches))
        assert_kept(model, lines, reported)


def fitted(model: nn.Module, where: list[str], odd: Pictures) -> nn.Module:
    lines, _ = surgery.transform(model, surgery.erase(module=where, stand_in="affine"), odd.images[:8])
    return surgery.fit_affine(lines, odd.batches(), limit=100)


def ranking(model: nn.Module, odd: Pictures, limit: int) -> list[tuple[Site, float]]:
    """All sites, ranked by how much a fitted line there changes the predictions (KL, nats), lowest first."""
    part = Pictures(odd.images[:limit], odd.labels[:limit])
    before, found = scores(model, part).log_softmax(1), []
    for site in surgery.find_sites(model, odd.images[:2]):
        after = scores(fitted(model, [str(site.module)], odd), part).log_softmax(1)
        found.append((site, float(F.kl_div(after, before, log_target=True, reduction="batchmean"))))
        print(f"{site}: {found[-1][1]:.4f} nats", flush=True)
    return sorted(found, key=lambda pair: pair[1])


def assert_kept(model: nn.Module, edited: nn.Module, reported: Reported) -> None:
    """Whether a saved network, loaded into a fresh one, gives bit-identical scores."""
    fresh = build(f"timm/{NAME}").eval().to(memory_format=torch.channels_last)
    part = Pictures(reported.pictures.images[:50], reported.pictures.labels[:50])
    with tempfile.TemporaryDirectory() as folder:
        surgery.save(edited, folder)
        loaded = surgery.load(folder, model=fresh)
    assert torch.equal(scores(loaded, part), scores(edited, part)), "the loaded network is another one"


def trained() -> nn.Module:
    """The network with its trained weights, in eval mode."""
    weights = shared_folder() / "weights" / f"{NAME}.safetensors"
    return build(f"timm/{NAME}", pretrained=weights).eval()


def study(options: argparse.Namespace) -> tuple[list[Row], list[tuple[Site, float]]]:
    model = trained().to(memory_format=torch.channels_last)
    odd, even = halves(model, options.images)
    reported, batches = Reported(model, even), mirrored(odd, options.seed)
    rows = [reported.row(UNTOUCHED, "-", model)]
    if not options.images:
        assert rows[0].right == KNOWN, f"{rows[0].right} of {len(even.labels)} are right, not {KNOWN}"
    rows.append(reported.row(UNTOUCHED, "recalibrated", recalibrated(model, batches)))
    rows += exchanged(model, odd, batches, reported)
    ranked = ranking(model, odd, options.ranked_images)
    rows += erased(model, [site for site, _ in ranked], odd, batches, reported)
    return rows, ranked


def write(rows: list[Row], ranked: list[tuple[Site, float]], options: argparse.Namespace, command: str) -> Path:
    """Write the table as Markdown and as CSV; return the path of the former."""
    pictures = (options.images or 1000) // 2
    cells = [
        (row.what, row.repair, f"{row.accuracy:.1%}", f"{row.lost:+.1f} ({row.low:+.1f} to {row.high:+.1f})",
         f"{row.far:.1e}")
        for row in rows
    ]  # fmt: skip
    head = ("network", "repair", "accuracy", "points lost", "largest difference of scores / largest score")
    text = [
        "# A trained EfficientNet-Lite0 without training: other activations, and fewer",
        "",
        paragraph(
            f"ImageNet, {pictures} pictures of even class rank, with 95 % intervals of the difference to the untouched "
            f"network, paired by picture; sites chosen, lines fitted and norms recalibrated on the {pictures} of odd "
            "rank. The pictures are probably training pictures of the network: accuracies, and differences to the "
            "untouched network, are flattering. Every exchanged network, and every one with lines, was saved, loaded "
            "into a fresh one, and gave the same scores bit for bit. The central crop has its corner rounded down; "
            "torchvision's `CenterCrop`, which timm uses, rounds halves to even, and one picture less is named rightly."
        ),
        "",
        paragraph(
            f"Erased are the sites whose fitted line moves the predictions on {options.ranked_images} pictures least: "
            + ", ".join(f"`{site.module}` ({kl:.4f} nats)" for site, kl in ranked[: max(COUNTS)])
            + f"; the worst of {len(ranked)} is `{ranked[-1][0].module}` ({ranked[-1][1]:.2f})."
        ),
        "",
        *markdown_table(head, cells),
        "",
        *conditions(command, options.seed),
        "",
    ]
    return write_results(options.results, f"imagenet_pretrained_{NAME}", text, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, help="only the first so many (the known accuracy is not checked)")
    parser.add_argument("--ranked-images", type=int, default=200, help="to rank the sites on (default: 200)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", default=str(RESULTS), help="folder to write into")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    rows, ranked = study(options)
    print(f"wrote {write(rows, ranked, options, command_line(parser, options, 'imagenet_pretrained')).name}")


if __name__ == "__main__":
    main()
