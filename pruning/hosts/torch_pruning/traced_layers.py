"""Traced layers: which layers a pruner of Torch-Pruning traced. It follows gradients, and misses all without."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch_pruning import ops

from pruning.dead.measure import buffers_kept
from surgery.dataflow.reach import reach
from surgery.dataflow.trace import Op
from surgery.errors import CannotEdit
from surgery.look.example import Example
from surgery.look.finder import find_sites
from surgery.model import home_of, in_eval

_FEW = 3  # names in a message
_ENDS = ("conv", "linear", "input", "unknown")  # kinds of operations that decide how many channels there are


def check_traced(pruner: Any, model: nn.Module, sample: Example | None = None) -> None:
    """Check that the pruner traced all layers that the model runs: else their neighbours would be pruned without them.

    Layers that run without gradients are never traced. They may be ignored, if all that share their channels are, too.
    Without a sample to run, all frozen layers count as running.

    Raises:
        CannotEdit: naming them.
    """
    runs = _frozen(model) if sample is None else _run(model, sample)
    unseen = list(_unseen(pruner, model, runs))
    if unseen and sample is not None:
        unseen = [name for name in unseen if name not in _staying(pruner, model, sample)]
    if unseen:
        raise CannotEdit(
            "Torch-Pruning did not trace some layers that the model runs (frozen, or run without gradients), and would "
            "prune their neighbours without them.",
            asked=f"{', '.join(unseen[:_FEW])}{', ...' if len(unseen) > _FEW else ''}",
            try_="requires_grad_(True) for all, then a new pruner, then freeze again; put layers that should stay "
                 "unchanged into its ignored_layers; where they run without gradients, them and all layers that share "
                 "their channels",
        )  # fmt: skip


def _staying(pruner: Any, model: nn.Module, sample: Example) -> set[str]:
    """The ignored layers whose channels nothing can change: those that share them are ignored, too, or the input."""
    look = find_sites(model, sample).look
    trace = look.traces.get("eval") if look is not None else None
    if trace is None:
        return set()
    ignored = {id(layer) for layer in pruner.ignored_layers}
    fixed = {path for path, module in model.named_modules() if id(module) in ignored}
    readers = trace.consumers()

    def passes(op: Op) -> bool:
        return op.kind not in _ENDS

    def stays(op: Op) -> bool:
        shared = [*reach(readers[op.index], readers.__getitem__, lambda place: passes(trace.ops[place])), op.index]
        makers = [maker for place in shared for maker in trace.back(place, passes)]
        return all(maker.kind == "input" or (maker.weights and _owners(maker) <= fixed) for maker in makers)

    run = {path: [op for op in trace.ops if path in _owners(op)] for path in fixed}
    return {path for path, ops in run.items() if ops and all(map(stays, ops))}


def _owners(op: Op) -> set[str]:
    """The paths of the modules whose parameters an operation reads."""
    return {name.rpartition(".")[0] for name in op.weights}


def check_plain_numbers(pruner: Any, model: nn.Module) -> None:
    """Check that the pruner reaches only plain tensors: others would become plain when pruned, or fail.

    Ignored layers are reached, too: their inputs may be pruned.

    Raises:
        CannotEdit: naming the first.
    """
    nodes, spared = list(pruner.DG.module2node), {id(param) for param in pruner.ignored_params}
    reached = {id(node) for node in nodes if isinstance(node, nn.Parameter)}
    reached |= {id(param) for node in nodes if isinstance(node, nn.Module) for param in node.parameters()}
    for name, param in model.named_parameters():
        if id(param) not in reached - spared:
            continue
        if type(param.data) is not Tensor or not (param.is_floating_point() or param.is_complex()):
            kind = param.dtype if type(param.data) is Tensor else type(param.data).__name__
            raise CannotEdit(f"Torch-Pruning cannot prune {name}.", asked=f"a parameter of type {kind}",
                             try_="prune the plain model; quantise or distribute it afterwards")  # fmt: skip


def _unseen(pruner: Any, model: nn.Module, runs: set[int]) -> Iterator[str]:
    graph = pruner.DG
    seen, spared = {id(node) for node in graph.module2node}, {id(layer) for layer in graph.IGNORED_LAYERS_IN_TRACING}
    spared |= {id(param) for param in graph.ignored_params}
    kinds = tuple(ops.type2class(kind) for kind in graph.REGISTERED_PRUNERS if kind != ops.OPTYPE.PARAMETER)
    loose = {id(param) for param, _ in graph.unwrapped_parameters}
    for path, module in model.named_modules():
        if id(module) not in runs or id(module) in spared:
            continue
        own = list(module.named_parameters(recurse=False))
        if own and isinstance(module, kinds) and id(module) not in seen:
            yield path
        for name, param in own:
            if id(param) in loose - seen - spared and not param.requires_grad:
                yield f"{path}.{name}" if path else name


def _frozen(model: nn.Module) -> set[int]:
    """The ids of the modules that have direct parameters, all of them frozen."""
    owned = {
        id(module): [param.requires_grad for param in module.parameters(recurse=False)] for module in model.modules()
    }
    return {module for module, flags in owned.items() if flags and not any(flags)}


def _run(model: nn.Module, sample: Example) -> set[int]:
    """The ids of the modules that one forward in eval mode calls; the model is unchanged afterwards."""
    found: set[int] = set()
    handles = [module.register_forward_pre_hook(lambda called, _: found.add(id(called))) for module in model.modules()]
    try:
        with in_eval(model), buffers_kept(model):
            given = sample.on(home_of(model))
            model(*given.args, **given.kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return found
