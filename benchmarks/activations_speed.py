r"""The time of every activation relative to nn.ReLU, forward and backward, in each of its forms. From the root:

OMP_NUM_THREADS=2 python -m benchmarks.activations_speed      # where nothing else runs; otherwise:
OMP_WAIT_POLICY=passive OMP_NUM_THREADS=2 python -m benchmarks.activations_speed --processor-time
GLIBC_TUNABLES=glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=4294967295 OMP_NUM_THREADS=1 \
    python -m benchmarks.activations_speed --slow-rounds 0 --name activations_speed_one_thread
python -m benchmarks.activations_speed --device cuda --name activations_speed_cuda
"""

import argparse
import contextlib
import csv
import gc
import math
import os
import shlex
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.conditions import RESULTS, conditions, markdown_table
from benchmarks.memory import bytes_kept
from benchmarks.published_pwlu import BOUND, INTERVALS, PublishedByChannel, PublishedByLayer
from surgery.activations import dispatch as forms
from surgery.activations.functions.affine import Affine
from surgery.activations.functions.helu import HeLU
from surgery.activations.functions.npwlu import NPWLU
from surgery.activations.functions.prelu import FReLU, PReLU
from surgery.activations.functions.pwlu import PWLU
from surgery.activations.functions.smelu import GSmeLU, SmeLU
from surgery.activations.functions.swish import Swish

APART = 1.25  # a round counts only if the times of the ReLUs before and after it differ by at most this factor,
BUSY = 2  # and exceed the fastest by at most this factor
LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
REPEATS = {"cpu": 1, "cuda": 20}  # of a step, timed together

# The most that the default form should cost relative to nn.ReLU at this shape, by where it runs and in which type. On
# the CPU that depends on whether the memory of a large tensor comes fresh from the system or is used again.
SHAPE = [64, 64, 56, 56]
_GPU = {"PReLU": 1.1, "FReLU": 1.1, "SmeLU": 1.1, "HeLU": 1.1, "Swish": 1.2, "PWLU": 1.2}
_LINES = ("PReLU", "FReLU", "Affine")
TARGETS: dict[tuple[str, str], dict[str, float]] = {
    ("fresh", "float32"): {"PReLU": 1.2, "FReLU": 1.2, "SmeLU": 1.2, "HeLU": 1.1, "Swish": 1.4, "PWLU": 2.3},
    ("reused", "float32"): dict.fromkeys(_LINES, 1.15) | {"SmeLU": 1.1, "Swish": 1.15, "PWLU": 1.9, "NPWLU": 1.9},
    ("reused", "bfloat16"): dict.fromkeys(_LINES, 1.1) | {"SmeLU": 1.1, "Swish": 1.4, "PWLU": 2.5, "NPWLU": 2.5},
    ("cuda", "float32"): _GPU,
    ("cuda", "bfloat16"): {**_GPU, "PWLU": 1.5},
    ("cuda", "float16"): {**_GPU, "PWLU": 1.5},
}


