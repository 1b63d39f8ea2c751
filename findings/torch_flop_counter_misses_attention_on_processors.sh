#!/usr/bin/env bash
# torch 2.11.0: `torch.utils.flop_counter.FlopCounterMode` counts nothing for `scaled_dot_product_attention` on a
# processor, where it runs as an operator of its own that the counter does not know. A vision transformer seems cheaper
# than it is, without a warning, and cheaper than on a GPU. Inside `sdpa_kernel(SDPBackend.MATH)` the two matrix products
# are counted. torch 2.15.0 counts them either way.
# Seen: `2.11.0: 0, and 36992 by SDPBackend.MATH` and `2.15.0: 36992, and 36992 by SDPBackend.MATH`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
for version in 2.11.0 2.15.0; do
    python3 -m venv --clear venv
    venv/bin/pip install --quiet "torch==$version" numpy
    venv/bin/python -W ignore - <<'PY'
from contextlib import nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

query = torch.randn(1, 2, 17, 16)  # images, heads, tokens, width
products = 2 * (2 * 2 * 17 * 17 * 16)
found = []
for backend in (nullcontext(), sdpa_kernel(SDPBackend.MATH)):
    counter = FlopCounterMode(display=False)
    with counter, backend:
        torch.nn.functional.scaled_dot_product_attention(query, query, query)
    found.append(counter.get_total_flops())
version = torch.__version__.partition("+")[0]
print(f"{version}: {found[0]}, and {found[1]} by SDPBackend.MATH")
assert found == [0 if version == "2.11.0" else products, products], "changed"
PY
done
