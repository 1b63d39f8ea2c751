"""Recompute: the input of an activation, made again in the backward pass from what the layers in front keep anyway.

A batch norm keeps its input, so its output need not be kept besides. Behind the sum of a residual block, the other
summand is one too, or the input of a convolution inside the block. Who keeps what is read from the autograd graph, so
it does not matter which modules are called, or how.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from surgery.errors import BadValue

Memory = Literal["keep", "recompute"]

# The nodes of a batch norm in the autograd graph, and what they call epsilon.
_NORMS = {"NativeBatchNormBackward0": "_saved_eps", "CudnnBatchNormBackward0": "_saved_epsilon"}
_SUM, _LEAF = "AddBackward0", "torch::autograd::AccumulateGrad"
# Nodes that keep their input, the first of the tensors they were computed from.
_KEEPERS = ("ConvolutionBackward0", *_NORMS)
_FARTHEST = 64  # nodes that are looked at to find one that keeps a summand; a bottleneck block has 9

_Edge = tuple[Any, int]  # a node, and which of its outputs


@dataclass(frozen=True, slots=True)
class _Norm:
    """The output of a batch norm."""

    node: Any
    bias: Tensor | None
    version: int  # of the bias, which the node does not keep

    def value(self) -> Tensor:
        """Compute it again; with gradients enabled, differentiably."""
        node, bias = self.node, self.bias
        if bias is not None and bias._version != self.version:
            raise RuntimeError(
                "The bias of a batch norm was modified by an in-place operation before the backward pass, in which the"
                " output of the norm is computed again."
            )
        x, weight, epsilon = node._saved_input, node._saved_weight, getattr(node, _NORMS[node.name()])
        if not node._saved_training:
            return F.batch_norm(x, node._saved_running_mean, node._saved_running_var, weight, bias, eps=epsilon)
        mean, scale = node._saved_result1, node._saved_result2
        if torch.is_grad_enabled() or mean.dtype in (torch.bfloat16, torch.float16):  # too coarse to be used again
            return F.batch_norm(x, None, None, weight, bias, training=True, eps=epsilon)
        scale = scale if weight is None else scale * weight
        # Not that of torch.nn.functional, which torch 2.11 does not let divide by the scale alone.
        return torch.batch_norm(x, scale, bias, mean, torch.ones_like(mean), False, 0.0, 0.0, False)


@dataclass(frozen=True, slots=True)
class _Kept:
    """A tensor that a node keeps, under this name."""

    node: Any
    name: str

    def value(self) -> Tensor:
        return getattr(self.node, self.name)  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class Source:
    """What a tensor can be computed from again until the backward pass has gone through the layers in front of it."""

    terms: tuple[_Norm | _Kept, ...]

    def value(self) -> Tensor:
        """Compute the tensor again; with gradients enabled, differentiably.

        Raises:
            RuntimeError: what it is made of was modified since, or was freed by an earlier backward pass.
        """
        first, *others = (term.value() for term in self.terms)
        return first if not others else first + others[0]


def source_of(x: Tensor) -> Source | None:
    """What x can be computed from again; None if it has to be kept.

    It has to be unless x is, as it was computed, the output of a batch norm, or a sum whose terms each are one or are
    kept by a layer. It also has to be where others decide what is kept, as in a checkpointed part of a model.
    """
    node = x.grad_fn
    if node is None or x.output_nr:
        return None
    name = node.name()
    if name in _NORMS:
        norm = _norm(node, x) if not x._version else None
        return Source((norm,)) if norm is not None else None
    if name != _SUM or x._version > 1 or node._saved_alpha != 1:  # type: ignore[attr-defined]
        return None
    edges = node.next_functions
    first, second = (_term(edge, other, x) for edge, other in (edges, edges[::-1]))
    return Source((first, second)) if first is not None and second is not None else None


def check_memory(memory: str) -> bool:
    """Whether inputs are to be recomputed.

    Raises:
        BadValue: neither "keep" nor "recompute".
    """
    if memory not in get_args(Memory):
        raise BadValue("An activation keeps its input, or recomputes it.", asked=f"memory={memory!r}",
                       there="'keep', 'recompute'")  # fmt: skip
    return memory == "recompute"


def said(recompute: bool) -> str:
    """What `print` shows of it."""
    return ", memory='recompute'" * recompute


def _term(edge: _Edge, other: _Edge, x: Tensor) -> _Norm | _Kept | None:
    node, number = edge
    if node is None or number:
        return _keeper(edge, other[0], x) if node is not None else None
    if node.name() in _NORMS:
        return _norm(node, x)
    if node.name() == "ReluBackward0":
        return _Kept(node, "_saved_result") if _is_kept(node, "result", x) else None
    return _keeper(edge, other[0], x)


def _norm(node: Any, x: Tensor) -> _Norm | None:
    """The output of a batch norm, if it is like x and all it is made of is kept."""
    parts = ("weight", "result1", "result2") if node._saved_training else ("weight", "running_mean", "running_var")
    if not _is_kept(node, "input", x) or not all(_is_plain(node, part) for part in parts):
        return None
    if node._saved_weight is None:
        return _Norm(node, None, 0)
    leaf = node.next_functions[2][0]
    if leaf is None or leaf.name() != _LEAF:  # a frozen bias, or one that is itself computed: the graph does not say
        return None
    return _Norm(node, leaf.variable, leaf.variable._version)


def _keeper(edge: _Edge, start: Any, x: Tensor) -> _Kept | None:
    """A layer between `start` and the edge, in the order of the backward pass, that keeps the tensor of the edge."""
    seen, waiting = {edge[0]}, deque([start])
    for _ in range(_FARTHEST):
        node = waiting.popleft() if waiting else None
        if node is None:
            return None
        edges = node.next_functions
        if node.name() in _KEEPERS and edges[0] == edge:
            return _Kept(node, "_saved_input") if _is_kept(node, "input", x) else None
        for behind, _ in edges:
            if behind is not None and behind not in seen and behind.name() != _LEAF:
                seen.add(behind)
                waiting.append(behind)
    return None


def _is_kept(node: Any, name: str, x: Tensor) -> bool:
    """Whether a node keeps a tensor of this name that is like x."""
    if not _is_plain(node, name):
        return False
    kept = getattr(node, f"_saved_{name}")
    return kept is not None and kept.shape == x.shape and kept.dtype == x.dtype and type(kept) in _TENSORS


def _is_plain(node: Any, name: str) -> bool:
    """Whether a saved tensor may be read more than once: no hook, such as that of a checkpoint, makes it anew."""
    raw = getattr(node, f"_raw_saved_{name}")
    return getattr(raw, "unpack_hook", raw) is None  # an older torch does not say


_TENSORS = (Tensor, torch.nn.Parameter)
