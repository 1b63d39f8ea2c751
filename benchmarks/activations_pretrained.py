"""Swap and erase the ReLUs of trained CIFAR-10 ResNets: accuracy lost without training, and after a short fine-tune.

Needs the folder that SURGERY_DATA names. From the root of the repository:

    SURGERY_DATA=FOLDER python -m benchmarks.activations_pretrained --depth 20 --part same scan cumulative fade
"""

import argparse
import copy
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import surgery
from benchmarks.conditions import RESULTS, command_line, conditions, markdown_table, write_results
from benchmarks.erase_pretrained import KNOWN
from benchmarks.plain_loop import accuracy, train
from recipes.data import Pictures, cifar10, crop_and_flip, normalise, shared_folder
from recipes.models.build import build
from surgery import Rule, Site

PARTS = ("same", "scan", "cumulative", "fade")
COLUMNS = ("identity", "identity + recalibration", "affine, data-free", "affine, fitted", "affine + recalibration")
FITTED = "affine, fitted"
FINETUNES = ("untouched (control)", "identity at once", "affine at once", "fading to identity", "fading to affine")


@dataclass(frozen=True)
class Images:
    """The images of each purpose: nothing is chosen or fitted on test images."""

    fit: list[Tensor]  # preprocessed, not augmented
    augmented: list[Tensor]
    holdout: Pictures
    test: Pictures
    train: Pictures


@dataclass(frozen=True)
class Row:
    """One measurement, a row of the CSV. `lost` is in points of accuracy, `kl` in nats per image."""

    part: str
    what: str
    column: str
    images: str
    accuracy: float
    lost: float
    kl: float | None = None
    note: str = ""


def images_of(options: argparse.Namespace) -> Images:
    """Hold-out images come from another training shard than those that are fitted on."""
    data = cifar10(shards=("train-0",)).to(options.device)
    other = cifar10(shards=("train-1",), test=False).to(options.device)
    assert data.train is not None and data.test is not None and other.train is not None
    generator = torch.Generator().manual_seed(options.seed)
    augmented = crop_and_flip(data.train.images[: options.recalibrate_images], generator)
    return Images(
        fit=list(normalise(data.train.images[: options.fit_images]).split(125)),
        augmented=list(normalise(augmented).split(125)),
        holdout=other.train.first(options.holdout_images),
        test=data.test.shuffled().first(options.test_images or len(data.test)),
        train=data.train.first(options.images or len(data.train)),
    )


@torch.no_grad()
def logits(model: nn.Module, pictures: Pictures) -> Tensor:
    return torch.cat([model(normalise(part)) for part in pictures.images.split(250)])


def repaired(model: nn.Module, sites: list[Site], images: Images) -> Iterator[tuple[str, nn.Module]]:
    """The network without the activations at these sites, column by column; the data-free one only behind norms."""
    example, where = images.fit[0][:2], [str(site.module) for site in sites]
    bare, _ = surgery.transform(model, surgery.erase(module=where), example)
    yield COLUMNS[0], bare
    # The images are shuffled here, so the check for that is not needed.
    yield COLUMNS[1], surgery.recalibrate(bare, images.augmented, force=True)
    lines, _ = surgery.transform(model, surgery.erase(module=where, stand_in="affine"), example)
    if all(site.norm for site in sites):
        yield COLUMNS[2], lines
    yield COLUMNS[3], surgery.fit_affine(lines, images.fit)
    yield COLUMNS[4], surgery.recalibrate(lines, images.augmented, force=True)


