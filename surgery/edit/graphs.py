"""Graphs: the graphs of a graph module by mode, and a graph with one more call of a module."""

from __future__ import annotations

import copy
from collections.abc import Iterable

from torch import fx, nn


def graphs_of(owner: nn.Module, modes: Iterable[str]) -> list[str]:
    """The attributes that hold the graphs for these modes: torchvision's feature extractors have one per mode."""
    own = [f"{mode}_graph" for mode in modes]
    return own if all(isinstance(owner.__dict__.get(name), fx.Graph) for name in own) else ["graph"]


def with_call(graph: fx.Graph, name: str, child: str) -> fx.Graph | None:
    """A copy of a graph in which `child` is called instead of the node with this name; None without such a node."""
    graph = copy.deepcopy(graph)
    node = next((node for node in graph.nodes if node.name == name), None)
    if node is None:
        return None
    with graph.inserting_after(node):
        call = graph.call_module(child, (node.args[0],))
    node.replace_all_uses_with(call)
    graph.erase_node(node)
    return graph
