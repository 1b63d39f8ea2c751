#!/usr/bin/env bash
# torchvision 0.29.2 (torch 2.15.0): `copy.deepcopy` of what `create_feature_extractor` returns is in train mode as a
# whole, whatever mode the original is in, and so computes something else where there are batch norms or dropout. Batch
# norms that were frozen in eval mode for fine-tuning thaw in the copy too. Copies of other modules keep their mode.
# Seen: `eval model: copy trains True, equal outputs False | frozen norms: original 0, copy 20 of 20 in train mode`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 torchvision==0.29.2 numpy==2.4.6
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import copy

import torch
import torchvision
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor


def norms_in_train_mode(module):
    norms = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
    return sum(norm.training for norm in norms), len(norms)


torch.manual_seed(0)
model = create_feature_extractor(torchvision.models.resnet18(), ["layer4"]).eval()
made = copy.deepcopy(model)
images = torch.randn(2, 3, 64, 64)
with torch.no_grad():
    equal = torch.equal(model(images)["layer4"], made(images)["layer4"])

for layer in model.train().modules():
    if isinstance(layer, nn.BatchNorm2d):
        layer.eval()
(frozen, total), (thawed, _) = norms_in_train_mode(model), norms_in_train_mode(copy.deepcopy(model))

found = f"eval model: copy trains {made.training}, equal outputs {equal}"
found += f" | frozen norms: original {frozen}, copy {thawed} of {total} in train mode"
print(found)
assert made.training and not equal and frozen == 0 and thawed == total, "changed: the copy keeps its mode now"
PY
