"""The time to analyse and edit a ResNet-50, and the time to run the edited network. From the root:

python -m benchmarks.surgery_speed
python -m benchmarks.surgery_speed --other PYTHON --other-name COMMIT    # beside another build, in turns

PYTHON is the interpreter of an environment in which the other build is installed.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torchvision.models import ResNet, resnet50
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names
from torchvision.models.resnet import Bottleneck

import surgery
from benchmarks.bootstrap import with_interval
from benchmarks.conditions import RESULTS, command_line, conditions, markdown_table

READ = {"layer1.0.relu_2": "first block", "fc": "logits"}  # what the feature extractor returns

# What is timed in two builds: processor seconds of a new process, which uses their public functions alone.
IN_TURNS = """
import json, time, torch, surgery
from torchvision.models import resnet50
torch.set_num_threads(1)
def seconds(call):
    started = time.process_time()
    call()
    return time.process_time() - started
first, second, third, fourth = (resnet50(weights=None) for _ in range(4))
print(json.dumps({
    "find_sites": seconds(lambda: surgery.find_sites(first)),
    "find_sites, again": seconds(lambda: surgery.find_sites(first)),
    "transform_(erase_relu())": seconds(lambda: surgery.transform_(first, surgery.erase_relu())),
    "the same, a second model": seconds(lambda: surgery.transform_(second, surgery.erase_relu())),
    "transform_(swap('prelu'))": seconds(lambda: surgery.transform_(third, surgery.swap("prelu"))),
    "the same, a second model ": seconds(lambda: surgery.transform_(fourth, surgery.swap("prelu"))),
}))
"""

Network = Callable[[Tensor], Tensor]

# The parts of a `transform_` that are timed; the rest is the edit itself.
PARTS = {
    "looking": ("find_sites",),
    "planning": ("make_plan",),
    "proving": ("only_these_changed", "prove_rewrites", "prove_effect", "check_outcome"),
}


class BottleneckWithoutLast(Bottleneck):  # type: ignore[misc]
    """torchvision's bottleneck, rewritten by hand without the ReLU after the sum."""

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        total: Tensor = self.bn3(self.conv3(out))
        total += shortcut
        return total


def edited_and_written() -> tuple[nn.Module, nn.Module, nn.Module]:
    """ResNet-50 without last ReLUs: edited by us, written by hand, and a copy of the latter; the same weights."""
    torch.manual_seed(0)
    model = resnet50(weights=None).eval()
    edited, report = surgery.transform(model, surgery.erase_relu())
    assert len(report.before) - len(report.after) == 16
    written, again = (ResNet(BottleneckWithoutLast, [3, 4, 6, 3]).eval() for _ in range(2))
    for network in (written, again):
        network.load_state_dict(model.state_dict())
    return edited, written, again


