#!/usr/bin/env bash
# transformers 5.24.0 (torch 2.15.0): a layer that is replaced after the first `output_hidden_states=True` is missing
# from `hidden_states` from then on, without a word: the tuple is one shorter, and later indices mean other layers. The
# first such call hangs hooks on the layers and notes on the model that they hang; the new layer gets none. The same
# replacement before the first such call loses nothing, and the result of the model is right either way.
# Seen: `replaced before: 4 hidden states, after: 3, index 2 holds what index 3 should: True`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 transformers==5.24.0 numpy==2.4.6
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import copy

import torch
from transformers import ViTConfig, ViTModel

SMALL = dict(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32, image_size=32)


def replace_second_layer(model):
    old = model.layers[1]
    new = type(old)(model.config).eval()
    new.load_state_dict(old.state_dict())
    model.layers[1] = new


torch.manual_seed(0)
images = torch.randn(1, 3, 32, 32)
model = ViTModel(ViTConfig(**SMALL)).eval()
early = copy.deepcopy(model)
with torch.no_grad():
    replace_second_layer(early)
    before = early(images, output_hidden_states=True)
    model(images, output_hidden_states=True)
    replace_second_layer(model)
    after = model(images, output_hidden_states=True)

counts = len(before.hidden_states), len(after.hidden_states)
shifted = torch.equal(after.hidden_states[2], before.hidden_states[3])
print(f"replaced before: {counts[0]} hidden states, after: {counts[1]}, index 2 holds what index 3 should: {shifted}")
assert torch.equal(before.last_hidden_state, after.last_hidden_state)
assert counts == (4, 3) and shifted, "changed: the replaced layer is captured now"
PY
