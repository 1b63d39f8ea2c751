#!/usr/bin/env bash
# schedulefree 1.4.1 (torch 2.15.0): `ScheduleFreeWrapper`, said to wrap any optimiser, fails in its first step round
# torch's AdamW. The wrapper keeps its own copy of each weight in the state of the optimiser inside; AdamW takes that
# for a state it has begun, and looks for its moments in it. Round SGD it runs.
# Seen: `KeyError: 'exp_avg'` for AdamW, one step for SGD.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 schedulefree==1.4.1 numpy==2.4.6
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import schedulefree
import torch
from torch import nn


def first_step(kind):
    weight = nn.Parameter(torch.ones(2))
    optimizer = schedulefree.ScheduleFreeWrapper(kind([weight], lr=0.1), momentum=0.9)
    optimizer.train()
    weight.sum().backward()
    try:
        optimizer.step()
    except KeyError as error:
        return f"KeyError: {error}"
    return "a step"


found = {kind.__name__: first_step(kind) for kind in (torch.optim.SGD, torch.optim.AdamW)}
print(found)
assert found == {"SGD": "a step", "AdamW": "KeyError: 'exp_avg'"}, "changed"
PY
