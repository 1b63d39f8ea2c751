#!/usr/bin/env bash
# apache-tvm 0.27.0.post1 (torch 2.15.0), compiled for llvm: a SELU is 1.0507 times an ELU with alpha 1.6733. From an
# exported program Relax computes the ELU alone, silently: SELU(3) is 3.0 instead of 3.1521.
# Seen: `SELU(3): torch 3.1521, tvm 3.0000; SELU(-3): torch -1.6706, tvm -1.5900`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 apache-tvm==0.27.0.post1 numpy==2.4.6
cd "$folder"
venv/bin/python -W ignore - <<'PY' 2>/dev/null
import torch
import tvm
from torch import nn
from tvm import relax
from tvm.relax.frontend.torch import from_exported_program

selu, x = nn.SELU(), torch.tensor([[3.0, -3.0]])
graph = from_exported_program(torch.export.export(selu, (x,)))
machine = relax.VirtualMachine(tvm.compile(graph, tvm.target.Target("llvm")), tvm.cpu())
(right, left), wanted = machine["main"](tvm.runtime.tensor(x.numpy()))[0].numpy()[0], selu(x)[0].tolist()
print(f"SELU(3): torch {wanted[0]:.4f}, tvm {right:.4f}; SELU(-3): torch {wanted[1]:.4f}, tvm {left:.4f}")
scale = 1.0507009873554805
assert abs(right * scale - wanted[0]) < 1e-5 and abs(left * scale - wanted[1]) < 1e-5, "changed"
PY
