#!/usr/bin/env bash
# accelerate 1.15.0 (torch 2.15.0): what `Accelerator.prepare` makes of an optimiser is an instance of torch's Optimizer
# and has `register_step_post_hook`, but the call raises, as do the five others of its kind: the wrapper never runs the
# initialiser of its base class. Hooks on the optimiser inside it (`.optimizer`) fire when the wrapper steps.
# Seen: `Optimizer: True, method: True, refused: 6 of 6 with AttributeError, fired inside: 1`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 accelerate==1.15.0 numpy==2.4.6
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import torch
from accelerate import Accelerator
from torch import nn

REGISTER = (
    "register_step_pre_hook",
    "register_step_post_hook",
    "register_state_dict_pre_hook",
    "register_state_dict_post_hook",
    "register_load_state_dict_pre_hook",
    "register_load_state_dict_post_hook",
)

weight = nn.Parameter(torch.ones(2))
optimizer = Accelerator(cpu=True).prepare(torch.optim.SGD([weight], lr=0.1))
kind, method = isinstance(optimizer, torch.optim.Optimizer), hasattr(optimizer, "register_step_post_hook")

refused = 0
for name in REGISTER:
    try:
        getattr(optimizer, name)(lambda *_: None)
    except AttributeError:
        refused += 1

steps = []
optimizer.optimizer.register_step_post_hook(lambda *_: steps.append("step"))
weight.sum().backward()
optimizer.step()

print(
    f"Optimizer: {kind}, method: {method}, refused: {refused} of {len(REGISTER)} with AttributeError, "
    f"fired inside: {len(steps)}"
)
assert kind and method and refused == len(REGISTER) and len(steps) == 1, "changed: the wrapper takes hooks now"
PY
