#!/usr/bin/env bash
# safetensors 0.8.0 (torch 2.15.0): `load_model` refuses a file that its own `save_model` wrote, if a batch norm of the
# model has two names, and by then it has overwritten the weights of the model it was given. The file keeps one name of
# each shared tensor and not the version of the layer, so torch takes the layer for an old one and fills in the counter
# under its second name by itself; safetensors, which expects that name to be missing, calls it unexpected. A good
# engineer expects a strict load to change nothing when it raises, and a file to load where it came from.
# Seen: `RuntimeError: ... Unexpected key(s) in state_dict: "stem.num_batches_tracked"`, and the weights are the file's.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 safetensors==0.8.0 numpy==2.4.6 packaging==26.4
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import torch
from safetensors.torch import load_model, save_model
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.stem = self.backbone[1]  # the same layer under a second name


saved, fresh = Net(), Net()
save_model(saved, "model.safetensors")
assert not torch.equal(saved.backbone[0].weight, fresh.backbone[0].weight)
try:
    load_model(fresh, "model.safetensors")
except RuntimeError as error:
    said = " ".join(str(error).split())
else:
    raise SystemExit("changed: the file loads now")
assert 'Unexpected key(s) in state_dict: "stem.num_batches_tracked"' in said, said
overwritten = torch.equal(saved.backbone[0].weight, fresh.backbone[0].weight)
print(said, "| weights overwritten:", overwritten)
assert overwritten, "changed: a refused load leaves the weights alone now"
PY
