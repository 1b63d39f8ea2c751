"""The Triton kernels without a GPU: interpreted, compiled ahead of time, and traced as operators of torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._functorch.aot_autograd import aot_export_module
from torch._subclasses.fake_tensor import FakeTensorMode

triton = pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from surgery.activations.dispatch import value_of  # noqa: E402
from surgery.activations.kernels import triton_kernels as kernels  # noqa: E402

NAMES = ("frelu", "prelu", "pwlu", "smelu", "swish", "affine")
TYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
MEMORY = {"planes": ((64, 64, 56, 56), torch.contiguous_format), "rows": ((64, 64, 56, 56), torch.channels_last)}


def parameters(name: str, channels: int, intervals: int = 16) -> list[Tensor]:
    some = [torch.rand(channels) + 0.5 for _ in range(4)]
    if name == "pwlu":
        return [torch.randn(intervals + 1, channels), -some[0], *some[1:]]
    return some[: 2 if name in ("frelu", "affine") else 1]


def test_names() -> None:
    assert set(NAMES) == set(kernels.KERNELS) == set(kernels.FUNCTIONS)


# Interpreted.


@pytest.fixture(scope="module")
def interpreted() -> dict[str, float]:
    """The error of each case against its closed form, in units of the tolerance."""
    program = Path(__file__).with_name("interpreted.py")
    # The variable acts when a kernel is decorated, hence the process of its own.
    done = subprocess.run(
        [sys.executable, str(program)], env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(line) for line in done.stdout.splitlines())


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_interpreted_kernels_compute_the_closed_form(name: str, interpreted: dict[str, float]) -> None:
    cases = {case: worst for case, worst in interpreted.items() if case.startswith(f"{name}, ")}
    assert len(cases) >= 12
    assert not {case: worst for case, worst in cases.items() if not worst <= 1}


# Compiled ahead of time.


class Recorder:
    """Replaces launching, and records what would be launched."""

    def __call__(self, kernel: Any, plan: Any, x: Tensor, tensors: Any, own: dict[str, Any]) -> None:
        self.kernel, self.plan, self.tensors = kernel, plan, tensors
        self.constants = {**own, **plan.constants}

    def source(self) -> Any:
        """What the just-in-time compiler would see, with its hints of what 16 divides."""
        names = [name for name in self.kernel.arg_names if name not in self.constants]
        signature: dict[str, str] = dict.fromkeys(self.constants, "constexpr")
        hints, constants = {}, dict(self.constants)
        for name, value in zip(names, [*self.tensors, *self.plan.sizes], strict=True):
            if isinstance(value, Tensor):
                signature[name] = f"*{TYPES[value.dtype]}"
            else:
                signature[name] = "constexpr" if value == 1 else "i32"
                constants |= {name: 1} if value == 1 else {}
            if isinstance(value, Tensor) or (value != 1 and value % 16 == 0):
                hints[(self.kernel.arg_names.index(name),)] = [["tt.divisibility", 16]]
        return ASTSource(self.kernel, signature, constants, hints)


def record(monkeypatch: pytest.MonkeyPatch, name: str, direction: str, x: Tensor, intervals: int = 16) -> Recorder:
    """What would be launched for tensors without values."""
    recorder = Recorder()
    monkeypatch.setattr(kernels, "_launch", recorder)
    monkeypatch.setattr(kernels, "_is_plain", lambda x: True)
    params = [param.to("meta") for param in parameters(name, x.shape[1], intervals)]
    if direction == "forward":
        kernels.KERNELS[name].forward(x, 1, *params)
    else:
        kernels.KERNELS[name].backward(x, x, 1, *params)
    return recorder


def compiled(monkeypatch: pytest.MonkeyPatch, recorder: Recorder, capability: int) -> str:
    """The assembly of a kernel."""
    try:
        assert triton.knobs.nvidia.ptxas
    except RuntimeError:
        pytest.skip("Triton comes without ptxas here")
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")
    target = GPUTarget("cuda", capability, 32)
    assembly: str = triton.compile(recorder.source(), target=target, options={"num_warps": 4}).asm["ptx"]
    assert f".target sm_{capability}" in assembly
    return assembly


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("place", "capability", "dtype"),
    [
        ("planes", 90, torch.float32),
        pytest.param("rows", 80, torch.bfloat16, id="rows-80"),
        pytest.param("planes", 80, torch.float16, marks=pytest.mark.slow),
        pytest.param("rows", 90, torch.float32, marks=pytest.mark.slow),
    ],
)
def test_kernels_compile_and_read_several_numbers_at_once(
    name: str, direction: str, place: str, capability: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape, layout = MEMORY[place]
    x = torch.empty(shape, dtype=dtype, device="meta").to(memory_format=layout)
    assembly = compiled(monkeypatch, record(monkeypatch, name, direction, x), capability)
    assert "atom" not in assembly
    if name == "pwlu" and place == "rows":
        return  # its sums leave room for one or two numbers of x in a thread
    # 16 bytes, or the 8 that four numbers of 2 bytes have.
    at_once = "v4" if dtype == torch.float32 or name != "pwlu" else "v2"
    assert f"ld.global.{at_once}" in assembly
    assert f"st.global.{at_once}" in assembly


def test_planes_of_an_odd_size_are_read_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = record(monkeypatch, "frelu", "forward", torch.empty(64, 512, 7, 7, device="meta"))
    assert recorder.constants["V"] == 1 and recorder.constants["R"] > 1  # several planes in a tile
    assert "ld.global.v4" not in compiled(monkeypatch, recorder, 90)


@given(
    memory=st.tuples(st.integers(1, 300), st.integers(1, 300), st.integers(1, 5000)),
    itemsize=st.sampled_from([2, 4]),
    programs=st.sampled_from([1024, 8192]),
    size=st.sampled_from([128, 512, 1024, 2048]),
)
def test_tiles_cover_a_tensor_once(memory: tuple[int, int, int], itemsize: int, programs: int, size: int) -> None:
    outer, channels, inner = memory
    plan = kernels._plan(memory, itemsize, kernels._Tile(size, size, 64), programs)
    rows, lanes, vector = (plan.constants[key] for key in ("R", "L", "V"))
    width = inner if plan.constants["PLANES"] else channels
    groups = channels if plan.constants["PLANES"] else -(-channels // lanes)
    across = -(-width // lanes) if plan.constants["PLANES"] else 1
    *_, vectors, tiles, share = plan.sizes
    assert rows * lanes == size and vectors * vector == width and vector * itemsize <= 16
    assert tiles == -(-outer // rows) * across
    assert plan.grid[0] == groups and (plan.grid[1] - 1) * share < tiles <= plan.grid[1] * share
    assert plan.grid[1] <= max(1, programs // groups)


# Traced.


def operator(name: str, suffix: str = "") -> Any:
    return getattr(torch.ops.surgery, name + suffix)


class Both(nn.Module):
    """A function and its backward pass, as operators."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor, *params: Tensor) -> tuple[Tensor, ...]:
        y = operator(self.name)(x, 1, *params)
        return y, *operator(self.name, "_backward")(y, x, 1, *params)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", NAMES)
