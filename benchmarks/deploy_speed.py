"""What an activation costs in ONNX Runtime, in float32 and in int8, over the same network with ReLU. From the root:

python -m benchmarks.deploy_speed --network resnet18
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn

import surgery
from benchmarks.conditions import RESULTS, command_line, conditions, markdown_table, paragraph, write_results
from surgery.deploy.network import Network, network_of
from surgery.deploy.runtimes.onnxruntime import FILE, OPSET, TARGET, quantize
from surgery.deploy.written import written

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": torchvision.models.resnet18,
    "mobilenet_v2": torchvision.models.mobilenet_v2,
    "vit_tiny": lambda: timm.create_model("vit_tiny_patch16_224"),
}
SWAPS: dict[str, tuple[str, dict[str, Any]]] = {
    "prelu": ("prelu", {}),
    "frelu": ("frelu", {}),
    "silu": ("silu", {}),
    "swish": ("swish", {}),
    "gelu": ("gelu", {}),
    "hardswish": ("hardswish", {}),
    "smelu": ("smelu", {}),
    "pwlu, 2 intervals": ("pwlu", {"intervals": 2}),
    "pwlu, 4 intervals": ("pwlu", {"intervals": 4}),
    "pwlu, 16 intervals": ("pwlu", {}),
    "npwlu, 4 intervals": ("npwlu", {}),
}
BY_HAND = "nn.PReLU by hand"


@dataclass(frozen=True)
class Row:
    """One network, with one function in place of its activations."""

    network: str
    function: str
    fp32_ms: float
    fp32_ratio: float
    int8_ms: float
    int8_ratio: float
    nodes: int
    kilobytes: int


def with_function(make: Callable[[], nn.Module], function: str, image: Tensor) -> nn.Module:
    """The network with this function everywhere, its parameters off their start, as after a training."""
    torch.manual_seed(0)
    model = make().eval()
    edited, _ = surgery.transform(model, surgery.swap("relu"), image)
    if function == BY_HAND:
        edited, _ = surgery.transform(model, surgery.swap("prelu"), image)
        edited = surgery.plain(edited)
    elif function != "relu":
        name, params = SWAPS[function]
        edited, _ = surgery.transform(edited, surgery.swap(name, **params), image)
    kinds = (nn.PReLU, surgery.activations.Swish, surgery.activations.FReLU, surgery.activations.SmeLU,
             surgery.activations.PWLU, surgery.activations.NPWLU)  # fmt: skip
    with torch.no_grad():
        for module in edited.modules():
            if isinstance(module, kinds):
                for param in module.parameters():
                    param.add_(0.1 * torch.rand_like(param))
    return edited.eval()


def write_by_hand(network: Network, folder: Path) -> None:
    """Write model.onnx as torch does by itself: with nn.PReLU as PRelu."""
    program = torch.onnx.export(network.program, dynamo=True, opset_version=OPSET, verbose=False)
    assert program is not None
    program.save(folder / FILE)


def session(file: Path) -> Callable[[Any], Any]:
    """A session on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    made = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    name = made.get_inputs()[0].name
    return lambda image: made.run(None, {name: image})


def fastest(runs: dict[str, Callable[[Any], Any]], image: Tensor, turns: int) -> dict[str, float]:
    """Milliseconds of processor time, the minimum over so many turns, in each of which every session runs once."""
    found = dict.fromkeys(runs, float("inf"))
    array = image.numpy()
    for _ in range(turns):
        for name, run in runs.items():
            started = time.thread_time()
            run(array)
            found[name] = min(found[name], 1e3 * (time.thread_time() - started))
    return found


def measured(network: str, functions: list[str], pixels: int, turns: int) -> list[Row]:
    """Rows for these functions; the first is ReLU."""
    torch.manual_seed(0)
    image = torch.randn(1, 3, pixels, pixels)
    plain: dict[str, Callable[[Any], Any]] = {}
    small: dict[str, Callable[[Any], Any]] = {}
    sizes = {}
    with TemporaryDirectory() as scratch:
        for number, function in enumerate(functions):
            made = network_of(with_function(NETWORKS[network], function, image), image)
            target = replace(TARGET, write=write_by_hand) if function == BY_HAND else TARGET
            with written(made, target, Path(scratch, str(number))) as files:
                files.keep()
            folder = Path(scratch, str(number))
            weight = sum(file.stat().st_size for file in folder.glob("model*")) // 1024
            sizes[function] = (len(TARGET.operators(folder)), weight)
            plain[function] = session(folder / FILE)
            quantize(made, folder, [[torch.randn(1, 3, pixels, pixels)] for _ in range(4)])
            small[function] = session(folder / FILE)
            print(f"{network}, {function}: {sizes[function]}", flush=True)
        times = fastest(plain | {f"{name} int8": run for name, run in small.items()}, image, turns)
    base, base_int8 = times[functions[0]], times[f"{functions[0]} int8"]
    return [
        Row(
            network, name, round(times[name], 2), round(times[name] / base, 3), round(times[f"{name} int8"], 2),
            round(times[f"{name} int8"] / base_int8, 3), *sizes[name],
        )
        for name in functions
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--functions", nargs="+", choices=[BY_HAND, *SWAPS], default=[BY_HAND, *SWAPS])
    parser.add_argument("--pixels", type=int, default=224)
    parser.add_argument("--turns", type=int, default=25)
    parser.add_argument("--results", default=str(RESULTS), help="folder to write into")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [
        row
        for network in options.network
        for row in measured(network, ["relu", *options.functions], options.pixels, options.turns)
    ]
    text = [
        "# Speed of exported activations in ONNX Runtime",
        "",
        paragraph(
            f"Milliseconds of processor time on one thread, batch 1 at {options.pixels} pixels, the minimum over "
            f"{options.turns} turns in which every network runs once; ratios are to the same network with ReLU. Int8: "
            "unsigned activations, weights per channel, calibrated on random images. Parameters are off their start."
        ),
        "",
        *markdown_table(
            ("network", "function", "fp32 ms", "ratio", "int8 ms", "ratio", "nodes", "KB"),
            [
                (row.network, row.function, f"{row.fp32_ms:.1f}", f"{row.fp32_ratio:.2f}", f"{row.int8_ms:.1f}",
                 f"{row.int8_ratio:.2f}", str(row.nodes), str(row.kilobytes))
                for row in rows
            ],
        ),
        "",
        *conditions(command_line(parser, options, "deploy_speed"), seed=0),
        "",
    ]  # fmt: skip
    print(write_results(options.results, "deploy_speed", text, rows))
    print("\n".join(text))


if __name__ == "__main__":
    main()
