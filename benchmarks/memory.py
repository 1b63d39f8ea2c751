"""Memory: the tensors that a forward pass keeps for the backward pass, and the most that a step has at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile


def bytes_kept(module: nn.Module, x: Tensor) -> int:
    """Bytes that the forward pass of `x` keeps for the backward pass, each tensor once, without those of the module.

    They are read from the autograd graph: hooks on saved tensors would change what activations that recompute keep.
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in (*module.parameters(), *module.buffers())}
    y = module(x)
    kept = {tensor.untyped_storage().data_ptr(): tensor for node in _nodes(y.grad_fn) for tensor in _saved(node)}
    return sum(tensor.untyped_storage().nbytes() for at, tensor in kept.items() if at not in own)


def peak_bytes(step: Callable[[], object]) -> int:
    """The most memory on the processor that is in use at once while `step` runs, beyond that in use before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        step()
    assert profiler.profiler is not None and profiler.profiler.kineto_results is not None
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    used = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        used += event.nbytes()  # below zero for what is freed
        peak = max(peak, used)
    return peak


def _nodes(last: Any) -> Iterator[Any]:
    """All nodes of an autograd graph."""
    seen, waiting = {last}, [last]
    while waiting:
        node = waiting.pop()
        yield node
        for behind, _ in node.next_functions:
            if behind is not None and behind not in seen:
                seen.add(behind)
                waiting.append(behind)


def _saved(node: Any) -> Iterator[Tensor]:
    """What a node keeps, whether it was written in C++ or in Python."""
    for name in dir(node):
        if name.startswith("_saved_") or name == "saved_tensors":
            value = getattr(node, name)
            yield from (part for part in (value if isinstance(value, tuple | list) else [value])
                        if isinstance(part, Tensor))  # fmt: skip