COLUMNS = (
    "function", "whose", "form", "layout", "dtype", "ms", "relu_ms", "ratio", "ratio_low", "ratio_high", "rounds",
    "target", "bytes_kept_per_element", "gb_per_s",
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """What a row measures: an activation in one form ("" if it has only one)."""

    name: str
    form: str
    module: nn.Module
    whose: str = "ours"

    @property
    def slow(self) -> bool:
        return self.form in ("formula", "closed") or self.whose == "published formula"

    @contextlib.contextmanager
    def chosen(self) -> Iterator[None]:
        """Inside, this form is used."""
        with forms.only(self.form) if self.form else contextlib.nullcontext():
            yield


@dataclass(frozen=True)
class Row:
    """The measurements of an entry."""

    entry: Entry
    layout: str
    dtype: str
    kept: float  # bytes per element
    milliseconds: float
    relu: float
    ratio: float
    low: float
    high: float
    rounds: int
    target: float | None
    bandwidth: float  # GB/s


def entries(channels: int, device: str) -> list[Entry]:
    """All functions in all forms that are available on the device."""
    found = [
        Entry(f"nn.{type(module).__name__}", "", module, "torch's")
        for module in (nn.ReLU(), nn.LeakyReLU(), nn.PReLU(channels), nn.SiLU(), nn.GELU(), nn.Hardswish())
    ]
    ours: dict[str, tuple[str, nn.Module]] = {
        "PReLU": ("prelu", PReLU(channels)), "FReLU": ("frelu", FReLU(channels)), "SmeLU": ("smelu", SmeLU(channels)),
        "GSmeLU": ("gsmelu", GSmeLU(channels)), "Swish": ("swish", Swish(channels)),
        "PWLU": ("pwlu", PWLU(channels, INTERVALS, BOUND)), "NPWLU": ("npwlu", NPWLU(channels)),
        "Affine": ("affine", Affine(channels)),
    }  # fmt: skip
    found.append(Entry("HeLU", "", HeLU()))
    for form in ("fused", "closed", "formula"):
        for name, (function, module) in ours.items():
            if form != "fused" or forms.kernel_of(function, device):
                found.append(Entry(name, form, module))
    found.append(Entry("PWLU by layer, three masks", "", PublishedByLayer(), "published formula"))
    found.append(Entry("PWLU by channel, flat index", "", PublishedByChannel(channels), "published formula"))
    return found


def clock(options: argparse.Namespace) -> Callable[[], float]:
    """A clock in milliseconds that waits for all pending work on the device.

    One thread is timed by the processor time it takes, which others on the machine disturb less, and several on demand.
    """
    device = options.device
    if by_processor_time(options):
        return lambda: time.process_time() * 1e3

    def now() -> float:
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter() * 1e3

    return now


def by_processor_time(options: argparse.Namespace) -> bool:
    """Whether times are those that all threads were busy, added up."""
    return not options.device.startswith("cuda") and (torch.get_num_threads() == 1 or options.processor_time)


def step(module: nn.Module, x: Tensor, grad: Tensor, now: Callable[[], float], repeats: int) -> float:
    """Milliseconds of one forward and backward pass, parameters included."""
    for tensor in (x, *module.parameters()):
        tensor.grad = None
    started = now()
    for _ in range(repeats):
        module(x).backward(grad)
        for tensor in (x, *module.parameters()):
            tensor.grad = None
    return (now() - started) / repeats


def bandwidth_of_copy(x: Tensor, now: Callable[[], float]) -> float:
    """GB/s of a copy within the device, reading and writing counted."""
    other, times = torch.empty_like(x), []
    for _ in range(20):
        started = now()
        for _ in range(10):
            other.copy_(x.detach())
        times.append((now() - started) / 10)
    return 2 * x.nbytes / statistics.median(times) / 1e6


def measure(entry: Entry, x: Tensor, grad: Tensor, fastest: float, options: argparse.Namespace) -> dict[str, float]:
    """Time the entry between two ReLUs in every round; rounds in which the machine was busy otherwise are dropped."""
    relu, now, repeats = nn.ReLU(), clock(options), REPEATS[options.device.partition(":")[0]]
    wanted = options.slow_rounds if entry.slow else options.rounds
    times, relus, ratios = [], [], []
    with entry.chosen():
        kept = bytes_kept(entry.module, x) / x.numel()
        for _ in range(1 if entry.slow else 3):
            step(entry.module, x, grad, now, 1), step(relu, x, grad, now, repeats)
        before = step(relu, x, grad, now, repeats)
        for _ in range((3 if entry.slow else 9) * wanted):
            spent = step(entry.module, x, grad, now, repeats)
            after = step(relu, x, grad, now, repeats)
            if max(before, after) <= min(APART * min(before, after), BUSY * fastest):
                times.append(spent)
                relus.append((before + after) / 2)
                ratios.append(spent / relus[-1])
            before = after
            if len(ratios) == wanted:
                break
    middle = [statistics.median(values or [math.nan]) for values in (times, relus, ratios)]
    return dict(zip(("milliseconds", "relu", "ratio"), middle, strict=True)) | {
        "kept": kept, "rounds": len(ratios), "low": min(ratios, default=math.nan), "high": max(ratios, default=math.nan)
    }  # fmt: skip


def target_of(entry: Entry, dtype: str, where: str) -> float | None:
    """The most that the entry should cost relative to ReLU; None without a target."""
    if entry.whose != "ours" or entry.form not in ("", "fused"):
        return None
    return TARGETS.get((where, dtype), {}).get(entry.name)


def memory(device: str) -> str:
    """Which targets apply: to memory that is "fresh" or "reused", or to "cuda"."""
    if device.startswith("cuda"):
        return "cuda"
    return "fresh" if allocator(device).startswith("the default") else "reused"


def measure_all(options: argparse.Namespace) -> tuple[list[Row], dict[str, float]]:
    """All requested rows, and the bandwidth of a copy per dtype."""
    rows, copies = [], {}
    for dtype in options.dtypes:
        for layout in options.layouts:
            torch.manual_seed(0)
            x, grad = (
                torch.randn(options.shape).to(options.device, DTYPES[dtype]).to(memory_format=LAYOUTS[layout])
                for _ in range(2)
            )
            x.requires_grad_()
            now, kind = clock(options), options.device.partition(":")[0]
            fastest = min(step(nn.ReLU(), x, grad, now, REPEATS[kind]) for _ in range(30))
            copies[dtype] = max(copies.get(dtype, 0.0), bandwidth_of_copy(x, now))
            for entry in entries(options.shape[1], kind):
                if entry.slow and not options.slow_rounds:
                    continue
                entry.module.to(options.device, DTYPES[dtype] if entry.whose == "torch's" else None)
                found = measure(entry, x, grad, fastest, options)
                moved = 5 * x.nbytes / found["milliseconds"] / 1e6
                target = target_of(entry, dtype, memory(kind)) if options.shape == SHAPE else None
                rows.append(Row(entry, layout, dtype, target=target, bandwidth=moved, **found))  # type: ignore[arg-type]
                print("  ".join(cells(rows[-1], copies)), flush=True)
                gc.collect()
    return rows, copies


def cells(row: Row, copies: dict[str, float]) -> tuple[str, ...]:
    """A row of the table."""
    met = "" if row.target is None else f"{row.target:g}"
    if met and row.rounds:
        met += ", met" if row.ratio <= row.target else ", missed"
    measured = (
        (f"{row.milliseconds:.2f}", f"{row.relu:.2f}", f"**{row.ratio:.2f}**", f"{row.low:.2f} to {row.high:.2f}")
        if row.rounds
        else ("too noisy", "", "", "")
    )
    text = (row.entry.name, row.entry.form or "-", row.layout, row.dtype, *measured, str(row.rounds), met)
    moved = (f"{row.bandwidth:.1f}", f"{row.bandwidth / copies[row.dtype]:.0%}") if row.rounds else ("", "")
    return (*text, f"{row.kept:.1f}", *moved)


def allocator(device: str) -> str:
    """Where the memory of a new tensor comes from, which matters more than the kernel on the CPU."""
    if device.startswith("cuda"):
        return "torch's caching allocator"
    for name in ("LD_PRELOAD", "GLIBC_TUNABLES"):
        if os.environ.get(name):
            value = os.environ[name] if name == "GLIBC_TUNABLES" else "another allocator"
            return f"not the default, `{name}`: {value}"
    return "the default one: a large tensor comes fresh from the system, so page faults are part of all times"


def write(rows: list[Row], copies: dict[str, float], command: str, options: argparse.Namespace) -> None:
    """Write the table as Markdown and as CSV."""
    head = (
        "function", "form", "layout", "dtype", "ms", "ReLU ms", "ratio", "range", "rounds", "target", "kept, B",
        "GB/s", "of a copy",
    )  # fmt: skip
    copied = [f"A copy within the device, {dtype}: {speed:.0f} GB/s." for dtype, speed in copies.items()]
    copied.append("GB/s count what must be moved: x, y, x again, both gradients.")
    if by_processor_time(options):
        threads = torch.get_num_threads()
        copied.append(
            "One thread; times are those of the processor."
            if threads == 1
            else f"{threads} threads; times are those of the processor, added up: they do not fall with more threads."
        )
    text = [
        f"# Speed of activations on {options.device.partition(':')[0].upper()}",
        "",
        f"Forward and backward pass at {tuple(options.shape)}, parameters per channel and learned. The ratio is to",
        "nn.ReLU, run just before and just after; medians. A round whose two ReLUs are more than",
        f"{APART - 1:.0%} apart, or over {BUSY} times as slow as the fastest one of the layout and type, is dropped.",
        "Forms: fused is a kernel, closed a gradient in closed form, formula plain autograd. Kept is what the forward",
        "pass keeps for the backward pass, per element. The published PWLU is its formula, written anew in plain",
        "operations, in the two ways that public code has it.",
        "",
        f"Allocator: {allocator(options.device)}.",
        *copied,
    ]  # fmt: skip
    for whose in ("ours", "torch's", "published formula"):
        mine = [cells(row, copies) for row in rows if row.entry.whose == whose]
        if mine:
            text += ["", f"## {whose.capitalize()}", "", *markdown_table(head, mine)]
    text += ["", *conditions(command, seed=0, device=options.device), ""]
    folder = Path(options.results)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{options.name}.md").write_text("\n".join(text), encoding="utf-8")
    with (folder / f"{options.name}.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in rows:
            writer.writerow(
                (row.entry.name, row.entry.whose, row.entry.form, row.layout, row.dtype,
                 *(f"{value:.4f}" for value in (row.milliseconds, row.relu, row.ratio, row.low, row.high)), row.rounds,
                 row.target or "", f"{row.kept:.3f}", f"{row.bandwidth:.1f}")
            )  # fmt: skip
    print("\n".join(text))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shape", type=int, nargs=4, default=SHAPE, metavar=("N", "C", "H", "W"))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["float32", "bfloat16"])
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument("--rounds", type=int, default=9, help="rounds that count, per row (default: 9)")
    parser.add_argument(
        "--slow-rounds", type=int, default=3, help="for rows without a kernel; 0 leaves them out (default: 3)"
    )
    parser.add_argument(
        "--processor-time", action="store_true", help="time threads by how long they are busy; see OMP_WAIT_POLICY"
    )
    parser.add_argument("--results", default=str(RESULTS), help="folder to write into")
    parser.add_argument("--name", default="activations_speed", help="of the two files")
    options = parser.parse_args()
    given: list[str] = []
    for key, value in vars(options).items():
        if key != "results" and value != parser.get_default(key):
            given.append(f"--{key.replace('_', '-')}")
            given += [] if value is True else map(str, value) if isinstance(value, list) else [str(value)]
    tunables = os.environ.get("GLIBC_TUNABLES")
    waiting = os.environ.get("OMP_WAIT_POLICY")
    threads = f"OMP_WAIT_POLICY={waiting} " if waiting else ""
    threads += f"OMP_NUM_THREADS={torch.get_num_threads()} " if not options.device.startswith("cuda") else ""
    command = (f"GLIBC_TUNABLES={tunables} " if tunables else "") + threads
    command += shlex.join(["python", "-m", "benchmarks.activations_speed", *given])
    rows, copies = measure_all(options)
    write(rows, copies, command, options)


if __name__ == "__main__":
    main()
