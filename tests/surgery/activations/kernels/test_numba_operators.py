"""The kernels of the processor as operators of torch, which compiled models call."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func

pytest.importorskip("numba")

import surgery
from surgery.activations import dispatch as forms
from tests.surgery.activations.kernels.beside_torch import FUNCTIONS, outcome, params_of, random


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_an_operator_is_what_torch_expects_of_one(name: str) -> None:
    assert forms._is_operator(name, "cpu")
    params = [param.requires_grad_() for param in params_of(name, 5)]
    x = random(3, 5, 7).requires_grad_()
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(getattr(torch.ops.surgery_cpu, name).default, (x, 1, *params), test_utils=checks)


@pytest.mark.slow
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", ["frelu", "npwlu", "pwlu", "swish"])
def test_some_stay_kernels_in_compiled_models_and_the_rest_fuses(name: str, channels_last: bool) -> None:
    torch.compiler.reset()
    x, grad = random(3, 5, 7, 9), random(3, 5, 7, 9, seed=1)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    seen: list[str] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> torch.fx.GraphModule:
        seen.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph

    def called(x: torch.Tensor, *params: torch.Tensor) -> torch.Tensor:
        return forms.apply(FUNCTIONS[name], x, 1, *params)

    params = [param.requires_grad_() for param in params_of(name, 5)]
    leaf = x.clone().requires_grad_()
    y = torch.compile(called, fullgraph=True, backend=backend)(leaf, *params)
    found = [y.detach(), *torch.autograd.grad(y, (leaf, *params), grad)]
    form = "fused" if any(f"surgery_cpu.{name}" in target for target in seen) else "closed"
    assert form == ("closed" if name == "frelu" else "fused")
    torch.testing.assert_close(found, outcome(form, name, x, 1, params_of(name, 5), grad))
    assert found[0].stride() == x.stride()
    torch.compiler.reset()


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()
        self.last = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.relu(self.norm(self.conv(x))).mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["keep", "recompute"])
@pytest.mark.parametrize("name", ["prelu", "frelu", "smelu", "swish", "pwlu", "npwlu"])
def test_an_edited_network_compiles_whole_and_calls_kernels_in_both_directions(name: str, memory: str) -> None:
    torch.compiler.reset()
    x = random(4, 3, 8, 8)
    network, _ = surgery.transform(Block(), surgery.swap(name, memory=memory), x)  # type: ignore[arg-type]
    graphs: list[set[str]] = []

    def seen(graph: torch.fx.GraphModule, _: list[Tensor]) -> object:
        graphs.append({str(node.target) for node in graph.graph.nodes if "surgery" in str(node.target)})
        return make_boxed_func(graph.forward)

    eager = copy.deepcopy(network)
    compiled = torch.compile(network, fullgraph=True, backend=aot_autograd(fw_compiler=seen, bw_compiler=seen))
    for model in (compiled, eager):
        model(x).square().sum().backward()
    kept = name in ("swish", "pwlu", "npwlu")
    wanted = [{f"surgery_cpu.{name}.default"}, {f"surgery_cpu.{name}_backward.default"}] if kept else [set(), set()]
    assert graphs == wanted, "one graph for each direction; what is no kernel fuses with the norm"
    for found, param in zip(network.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(found.grad, param.grad, atol=1e-5, rtol=1e-4)
    torch.compiler.reset()
