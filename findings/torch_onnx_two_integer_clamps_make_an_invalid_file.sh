#!/usr/bin/env bash
# torch 2.15.0, onnxscript 0.7.2, onnx 1.23.2: `torch.onnx.export(dynamo=True)` of two clamps of one tensor between
# integers returns normally and writes a file that onnx's checker refuses: the bounds of one Clip are named but nowhere
# defined. The same clamps between floats give a valid file. A sum of clamps is how piecewise linear functions are
# exported, so `x.clamp(0, 1)` is not `x.clamp(0.0, 1.0)` there.
# Seen: `floats: valid; integers: ValidationError, undefined inputs of Clip: 2`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 onnx==1.23.2 onnxscript==0.7.2 numpy==2.4.6
cd "$folder"
venv/bin/python -W ignore - <<'PY' 2>/dev/null
import onnx
import torch
from torch import nn


class Steps(nn.Module):
    def __init__(self, start):
        super().__init__()
        self.start = start

    def forward(self, x):
        return x.clamp(self.start, self.start + 1) + 2 * x.clamp(self.start + 1, self.start + 2)


def written(start):
    torch.onnx.export(Steps(start), (torch.rand(2, 3),), "steps.onnx", dynamo=True, verbose=False)
    graph = onnx.load("steps.onnx").graph
    known = {value.name for value in (*graph.input, *graph.initializer)} | {n for node in graph.node for n in node.output}
    undefined = [name for node in graph.node if node.op_type == "Clip" for name in node.input if name not in known]
    try:
        onnx.checker.check_model("steps.onnx")
    except onnx.checker.ValidationError as error:
        return type(error).__name__, undefined
    return "valid", undefined


floats, _ = written(0.0)
integers, undefined = written(0)
print(f"floats: {floats}; integers: {integers}, undefined inputs of Clip: {len(undefined)}")
assert (floats, integers, len(undefined)) == ("valid", "ValidationError", 2), "changed: the file is valid now"
PY
