#!/usr/bin/env bash
# onnxruntime 1.32.0, onnx 1.23.2, onnxscript 0.7.2 (torch 2.15.0), CPU: hard swish was made for quantised networks, and
# SiLU is said not to suit them. Statically quantised (QDQ, QUInt8 activations, weights per channel) it is the other way
# round: between two convolutions SiLU stays in integers (QLinearSigmoid, QLinearMul), while the pre-processing splits
# HardSwish into a HardSigmoid, which has no integer kernel, and a product: the tensor is dequantised and quantised.
# Seen: `SiLU: QLinearSigmoid QLinearMul; Hardswish: DequantizeLinear HardSigmoid QuantizeLinear QLinearMul`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
venv/bin/python -W ignore - <<'PY' 2>/dev/null
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import nn


class Reader(CalibrationDataReader):
    def __init__(self):
        self.images = iter([{"x": torch.randn(1, 8, 8, 8).numpy()} for _ in range(4)])

    def get_next(self):
        return next(self.images, None)


def between_convolutions(activation):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(8, 8, 1), activation, nn.Conv2d(8, 8, 1)).eval()
    x = torch.randn(1, 8, 8, 8)
    torch.onnx.export(network, (x,), "net.onnx", dynamo=True, verbose=False, input_names=["x"], opset_version=20)
    quant_pre_process("net.onnx", "net.onnx", skip_symbolic_shape=True)
    quantize_static(
        "net.onnx", "int8.onnx", Reader(), quant_format=QuantFormat.QDQ, activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8, per_channel=True,
    )
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = "fused.onnx", 3
    onnxruntime.InferenceSession("int8.onnx", options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load("fused.onnx").graph.node]
    first, last = (places := [k for k, kind in enumerate(kinds) if kind == "QLinearConv"])[0], places[-1]
    return " ".join(kinds[first + 1 : last])


silu, hardswish = between_convolutions(nn.SiLU()), between_convolutions(nn.Hardswish())
print(f"SiLU: {silu}; Hardswish: {hardswish}")
assert silu == "QLinearSigmoid QLinearMul", "changed"
assert hardswish == "DequantizeLinear HardSigmoid QuantizeLinear QLinearMul", "changed"
PY
