#!/usr/bin/env bash
# transformers 5.24.0 (torch 2.15.0): one forward pass with `output_hidden_states=True` makes a model unfit for pickle,
# and so for `torch.save(model)`. The pass leaves hooks on the layers, for good, that are functions within a function.
# A plain pass leaves none; `copy.deepcopy` still works, and the copy captures as the original does.
# Seen: `pickles before: True, after a plain pass: True, after a capture: False (Can't pickle local object
# 'install_output_capuring_hook.<locals>.output_capturing_hook')`, and 4 hidden states from a copy.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 transformers==5.24.0 numpy==2.4.6
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import copy
import pickle

import torch
from transformers import ViTConfig, ViTModel

SMALL = dict(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32, image_size=32)


def refusal(model):
    try:
        pickle.dumps(model)
    except (AttributeError, pickle.PicklingError) as error:  # which of the two depends on the version of Python
        return str(error)
    return ""


images = torch.randn(1, 3, 32, 32)
model = ViTModel(ViTConfig(**SMALL)).eval()
with torch.no_grad():
    fresh = refusal(model)
    model(images)
    plain = refusal(model)
    model(images, output_hidden_states=True)
    captured = refusal(model)
    states = len(copy.deepcopy(model)(images, output_hidden_states=True).hidden_states)

print(f"pickles before: {not fresh}, after a plain pass: {not plain}, after a capture: {not captured} ({captured})")
print("hidden states from a copy:", states)
assert not fresh and not plain, (fresh, plain)
assert "output_capturing_hook" in captured, "changed: a model that has captured can be pickled now"
assert states == 4, states
PY
