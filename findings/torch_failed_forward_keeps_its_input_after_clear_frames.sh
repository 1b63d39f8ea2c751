#!/usr/bin/env bash
# torch 2.15.0, Python 3.11: `traceback.clear_frames` is how one lets go of the tensors of a forward that failed (out of
# memory, say) while keeping its error. It does not, if a module on the way has a hook: torch then calls forward through
# a closure over the arguments, and Python's `frame.clear()` leaves the closure of a frame's function alone. The input
# stays allocated for as long as the error does.
# Seen: `input kept without hooks: False, with a hook: True, once the error is gone: False`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 numpy==2.4.6
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import gc
import traceback
import weakref

import torch
from torch import nn


class Fails(nn.Module):
    def forward(self, x):
        raise ValueError("as an operation out of memory would")


def kept(hooked):
    network, x = nn.Sequential(nn.Identity(), Fails()), torch.ones(3)
    if hooked:
        network.register_forward_hook(lambda *_: None)
    held = weakref.ref(x)
    try:
        network(x)
    except ValueError as raised:
        error = raised
    del x
    traceback.clear_frames(error.__traceback__)
    gc.collect()
    before = held() is not None
    del error
    gc.collect()
    return before, held() is not None


(plain, _), (hooked, afterwards) = kept(False), kept(True)
print(f"input kept without hooks: {plain}, with a hook: {hooked}, once the error is gone: {afterwards}")
assert (plain, hooked, afterwards) == (False, True, False), "changed: clear_frames lets go of the input"
PY
