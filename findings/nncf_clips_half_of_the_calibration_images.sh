#!/usr/bin/env bash
# nncf 3.4.0 (openvino 2026.4.1), CPU: quantize() takes the mean of the extremes of the calibration images as the range
# of an activation, not their extremes. With two images, one ten times as bright as the other, the bright one is clipped
# at 5.5 of 10, although it was calibrated on: so with real images, all that are above the average lose their peaks.
# Seen: `brightest output: 10 and 1 in float, 5.47 and 0.992 in int8`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet nncf==3.4.0 openvino==2026.4.1 packaging
cd "$folder"
venv/bin/python -W ignore - <<'PY' 2>/dev/null | grep brightest
import nncf
import numpy as np
import openvino
from openvino import opset13 as ops

one = np.ones((1, 1, 1, 1), np.float32)


def convolved(node):
    return ops.convolution(node, ops.constant(one), [1, 1], [0, 0], [0, 0], [1, 1])


entry = ops.parameter([1, 1, 8, 8], np.float32)
network = openvino.Model([convolved(ops.relu(convolved(entry)))], [entry])
images = [scale * np.ones((1, 1, 8, 8), np.float32) for scale in (10, 1)]


def brightest(model):
    compiled = openvino.Core().compile_model(model, "CPU")
    return [float(compiled([image])[0].max()) for image in images]


plain = brightest(network)
quantised = brightest(nncf.quantize(network, nncf.Dataset(images)))
print(f"brightest output: {plain[0]:.3g} and {plain[1]:.3g} in float, {quantised[0]:.3g} and {quantised[1]:.3g} in int8")
assert plain == [10, 1] and 5 < quantised[0] < 6 and quantised[1] > 0.9, "changed"
PY