@contextlib.contextmanager
def stopwatch() -> Iterator[dict[str, float]]:
    """Seconds spent in each of the PARTS by the calls made inside."""
    verbs = surgery.transforms
    spent = dict.fromkeys(PARTS, 0.0)
    plain = {name: getattr(verbs, name) for names in PARTS.values() for name in names}

    def timed(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent[part] += time.perf_counter() - started

        return run

    try:
        for part, names in PARTS.items():
            for name in names:
                setattr(verbs, name, timed(part, plain[name]))
        yield spent
    finally:
        for name, function in plain.items():
            setattr(verbs, name, function)


def seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def worker() -> dict[str, float]:
    """Times of one new process: every proof is made once per process."""
    first, second, other = (resnet50(weights=None) for _ in range(3))
    times = {
        "look": seconds(lambda: surgery.find_sites(first)),
        "look again": seconds(lambda: surgery.find_sites(first)),
    }
    with stopwatch() as spent:
        whole = seconds(lambda: surgery.transform_(first, surgery.erase_relu()))
    times |= {"transform_": whole, **spent, "editing": whole - sum(spent.values())}
    times["second model"] = seconds(lambda: surgery.transform_(second, surgery.erase_relu()))
    times["symbolic_trace"] = seconds(lambda: fx.symbolic_trace(other))
    times["symbolic_trace, erase 16"] = seconds(lambda: erased_in_graph(other))
    times["get_graph_node_names"] = seconds(lambda: get_graph_node_names(other))
    times["create_feature_extractor"] = seconds(lambda: create_feature_extractor(other, READ))
    return times


def erased_in_graph(model: nn.Module) -> fx.GraphModule:
    """The same edit on the graph of the whole model: every ReLU that follows a sum is bypassed."""
    traced = fx.symbolic_trace(model)
    for node in list(traced.graph.nodes):
        if node.op == "call_module" and str(node.target).endswith(".relu") and "add" in node.args[0].name:
            node.replace_all_uses_with(node.args[0])
            traced.graph.erase_node(node)
    traced.recompile()
    return traced


def ratios(network: Network, other: Network, images: Tensor, pairs: int) -> list[float]:
    """Ratios of the times of `network` and `other`, run by run; the order alternates."""
    found = []
    with torch.inference_mode():
        for _ in range(3):
            network(images), other(images)
        for pair in range(pairs):
            if pair % 2:
                below, above = seconds(lambda: other(images)), seconds(lambda: network(images))
            else:
                above, below = seconds(lambda: network(images)), seconds(lambda: other(images))
            found.append(above / below)
    return found


def measure_times(processes: int) -> list[tuple[str, ...]]:
    """Rows of times, each the median over fresh processes, with the smallest and the largest."""
    runs = []
    for number in range(processes):
        command = [sys.executable, "-m", "benchmarks.surgery_speed", "--worker"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
        print(f"process {number + 1}: {runs[-1]}", flush=True)
    names = {
        "look": "`find_sites`, first call of a process (49 calls, both modes)",
        "look again": "`find_sites`, again",
        "transform_": "`transform_(model, erase_relu())`, whole, with its proof",
        "looking": "- looking, before and after",
        "planning": "- planning",
        "proving": "- proving",
        "editing": "- editing",
        "second model": "`transform_` of a second model of the same classes",
        "symbolic_trace": "`torch.fx.symbolic_trace` (one mode)",
        "symbolic_trace, erase 16": "the same, and 16 nodes bypassed by hand",
        "get_graph_node_names": "torchvision's `get_graph_node_names` (both modes)",
        "create_feature_extractor": "torchvision's `create_feature_extractor` (reads, cannot edit)",
    }
    rows: list[tuple[str, ...]] = []
    for key, name in names.items():
        values = [run[key] for run in runs]
        rows.append((name, f"{statistics.median(values):.3f}", f"{min(values):.3f} to {max(values):.3f}"))
    return rows


def measure_beside(other: str, processes: int) -> list[tuple[str, ...]]:
    """Rows of processor seconds of this build and another, their processes in turns, and the ratio of the medians."""
    runs: tuple[list[dict[str, float]], list[dict[str, float]]] = ([], [])
    for number in range(processes):
        for python, found in zip((sys.executable, other), runs, strict=True):
            folder = Path(__file__).parent.parent if python == sys.executable else Path(other).parent
            command = [python, "-c", IN_TURNS]
            done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder)
            found.append(json.loads(done.stdout.splitlines()[-1]))
        print(f"pair {number + 1}: {runs[0][-1]} {runs[1][-1]}", flush=True)
    rows: list[tuple[str, ...]] = []
    for name in runs[0][0]:
        now, before = (statistics.median(run[name] for run in found) for found in runs)
        rows.append((name.strip(), f"{now:.3f}", f"{before:.3f}", f"{now / before:.2f}"))
    return rows


def measure_ratios(images: Tensor, pairs: int) -> list[tuple[str, ...]]:
    """Rows of ratios of forward times against the hand-written network."""
    edited, written, again = edited_and_written()
    graph = erased_in_graph(resnet50(weights=None).eval())
    graph.load_state_dict(written.state_dict())
    with torch.inference_mode():
        for network in (edited, again, graph):
            assert torch.equal(network(images), written(images)), "not the same network"
    rows: list[tuple[str, ...]] = []
    for name, network in (
        ("edited", edited),
        ("graph of the whole model, edited", graph),
        ("control: its own copy", again),
    ):
        rows.append((f"{name}, eager", with_interval(ratios(network, written, images, pairs))))
        print(rows[-1], flush=True)
    ours, by_hand, copied = (torch.compile(network, fullgraph=True) for network in (edited, written, again))
    for name, fast in (("edited", ours), ("control: its own copy", copied)):
        rows.append((f"{name}, compiled", with_interval(ratios(fast, by_hand, images, pairs))))
        print(rows[-1], flush=True)
    return rows


def can_do() -> list[tuple[str, ...]]:
    """Rows with what each of the three ways returns, found by trying them."""
    model = resnet50(weights=None)
    edited, _ = surgery.transform(model, surgery.erase_relu())
    sites = surgery.find_sites(model)
    graph = erased_in_graph(model)
    relus = sum(
        node.op == "call_module" and "relu" in str(node.target) for node in fx.symbolic_trace(model).graph.nodes
    )
    names = [name for name in get_graph_node_names(model)[1] if "relu" in name]
    reader = create_feature_extractor(model, READ)

    def row(name: str, calls: int, result: nn.Module, erases: str) -> tuple[str, ...]:
        # fx names its class after that of the model: it prints as ResNet, but is not a ResNet.
        kept = "yes" if isinstance(result, ResNet) else "no, a GraphModule"
        weights = "yes" if list(result.state_dict()) == list(model.state_dict()) else "no"
        return name, str(calls), kept, weights, erases

    return [
        row("surgery", len(sites), edited, "yes, by rule; proved, undone, saved"),
        row("symbolic_trace", relus, graph, "yes, by hand; one mode; no proof, no undo"),
        row("create_feature_extractor", len(names), reader, "no"),
    ]


def in_turns(rows: list[tuple[str, ...]], name: str) -> list[str]:
    """The table of two builds; nothing without rows."""
    if not rows:
        return []
    return [
        f"Processor seconds beside {name}, the medians of new processes that ran in turns, each through all rows.",
        "",
        *markdown_table(("what", "now", name, "ratio"), rows),
        "",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=5, help="fresh processes for the times (default: 5)")
    parser.add_argument("--pairs", type=int, default=40, help="alternating pairs of forwards (default: 40)")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--pixels", type=int, default=224)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", default=str(RESULTS), help="folder to write into")
    parser.add_argument("--other", help="the interpreter of an environment with another build")
    parser.add_argument("--other-name", default="another build", help="how the table calls it")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.worker:
        print(json.dumps(worker()))
        return
    beside = measure_beside(options.other, options.processes) if options.other else []
    times = measure_times(options.processes)
    torch.manual_seed(0)
    images = torch.rand(options.batch_size, 3, options.pixels, options.pixels)
    against = measure_ratios(images, options.pairs)
    options.other = options.other and "PYTHON"  # the table contains no local path
    command = command_line(parser, options, "surgery_speed")
    text = [
        "# Speed of surgery on torchvision's ResNet-50",
        "",
        f"Seconds, the median and the range over {options.processes} fresh processes.",
        "",
        *markdown_table(("what", "median", "range"), times),
        "",
        f"Forward time over that of a ResNet-50 written by hand without those 16 ReLUs: the median of {options.pairs}",
        "alternating runs and its 95 % bootstrap interval. Outputs are bit-equal. Eval mode, no gradient, batch",
        f"{options.batch_size} at {options.pixels} pixels.",
        "",
        *markdown_table(("network", "ratio"), against),
        "",
        *markdown_table(("way", "ReLU calls found", "class kept", "weight names kept", "erases one call"), can_do()),
        "",
        *in_turns(beside, options.other_name),
        *conditions(command, seed=0),
        "",
    ]
    folder = Path(options.results)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "surgery_speed.md").write_text("\n".join(text), encoding="utf-8")
    print("\n".join(text))


if __name__ == "__main__":
    main()
