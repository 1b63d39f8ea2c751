"""EfficientNet-Lite0, chosen and not trained."""

from __future__ import annotations

import argparse

import torch

import surgery
from benchmarks.budget.measuring import fastest, fastest_in_onnxruntime, folded, measured
from benchmarks.budget.report import Report, accuracy_table, edits_of, in_numbers, in_words
from benchmarks.imagenet_pretrained import KNOWN, NAME, halves, trained


def lite0(options: argparse.Namespace) -> Report:
    """EfficientNet-Lite0: chosen on pictures of odd rank, reported on those of even rank, without training."""
    model = trained().to(memory_format=torch.channels_last)
    odd, even = halves(model, options.images)
    chosen_on = [(images, labels) for images, labels in zip(odd.images.split(50), odd.labels.split(50), strict=True)]
    image = even.images[:1].contiguous(memory_format=torch.channels_last)
    front = surgery.choose(
        model, chosen_on, menu=options.menu, example=image, path=options.journal, worst=options.worst,
        points=options.points, screen=options.screen, runtime=options.runtime,
        progress=lambda line: print(line, flush=True),
    )  # fmt: skip
    print(front)
    networks = {"unedited, folded": (folded(model, image), "-")}
    for point in front.best[::-1][1:]:
        edited, _ = surgery.transform(model, list(point.rules), image)
        networks[f"{in_numbers(point.actions)}, {point.by}"] = (folded(edited, image), in_words(point.actions))
    alone = {name: network for name, (network, _) in networks.items()}
    timed = fastest_in_onnxruntime if options.runtime == "onnxruntime" else fastest
    times = timed(alone, image, options.turns)
    rows = measured(networks, even.images.split(50), even.labels, times, next(iter(networks)))
    if not options.images:
        assert round(rows[0].accuracy * len(even.labels)) == KNOWN, "a wrong model, or wrong data"
    about = (
        f"{NAME}, batch 1 at 224 pixels, {options.runtime}, one thread, batch norms folded everywhere; chosen on "
        f"{len(odd.labels)} pictures of odd rank: {len(front.candidates)} actions, each alone on "
        f"{options.screen} pictures, then together on all. Reported on {len(even.labels)} of even rank, without "
        "training. Lost are points of top-1 with the standard error of the paired difference. The pictures are "
        "probably among those the network was trained on."
    )
    return Report(about, rows, accuracy_table(rows), edits_of(rows))
