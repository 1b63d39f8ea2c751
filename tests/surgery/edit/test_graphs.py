"""Graphs of graph modules: which there are, and a copy with another call."""

from __future__ import annotations

import torch
from torch import fx, nn

from surgery.edit.graphs import graphs_of, with_call


class Net(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x) + 1


def test_a_call_takes_the_place_of_a_node_in_a_copy() -> None:
    traced = fx.symbolic_trace(Net())
    code = traced.code
    graph = with_call(traced.graph, "relu", "act")
    assert graph is not None
    edited = fx.GraphModule({"act": nn.Sigmoid()}, graph)
    x = torch.tensor([-1.0, 2.0])
    assert torch.equal(edited(x), torch.sigmoid(x) + 1)
    assert traced.code == code and torch.equal(traced(x), torch.relu(x) + 1)
    assert with_call(traced.graph, "gelu", "act") is None


def test_a_module_has_one_graph_or_one_for_each_mode() -> None:
    traced = fx.symbolic_trace(Net())
    assert graphs_of(traced, ["eval", "train"]) == ["graph"]
    traced.eval_graph = traced.graph
    assert graphs_of(traced, ["eval"]) == ["eval_graph"] and graphs_of(traced, ["eval", "train"]) == ["graph"]
