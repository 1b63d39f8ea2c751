#!/usr/bin/env bash
# pnnx 20261020, ncnn 1.0.20261020 (torch 2.15.0): a parameter (8, 1, 1) that multiplies the input of the network is
# reshaped as if it were a batch. `x * sigmoid(beta * x)` on (1, 8, 4, 4) is exported and run without an error, and
# returns (8, 8, 4, 1). Behind a convolution, even a 1 x 1 one, the same module is right.
# Seen: `torch: (8, 4, 4), on the input: (8, 8, 4, 1), behind a convolution: (8, 4, 4)`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 pnnx==20261020 ncnn==1.0.20261020 numpy==2.4.6
cd "$folder"
PATH="$folder/venv/bin:$PATH" venv/bin/python -W ignore - <<'PY' 2>/dev/null | tail -n 1 | tee seen
import ncnn
import pnnx
import torch
from torch import nn


class Swish(nn.Module):
    def __init__(self, first):
        super().__init__()
        self.first = first
        self.beta = nn.Parameter(torch.linspace(0.5, 2.0, 8).view(8, 1, 1))

    def forward(self, x):
        x = self.first(x)
        return x * torch.sigmoid(self.beta * x)


def shape_of(first):
    x = torch.rand(1, 8, 4, 4)
    pnnx.export(Swish(first).eval(), "net.pt", (x,), fp16=False)
    net = ncnn.Net()
    assert net.load_param("net.ncnn.param") == 0 and net.load_model("net.ncnn.bin") == 0
    extractor = net.create_extractor()
    extractor.input("in0", ncnn.Mat(x[0].numpy()))
    return extractor.extract("out0")[1].numpy().shape


wanted = tuple(Swish(nn.Identity())(torch.rand(1, 8, 4, 4)).shape[1:])
alone, behind = shape_of(nn.Identity()), shape_of(nn.Conv2d(8, 8, 1))
print(f"torch: {wanted}, on the input: {alone}, behind a convolution: {behind}")
PY
grep -qx 'torch: (8, 4, 4), on the input: (8, 8, 4, 1), behind a convolution: (8, 4, 4)' seen ||
    { echo "changed: see above"; exit 1; }
