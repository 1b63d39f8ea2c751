#!/usr/bin/env bash
# torch 2.15.0: `@torch.compiler.disable`, which keeps a function out of compiled code, imports the compiler when the
# function is defined, also in programs that compile nothing: 900 modules, which takes as long as `import torch`. So do
# `allow_in_graph`, `assume_constant_result` and `substitute_in_graph`; `nested_compile_region` imports nothing. A library
# with one such decorator at the top of a file doubles its users' start-up.
# Seen: `disable: 908 modules more, torch._dynamo imported` and `nested_compile_region: 0 modules more`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 numpy
cd "$folder"
for name in disable allow_in_graph assume_constant_result nested_compile_region; do
    NAME=$name venv/bin/python -W ignore - <<'PY'
import os
import sys

import torch

name, before = os.environ["NAME"], set(sys.modules)
assert "torch._dynamo" not in before, "changed"
getattr(torch.compiler, name)(lambda x: x)
more, imported = len(set(sys.modules) - before), "torch._dynamo" in sys.modules
print(f"{name}: {more} modules more" + (", torch._dynamo imported" if imported else ""))
assert (more > 500 and imported) if name != "nested_compile_region" else more == 0, "changed"
PY
done
