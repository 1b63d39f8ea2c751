#!/usr/bin/env bash
# torch 2.11.0: `torch.compiler.is_exporting()` is True in a function that `torch.compile` compiles, where nothing is
# exported; eagerly it is False there. Code that chooses plain operators for exporters chooses them for every compiled
# model too, silently. `torch.compiler._is_exporting_flag`, which that function returns, is False in compiled code, and
# True in what `torch.export.export` traces, strictly or not. torch 2.15.0 returns False in compiled code.
# Seen: `2.11.0: eager False, compiled True, flag False, exported True and True`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.11.0 numpy
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import torch


def asks(x):
    return x + torch.compiler.is_exporting()


def reads(x):
    return x + torch.compiler._is_exporting_flag


class Reads(torch.nn.Module):
    def forward(self, x):
        return reads(x)


zero = torch.zeros(1)
eager, compiled, flag = (
    bool(function(zero)) for function in (asks, *(torch.compile(f, fullgraph=True, backend="eager") for f in (asks, reads)))
)
exported = [bool(torch.export.export(Reads(), (zero,), strict=strict).module()(zero)) for strict in (True, False)]
version = torch.__version__.partition("+")[0]
print(f"{version}: eager {eager}, compiled {compiled}, flag {flag}, exported {exported[0]} and {exported[1]}")
assert (eager, compiled, flag, *exported) == (False, True, False, True, True), "changed"
PY
