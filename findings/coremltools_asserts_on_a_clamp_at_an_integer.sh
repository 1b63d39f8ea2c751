#!/usr/bin/env bash
# coremltools 9.0 (torch 2.15.0): a traced network with `x.clamp_min(0)` is not converted; `x.clamp_min(0.0)` is. The
# error is an AssertionError without any text, so nothing points to the zero. torch treats both alike.
# Seen: `clamp_min(0.0): converted, clamp_min(0): AssertionError with 0 characters`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 coremltools==9.0 numpy==2.4.6
cd "$folder"
venv/bin/python -W ignore - <<'PY' 2>/dev/null
import coremltools
import torch
from torch import nn


class Clamp(nn.Module):
    def __init__(self, least):
        super().__init__()
        self.least = least

    def forward(self, x):
        return x.clamp_min(self.least)


def outcome(least):
    x = torch.rand(1, 3, 4, 4)
    traced = torch.jit.trace(Clamp(least), x)
    try:
        coremltools.convert(traced, inputs=[coremltools.TensorType(shape=x.shape)], convert_to="mlprogram")
    except Exception as error:
        return f"{type(error).__name__} with {len(str(error))} characters"
    return "converted"


floating, integer = outcome(0.0), outcome(0)
print(f"clamp_min(0.0): {floating}, clamp_min(0): {integer}")
assert (floating, integer) == ("converted", "AssertionError with 0 characters"), "changed"
PY