def same(model: nn.Module, images: Images, options: argparse.Namespace) -> list[Row]:
    """Swap all ReLUs for learnable functions that are initialised as ReLU: how many predictions change?"""
    before, rows = logits(model, images.test), []
    right = (before.argmax(1) == images.test.labels).float().mean().item()
    for name in ("prelu", "frelu", "pwlu"):
        swapped, report = surgery.transform(model, surgery.swap(name), normalise(images.holdout.images[:250]))
        after = logits(swapped, images.test)
        changed = int((after.argmax(1) != before.argmax(1)).sum())
        share = (after.argmax(1) == images.test.labels).float().mean().item()
        note = f"{len(report.plan.edits)} swapped; {changed}; {float((after - before).abs().max()):.1e}"
        rows.append(Row("same", name, "swapped", "test", share, 100 * (right - share), None, note))
        print(f"{name}: {right:.2%} -> {share:.2%}, {note}", flush=True)
    return rows


def scan(model: nn.Module, sites: list[Site], images: Images, columns: tuple[str, ...] = COLUMNS) -> list[Row]:
    """One site at a time, on hold-out images."""
    before, rows = logits(model, images.holdout), []
    right = (before.argmax(1) == images.holdout.labels).float().mean().item()
    for site in sites:
        for column, edited in repaired(model, [site], images):
            if column in columns:
                after = logits(edited, images.holdout)
                share = (after.argmax(1) == images.holdout.labels).float().mean().item()
                kl = F.kl_div(after.log_softmax(1), before.log_softmax(1), log_target=True, reduction="batchmean")
                kind = "inner" if site.norm else "post-add"
                rows.append(
                    Row("scan", str(site.module), column, "hold-out", share, 100 * (right - share), float(kl), kind)
                )
        print(rows[-1].what, *(f"{row.lost:.2f}" for row in rows if row.what == rows[-1].what), flush=True)
    return rows


def recalibrated_alone(model: nn.Module, images: Images) -> Row:
    """The control: the unedited network with new statistics."""
    right = accuracy(model, images.holdout, prepare=normalise)
    again = surgery.recalibrate(copy.deepcopy(model), images.augmented, force=True)
    share = accuracy(again, images.holdout, prepare=normalise)
    return Row("scan", "untouched", "recalibration alone", "hold-out", share, 100 * (right - share))


def cumulative(model: nn.Module, sites: list[Site], scanned: list[Row], images: Images, counts: list[int]) -> list[Row]:
    """The k sites whose fitted line changes the predictions on hold-out images least, erased together."""
    kl = {row.what: row.kl or 0.0 for row in scanned if row.column == FITTED}
    rows = []
    parts = {"hold-out": images.holdout, "test": images.test}
    right = {name: accuracy(model, pictures, prepare=normalise) for name, pictures in parts.items()}
    for kind in ("all", "inner"):
        chosen = [site for site in sites if kind == "all" or site.norm]
        ordered = sorted(chosen, key=lambda site: kl[str(site.module)])
        for count in (count for count in counts if count <= len(ordered)):
            for column, edited in repaired(model, ordered[:count], images):
                for name, pictures in parts.items():
                    share = accuracy(edited, pictures, prepare=normalise)
                    lost = 100 * (right[name] - share)
                    rows.append(Row("cumulative", f"{count} of {len(ordered)} {kind}", column, name, share, lost))
                print(rows[-1].what, column, f"{rows[-2].accuracy:.2%} {rows[-1].accuracy:.2%}", flush=True)
    return rows