def test_shapes_and_layouts_on_a_gpu_that_is_not_there(name: str, layout: torch.memory_format) -> None:
    with FakeTensorMode():
        x = torch.empty(3, 4, 5, 2, device="cuda", dtype=torch.bfloat16).to(memory_format=layout)
        params = [torch.empty(param.shape, device="cuda") for param in parameters(name, 4)]
        y, of_x, sums = Both(name)(x, *params)
    for tensor in (y, of_x):
        assert (tensor.shape, tensor.stride(), tensor.dtype, tensor.device) == (x.shape, x.stride(), x.dtype, x.device)
    assert sums.shape == (sum(param.shape[:-1].numel() for param in params), 4)
    assert sums.dtype == torch.float32


@pytest.fixture
def gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tells Triton for which GPU to compile; nothing is launched."""

    class Driver:
        def get_current_target(self) -> Any:
            return GPUTarget("cuda", 90, 32)

    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")
    monkeypatch.setattr(triton.runtime.driver, "_active", Driver())
    yield


@pytest.mark.usefixtures("gpu_that_is_not_there")
@pytest.mark.parametrize("name", ["frelu", "pwlu"])
def test_the_compiler_sees_the_kernels_and_what_they_write(name: str) -> None:
    with FakeTensorMode():
        x = torch.empty(3, 4, 5, 2, device="cuda")
        params = [torch.empty(param.shape, device="cuda") for param in parameters(name, 4)]
    graph = aot_export_module(Both(name), (x, *params), trace_joint=False)[0].graph
    calls = [node for node in graph.nodes if node.target is torch.ops.higher_order.triton_kernel_wrapper_functional]
    # What it does not know to be written only, it would have to copy first.
    assert [node.kwargs["tensors_to_clone"] for node in calls] == [["y_at"], ["of_x_at", "sums_at"]]
    assert not any("surgery" in str(node.target) for node in graph.nodes)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # its own
@pytest.mark.parametrize("name", NAMES)
def test_an_operator_keeps_the_rules_of_operators(name: str) -> None:
    x = torch.randn(3, 4, 5, 2, requires_grad=True)
    params = [param.requires_grad_() for param in parameters(name, 4)]
    outcomes = torch.library.opcheck(operator(name), (x, 1, *params))
    assert len(outcomes) >= 4 and set(outcomes.values()) == {"SUCCESS"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["frelu", "pwlu"])
def test_an_operator_in_a_compiled_function(name: str) -> None:
    torch.compiler.reset()
    function = kernels.FUNCTIONS[name]
    # Some parameters shared, others not.
    params = [param.requires_grad_() for param in (*parameters(name, 4)[:1], *parameters(name, 1)[1:])]
    compiled = torch.compile(
        lambda x, *params: operator(name)(x, 1, *params), fullgraph=True, backend="aot_eager", dynamic=True
    )
    for batch in (3, 5):
        x = torch.randn(batch, 4, 6, requires_grad=True)
        found = compiled(x, *params)
        wanted = value_of(function, 1, x, params)
        grad = torch.randn_like(x)
        torch.testing.assert_close(found, wanted)
        ours, theirs = (torch.autograd.grad(entry, (x, *params), grad) for entry in (found, wanted))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["frelu", "pwlu"])
def test_an_operator_in_an_export_is_one_call(name: str) -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor, *params: Tensor) -> Tensor:
            return operator(name)(x, 1, *params)

    params = parameters(name, 4)
    x = torch.randn(3, 4, 6)
    program = torch.export.export(Model(), (x, *params))
    calls = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert calls == [operator(name).default]
    torch.testing.assert_close(program.module()(x, *params), operator(name)(x, 1, *params))
