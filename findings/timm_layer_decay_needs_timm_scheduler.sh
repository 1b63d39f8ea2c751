#!/usr/bin/env bash
# timm 1.0.31 (torch 2.15.0): `create_optimizer_v2(model, ..., layer_decay=0.5)` returns an optimiser that trains every
# layer at the same rate. It writes the factor of a layer into its group as `lr_scale`, which neither torch's optimisers
# nor its schedulers read; only making one of timm's own schedulers lowers the rates. The docstring says that learning
# rates will be scaled, and shows the optimiser alone.
# Seen: rates [0.1] alone and with torch's scheduler, [0.0125, 0.025, 0.05, 0.1] once timm's is made.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 torchvision==0.29.2 timm==1.0.31 numpy==2.4.6
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import timm
import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler

model = timm.create_model("vit_tiny_patch16_224", depth=2, img_size=32)


def optimizer():
    return create_optimizer_v2(model, "sgd", lr=0.1, layer_decay=0.5)


def rates(made):
    return sorted({group["lr"] for group in made.param_groups})


alone, with_torch, with_timm = optimizer(), optimizer(), optimizer()
torch.optim.lr_scheduler.CosineAnnealingLR(with_torch, 10)
CosineLRScheduler(with_timm, 10)
scales = sorted({group["lr_scale"] for group in alone.param_groups})
print("scales", scales, "| alone", rates(alone), "| torch's", rates(with_torch), "| timm's", rates(with_timm))
assert scales == [0.125, 0.25, 0.5, 1.0], "changed: the groups carry other factors"
assert rates(alone) == rates(with_torch) == [0.1], "changed: the rates are scaled without timm's scheduler now"
assert rates(with_timm) == [0.1 * scale for scale in scales], "changed: timm's scheduler scales otherwise"
PY
