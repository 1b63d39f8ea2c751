#!/usr/bin/env bash
# openvino 2026.4.1 (torch 2.15.0), CPU: convert_model takes a TorchScript trace and an exported program. From a trace a
# Softplus loses its beta, silently: Softplus(beta=2) is computed as Softplus(), 0.35 off at zero, where its value is
# 0.35. From torch.export it is right, if packaging is installed, which OpenVINO imports and does not require.
# Seen: `at 0: torch 0.3466, traced 0.6931, exported 0.3466`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 openvino==2026.4.1 numpy==2.4.6 packaging==26.4
cd "$folder"
venv/bin/python -W ignore - <<'PY' 2>/dev/null
import openvino
import torch
from torch import nn

softplus, x = nn.Softplus(beta=2), torch.zeros(1, 4)


def computed(model):
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return float(compiled([x.numpy()])[0][0, 0])


wanted = float(softplus(x)[0, 0])
traced = computed(openvino.convert_model(torch.jit.trace(softplus, x), example_input=x))
exported = computed(openvino.convert_model(torch.export.export(softplus, (x,))))
print(f"at 0: torch {wanted:.4f}, traced {traced:.4f}, exported {exported:.4f}")
assert abs(exported - wanted) < 1e-5 and abs(traced - 2 * wanted) < 1e-5, "changed"
PY