def finetuned(model: nn.Module, images: Images, options: argparse.Namespace) -> list[Row]:
    """Erase the last ReLU of every block and fine-tune: at once as identity or line, or by fading, on one budget."""
    right, rows, example = accuracy(model, images.test, prepare=normalise), [], images.fit[0][:2]
    rules: dict[str, Rule | None] = {
        FINETUNES[0]: None,
        FINETUNES[1]: surgery.erase_relu(share=options.share),
        FINETUNES[2]: surgery.erase_relu(share=options.share, stand_in="affine"),
        FINETUNES[3]: surgery.erase_relu(share=options.share, fade=(0.0, options.fade_until)),
        FINETUNES[4]: surgery.erase_relu(share=options.share, stand_in="affine", fade=(0.0, options.fade_until)),
    }
    for name, rule in rules.items():
        edited = surgery.transform(model, rule, example)[0] if rule else copy.deepcopy(model)
        if rule and rule.make == "affine":
            surgery.fit_affine(edited, images.fit)
        start = accuracy(edited, images.test, prepare=normalise)
        train(
            edited, images.train, options.epochs, lr=options.lr, batch_size=128, weight_decay=1e-4,
            augment=progressing(edited, options.epochs * (len(images.train) // 128)), prepare=normalise,
            seed=options.seed, after_epoch=lambda epoch, loss: print(f"  epoch {epoch}: loss {loss:.3f}", flush=True),
        )  # fmt: skip
        surgery.settle(edited)
        share = accuracy(edited, images.test, prepare=normalise)
        note = f"{start:.2%}; {len(surgery.find_sites(edited, example))}"
        rows.append(Row("fade", name, "fine-tuned", "test", share, 100 * (right - share), None, note))
        print(f"{name}: {start:.2%} before, {share:.2%} after", flush=True)
    return rows


def progressing(model: nn.Module, steps: int) -> Callable[[Tensor, torch.Generator], Tensor]:
    """The usual augmentation, called once per step, which also sets the progress of the model."""
    step = 0

    def augment(images: Tensor, generator: torch.Generator) -> Tensor:
        nonlocal step
        surgery.set_progress(model, step / steps, step=step)
        step += 1
        return crop_and_flip(images, generator)

    return augment


def tables(rows: list[Row], part: str) -> list[str]:
    """The Markdown of one part."""
    mine = [row for row in rows if row.part == part]
    if part == "same":
        head = ("all ReLUs become", "accuracy", "points lost", "calls swapped; predictions changed; largest change")
        return markdown_table(head, [(r.what, f"{r.accuracy:.2%}", f"{r.lost:.2f}", r.note) for r in mine])
    if part == "fade":
        head = ("network", "before; ReLU calls after", "fine-tuned", "points lost")
        return markdown_table(head, [(r.what, r.note, f"{r.accuracy:.2%}", f"{r.lost:.2f}") for r in mine])
    if part == "scan":
        lines = []
        for kind in ("inner", "post-add"):
            found = {column: [r.lost for r in mine if r.column == column and r.note == kind] for column in COLUMNS}
            cells = [f"{statistics.median(x):.2f} / {max(x):.2f}" if x else "-" for x in found.values()]
            lines.append((kind, str(len(found[COLUMNS[0]])), *cells))
        control = [f"{row.lost:.2f}" for row in mine if row.what == "untouched"]
        table = markdown_table(("site", "sites", *COLUMNS), lines)
        each = []
        for what in dict.fromkeys(row.what for row in mine if row.what != "untouched"):
            lost = {row.column: f"{row.lost:.2f}" for row in mine if row.what == what}
            each.append((what, *(lost.get(column, "-") for column in COLUMNS)))
        note = f"The untouched network, recalibrated alone: {', '.join(control)} points lost."
        return [*table, "", note, "", *markdown_table(("site", *COLUMNS), each)]
    lines = []
    for what, name in dict.fromkeys((row.what, row.images) for row in mine):
        share = {row.column: f"{row.accuracy:.1%}" for row in mine if (row.what, row.images) == (what, name)}
        lines.append((what, name, *(share.get(column, "-") for column in COLUMNS)))
    return markdown_table(("sites erased", "images", *COLUMNS), lines)


def write(rows: list[Row], part: str, options: argparse.Namespace, command: str) -> Path:
    """Write one part as Markdown and as CSV; return the path of the former."""
    tested = f"{options.test_images:,} random test images" if options.test_images else "the 10,000 test images"
    about = {
        "same": f"Accuracy on {tested} after all ReLUs are swapped, untrained; largest change of a logit.",
        "scan": "One ReLU erased at a time, points of accuracy lost on hold-out images, median / worst. Inner ReLUs\n"
        "stand between the convolutions of a block, behind a norm; post-add ones behind the sum, where no line is\n"
        "data-free.",
        "cumulative": "Several ReLUs erased together, accuracy. Order: KL divergence of the fitted line on hold-out\n"
        "images.",
        "fade": f"The last ReLU of {options.share:.0%} of the blocks erased, then {options.epochs} epochs on\n"
        f"{options.images or 16670:,} images, peak learning rate {options.lr:g}; fading ends at\n"
        f"{options.fade_until:.0%} of the steps; lines are fitted before; one run a row; accuracy on {tested}.",
    }
    text = [
        f"# ReLUs of a trained ResNet-{options.depth} (CIFAR-10) exchanged and erased: {part}",
        "",
        f"Fitted on {options.fit_images:,} images of `train-0.tar`; recalibrated on {options.recalibrate_images:,}",
        f"with augmentation. Hold-out: {options.holdout_images:,} images of `train-1.tar`, which the trained weights",
        "know, but no fit does; the order of sites comes from them. Test images decide nothing. Neither fit nor",
        "recalibration trains.",
    ]
    text += ["", about[part], "", *tables(rows, part)]
    text += ["", *conditions(command, options.seed, options.device), ""]
    return write_results(
        options.results,
        f"activations_pretrained_resnet{options.depth}_{part}",
        text,
        [row for row in rows if row.part == part],
    )


def study(options: argparse.Namespace) -> Iterator[tuple[str, list[Row]]]:
    """Measure the requested parts in turn, each from the same trained weights."""
    images = images_of(options)
    weights = shared_folder() / "weights" / f"cifar10_resnet{options.depth}.safetensors"
    model = build(f"cifar/resnet{options.depth}", pretrained=weights).to(options.device).eval()
    if not options.test_images:
        share = accuracy(model, images.test, prepare=normalise)
        assert abs(share - KNOWN[options.depth]) <= 0.0002, f"{share:.2%} is not {KNOWN[options.depth]:.2%}"
    sites = [site for site in surgery.find_sites(model, images.fit[0][:2]) if site.block is not None]
    sites = sites[:: options.every]
    if "same" in options.part:
        yield "same", same(model, images, options)
    if "scan" in options.part or "cumulative" in options.part:
        scanned = scan(model, sites, images, COLUMNS if "scan" in options.part else (FITTED,))
        if "scan" in options.part:
            yield "scan", [*scanned, recalibrated_alone(model, images)]
        if "cumulative" in options.part:
            yield "cumulative", cumulative(model, sites, scanned, images, options.counts)
    if "fade" in options.part:
        yield "fade", finetuned(model, images, options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, choices=sorted(KNOWN), default=20)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--counts", type=int, nargs="+", default=[3, 6, 9], help="how many sites together")
    parser.add_argument(
        "--every", type=int, default=1, help="only every so many-th site; inner and post-add ones take turns"
    )
    parser.add_argument("--fit-images", type=int, default=500)
    parser.add_argument("--recalibrate-images", type=int, default=1000)
    parser.add_argument("--holdout-images", type=int, default=1000)
    parser.add_argument("--test-images", type=int, help="measure on so many only (the known accuracy is not checked)")
    parser.add_argument("--images", type=int, help="fine-tune on so many only")
    parser.add_argument("--epochs", type=int, default=2, help="of the fine-tune")
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--share", type=float, default=1.0, help="of the blocks that lose their last ReLU before it")
    parser.add_argument("--fade-until", type=float, default=0.3, help="the share of the fine-tune at which fading ends")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", default=str(RESULTS), help="folder to write into")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    command = command_line(parser, options, "activations_pretrained")
    for part, rows in study(options):
        print(f"wrote {write(rows, part, options, command).name} and the .csv beside it", flush=True)


if __name__ == "__main__":
    main()
