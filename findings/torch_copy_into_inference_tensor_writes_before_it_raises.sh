#!/usr/bin/env bash
# torch 2.15.0: an in-place `copy_` into a tensor that was made in inference mode raises outside of it, but only after
# the values have been written. Code that rolls back what failed must not take the error for "nothing happened".
# Seen: `Inplace update to inference tensor outside InferenceMode is not allowed...`, and [1.0, 1.0, 1.0].
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 numpy==2.4.6
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import torch

with torch.inference_mode():
    tensor = torch.zeros(3)
try:
    tensor.copy_(torch.ones(3))
except RuntimeError as error:
    said = str(error).splitlines()[0]
else:
    raise SystemExit("changed: the copy is allowed now")
print(said[:90], "|", tensor.tolist())
assert "inference tensor" in said, said
assert tensor.tolist() == [1.0, 1.0, 1.0], "changed: a refused copy writes nothing now"
PY
