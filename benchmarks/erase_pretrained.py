"""Erase the last ReLUs of trained CIFAR-10 ResNets: accuracy before, after, and after a short fine-tune.

Needs the folder that SURGERY_DATA names. From the root of the repository:

    SURGERY_DATA=FOLDER python -m benchmarks.erase_pretrained --depth 20
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

import surgery
from benchmarks.conditions import RESULTS, command_line, conditions, markdown_table, write_results
from benchmarks.plain_loop import accuracy, train
from recipes.data import Pictures, cifar10, crop_and_flip, normalise, shared_folder
from recipes.models.build import build

# The accuracy of the shared weights on test.tar; any other result means a wrong model or wrong data.
KNOWN = {20: 0.9173, 32: 0.9263, 44: 0.9310, 56: 0.9339}
SHARES = (0.0, 0.25, 0.5, 1.0)


@dataclass(frozen=True)
class Row:
    """One network: the fraction of its blocks without their last ReLU, and its test accuracies, in [0, 1]."""

    share: float
    erased_count: int
    kept_count: int
    before: float
    erased: float
    finetuned: float
    seconds: float


def measure(
    share: float, model: nn.Module, before: float, shard: Pictures, test: Pictures, options: argparse.Namespace
) -> Row:
    """Erase, measure, fine-tune, measure. `share` 0 is the control: the unedited network, fine-tuned alike."""
    started = time.perf_counter()
    example = normalise(test.images[:2])
    edited = model
    if share:
        edited, report = surgery.transform(model, surgery.erase_relu(share=share), example=example)
        print(report, flush=True)
    calls_before, calls_after = (len(surgery.find_sites(network, example)) for network in (model, edited))
    erased = accuracy(edited, test, prepare=normalise) if share else before
    print(f"share {share:g}: {erased:.2%} before the fine-tune", flush=True)
    train(
        edited,
        shard,
        options.epochs,
        lr=options.lr,
        batch_size=options.batch_size,
        weight_decay=1e-4,
        augment=crop_and_flip,
        prepare=normalise,
        seed=options.seed,
        after_epoch=lambda epoch, loss: print(f"  epoch {epoch}: loss {loss:.3f}", flush=True),
    )
    finetuned = accuracy(edited, test, prepare=normalise)
    print(f"share {share:g}: {finetuned:.2%} after it", flush=True)
    seconds = time.perf_counter() - started
    return Row(share, calls_before - calls_after, calls_after, before, erased, finetuned, seconds)


def study(options: argparse.Namespace) -> list[Row]:
    """All fractions for one network, each from the same trained weights."""
    data = cifar10(shards=(options.shard,)).to(options.device)
    assert data.train is not None and data.test is not None
    # The test images are sorted by class: the first ones are all airplanes.
    shard, test = data.train.first(options.images or len(data.train)), data.test.shuffled()
    test = test.first(options.test_images or len(test))
    weights = shared_folder() / "weights" / f"cifar10_resnet{options.depth}.safetensors"
    rows = []
    for share in options.shares:
        model = build(f"cifar/resnet{options.depth}", pretrained=weights).to(options.device).eval()
        before = accuracy(model, test, prepare=normalise)
        print(f"ResNet-{options.depth}: {before:.2%}", flush=True)
        if not options.test_images:
            assert abs(before - KNOWN[options.depth]) <= 0.0002, f"{before:.2%} is not {KNOWN[options.depth]:.2%}"
        rows.append(measure(share, model, before, shard, test, options))
    return rows


def write(rows: list[Row], options: argparse.Namespace, command: str) -> Path:
    """Write the table as Markdown and as CSV; return the path of the former."""
    head = ("blocks without last ReLU", "ReLU calls erased", "left", "trained", "erased", "fine-tuned", "minutes")
    cells = [
        (
            f"{row.share:.0%}" if row.share else "none (control)",
            str(row.erased_count),
            str(row.kept_count),
            f"{row.before:.2%}",
            f"{row.erased:.2%}",
            f"{row.finetuned:.2%}",
            f"{row.seconds / 60:.1f}",
        )
        for row in rows
    ]
    images = f"{options.images:,} random images" if options.images else "all images"
    tested = f"{options.test_images:,} random test images" if options.test_images else "the 10,000 test images"
    text = [
        f"# Erasing the last ReLUs of a trained ResNet-{options.depth} (CIFAR-10)",
        "",
        f"Accuracy on {tested}. Fine-tune: {options.epochs} epochs on {images} of `{options.shard}.tar` (padded crop,",
        f"mirror), SGD with Nesterov momentum 0.9, peak learning rate {options.lr:g} (warm-up over a tenth, cosine),",
        f"batch {options.batch_size}, weight decay 1e-4; one run a row.",
        "",
        *markdown_table(head, cells),
        "",
        *conditions(command, options.seed, options.device),
        "",
    ]
    return write_results(options.results, f"erase_pretrained_resnet{options.depth}", text, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, choices=sorted(KNOWN), default=20)
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, help="0 is the untouched control")
    parser.add_argument("--epochs", type=int, default=2, help="of the fine-tune (default: 2)")
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--shard", default="train-0")
    parser.add_argument("--images", type=int, help="fine-tune on so many only")
    parser.add_argument("--test-images", type=int, help="measure on so many only (the known accuracy is not checked)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", default=str(RESULTS), help="folder to write into")
    options = parser.parse_args()
    options.shares = tuple(options.shares)
    torch.manual_seed(options.seed)
    rows = study(options)
    write(rows, options, command_line(parser, options, "erase_pretrained"))
    print(f"wrote erase_pretrained_resnet{options.depth}.md and .csv")


if __name__ == "__main__":
    main()
