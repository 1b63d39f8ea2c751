"""DepthShrinker's six structures, merged."""

from __future__ import annotations

import argparse
import copy
import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

import surgery
from benchmarks.budget.measuring import fastest, folded
from benchmarks.budget.report import Report, Row, in_words
from benchmarks.conditions import markdown_table
from recipes.models.build import build

# DepthShrinker's merged blocks, from its published configurations: 1 is the first depthwise-separable block.
STRUCTURES = {
    "A": (2, 3, 6, 8, 10, 13), "B": (2, 3, 6, 7, 8, 9, 10, 13), "C": (2, 3, 5, 6, 7, 8, 9, 10, 13),
    "D": (2, 3, 6, 7, 8, 9, 10, 11, 12, 13), "E": (2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13), "F": tuple(range(2, 18)),
}  # fmt: skip  # fmt: skip
WANTED = {"A": 2.4, "B": 2.5, "C": 2.6, "D": 2.6, "E": 2.6, "F": 3.2}
_BLOCKS = ("DepthwiseSeparableConv", "InvertedResidual")


def structures(options: argparse.Namespace) -> Report:
    """DepthShrinker's six structures on MobileNetV2 1.4: whole inverted residuals merged into 3 x 3 convolutions."""
    torch.manual_seed(options.seed)
    images = torch.randn(options.batch_size, 3, 224, 224)
    image = images[:2]
    base = realistic(build("timm/mobilenetv2_140").eval(), options.seed)
    networks = {"unedited": folded(base, image)}
    errors = {"unedited": 0.0}
    for name, merged in STRUCTURES.items():
        linear = with_linear_blocks(base, merged, image)
        network, report = surgery.merge(linear, example=image)
        networks[name] = network.to(memory_format=torch.channels_last)
        errors[name] = report.error
        print(name, report.macs, report.error, flush=True)
    times = fastest(networks, images, options.turns)
    rows = [
        Row(name, in_words(STRUCTURES.get(name, ())), times[name], times["unedited"] / times[name], math.nan, math.nan,
            errors[name], math.nan)
        for name in networks
    ]  # fmt: skip
    about = (
        f"MobileNetV2 1.4 of timm, random weights, batch {options.batch_size} at 224 pixels, channels_last, one "
        "thread, batch norms folded everywhere. Merged blocks end in a ReLU6, as in DepthShrinker. The error is the "
        "largest difference of the merged network's outputs from those of the linear one over the largest output."
    )
    head = ("structure", "merged blocks", "ms", "speed-up", "wanted", "error")
    cells = [
        (row.network, row.edits, f"{row.milliseconds:.1f}", f"{row.speedup:.2f}", f"{WANTED.get(row.network, 1):.1f}",
         f"{row.error:.1e}")
        for row in rows
    ]  # fmt: skip
    return Report(about, rows, markdown_table(head, cells))


def realistic(model: nn.Module, seed: int) -> nn.Module:
    """The network with norms that are neither the identity nor alike, as in trained ones."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value, low, high in ((module.weight, 0.5, 1.5), (module.bias, -0.2, 0.2),
                                     (module.running_mean, -0.2, 0.2), (module.running_var, 0.5, 1.5)):  # fmt: skip
                assert value is not None
                with torch.no_grad():
                    value.copy_(torch.empty(value.shape).uniform_(low, high, generator=generator))
    return model


def with_linear_blocks(model: nn.Module, merged: Sequence[int], image: Tensor) -> nn.Module:
    """The network with these blocks linear and padded at their first convolution, and a ReLU6 behind each."""
    rectified = copy.deepcopy(model)
    paths = [path for path, module in model.named_modules() if type(module).__name__ in _BLOCKS]
    chosen = [paths[number - 1] for number in merged]
    for path in chosen:
        parent, _, name = path.rpartition(".")
        stage = rectified.get_submodule(parent)
        assert isinstance(stage, nn.Sequential)
        stage[int(name)] = nn.Sequential(OrderedDict(block=stage[int(name)], act=nn.ReLU6()))
    inside = [f"{path}.block" for path in chosen]
    rules = [surgery.erase(site=tuple(f"{path}.*" for path in inside)), surgery.move_padding(block=tuple(inside))]
    edited, _ = surgery.transform(rectified, rules, image)
    return edited
