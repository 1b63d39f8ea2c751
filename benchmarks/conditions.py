"""The conditions of a measurement: command, date, versions, processor, seed; nothing else about the machine."""

import argparse
import csv
import datetime
import os
import shlex
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from surgery.cost.conditions import processor as processor

_FOLDERS = ("results", "runs", "journal")
RESULTS = Path(__file__).resolve().parent / "results"


def command_line(parser: argparse.ArgumentParser, options: argparse.Namespace, benchmark: str) -> str:
    """The command that was given, without its folders: tables do not contain local paths."""
    words = ["python", "-m", f"benchmarks.{benchmark}"]
    for name, value in vars(options).items():
        if name not in _FOLDERS and value != parser.get_default(name):
            words.append(f"--{name.replace('_', '-')}")
            words += [] if value is True else map(str, value if isinstance(value, list | tuple) else [value])
    return shlex.join(words)


def conditions(command: str, seed: int, device: str = "cpu") -> list[str]:
    """Lines of Markdown to put under a table."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "timm"))
    python = ".".join(map(str, sys.version_info[:3]))
    threads = torch.get_num_threads()
    return [
        f"- command: `{command}`",
        f"- date: {today}; seed: {seed}",
        f"- versions: Python {python}, {versions}",
        f"- processor: {processor()}, {threads} thread{'s' if threads > 1 else ''}"
        + (f"; device: {torch.cuda.get_device_name(device)}" if device.startswith("cuda") else ""),
    ]


def memory_in_words() -> str:
    """What the allocator of this process gives to large tensors, which decides on how long page faults take."""
    reused = "mmap_max=0" in os.environ.get("GLIBC_TUNABLES", "")
    return "memory that is used again" if reused else "memory fresh from the system"


def write_results(folder: str | Path, name: str, text: Sequence[str], rows: Sequence[Any]) -> Path:
    """Write lines as NAME.md and rows, objects of one dataclass, as NAME.csv; return the path of the former."""
    file = Path(folder) / f"{name}.md"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(text), encoding="utf-8")
    with file.with_suffix(".csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        heads = [field.name for field in fields(rows[0])]
        writer.writerow(heads)
        writer.writerows([getattr(row, head) for head in heads] for row in rows)
    return file


def device_name(device: str = "cpu") -> str:
    """The model name of the processor or the GPU that is used."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else processor()


def paragraph(text: str) -> str:
    """Prose in lines of a readable length."""
    return textwrap.fill(text, 118, break_long_words=False, break_on_hyphens=False)


def markdown_table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Lines of a Markdown table; the first column is text, the others are figures."""
    rule = ("---", *("---:" for _ in head[1:]))
    return ["| " + " | ".join(cells) + " |" for cells in (head, rule, *rows)]
