"""Criteria: score each weight; the lowest scores are cut first.

A criterion is a function of a round. It names what it needs besides the weights in `wants`: "gradients", "movement".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from pruning.masks.prunable import owner_of, weights_of
from pruning.rounds.round import Criterion, Round, Scores
from surgery.errors import BadValue
from surgery.isolation.meta_copy import read

_HOW = {
    "gradients": "run_rounds(..., gradients=...), which gathers them; or Round.of(model, before, gradients={...})",
    "movement": "run_rounds(...), which gathers it in training; or Round.of(model, before, movement={...})",
}


def _wanting(what: str) -> Callable[[Criterion], Criterion]:
    """Mark a criterion that needs more than the weights."""

    def marked(function: Criterion) -> Criterion:
        function.wants = frozenset({what})  # type: ignore[attr-defined]
        return function

    return marked


def magnitude(round: Round) -> Scores:
    """The size of each weight, |w|.

    Source: Han et al. 2015, "Learning both weights and connections for efficient neural networks", section 3.
    """
    return {name: weight.detach().abs() for name, weight, _ in _weights(round)}


@_wanting("gradients")
def gradient(round: Round) -> Scores:
    """The first-order change of the loss without each weight, |w g|.

    Raises:
        BadValue: the round does not have gradients.
    Source: Blalock et al. 2020, "What is the state of neural network pruning?", section 7.1 (global gradient).
    """
    return _times(round, round.gradients, "gradients")


@_wanting("gradients")
def snip(round: Round) -> Scores:
    """The connection sensitivity of each weight, |w g| over its sum over all unpruned weights.

    The order is that of `gradient`; the scores of all unpruned weights add up to 1. SNIP takes the gradients of one
    batch at initialisation, which is up to the caller.

    Raises:
        BadValue: the round does not have gradients.
    Source: Lee et al. 2019, "SNIP: single-shot network pruning based on connection sensitivity", section 4.1.
    """
    found = _times(round, round.gradients, "gradients")
    total = sum(float(found[name][mask].double().sum()) for name, _, mask in _weights(round))
    return {name: scores / total if total > 0 else scores for name, scores in found.items()}


def lamp(round: Round) -> Scores:
    """The square of each weight over the sum of the squares of those in its layer that are at least as large.

    From 0 to 1, and 1 for the largest weight of every layer; double precision. Of equal weights the first counts as
    the smaller one. Only unpruned weights enter the sums; pruned ones score 0.

    Source: Lee et al. 2021, "Layer-adaptive sparsity for the magnitude-based pruning", section 3 (LAMP).
    """
    found = {}
    for name, weight, mask in _weights(round):
        squares, order = weight[mask].double().square().sort(stable=True)
        larger = squares.flip(0).cumsum(0).flip(0)
        shares = torch.where(squares > 0, squares / larger, 0)  # only zeros left: 0 / 0
        found[name] = torch.zeros_like(weight, dtype=torch.double)
        found[name][mask] = torch.empty_like(shares).scatter_(0, order, shares)
    return found


@dataclass(frozen=True)
class _Layer:
    """A weight as a matrix of squares between channels, and the scale of the batch norm behind it."""

    squares: Tensor  # (groups, out, in), summed over the kernel
    transposed: bool  # the weight has its inputs on axis 0
    scale: Tensor | None  # per output channel
    is_linear: bool

    @property
    def outputs(self) -> int:
        return self.squares.shape[0] * self.squares.shape[1]

    @property
    def inputs(self) -> int:
        return self.squares.shape[0] * self.squares.shape[2]

    def made(self) -> Tensor:
        """The squared norm of the weights that produce each output channel."""
        return self.squares.sum(2).flatten() * (1 if self.scale is None else self.scale.square())

    def read(self) -> Tensor:
        """The squared norm of the weights that read each input channel."""
        return self.squares.sum(1).flatten()

    def reads(self, other: _Layer) -> bool:
        """Whether its inputs can be the outputs of the other: the same number, or flattened maps of a convolution."""
        flattened = self.is_linear and not other.is_linear and self.inputs % other.outputs == 0
        return self.inputs == other.outputs or flattened

    def spread(self, factors: Tensor, over: str, shape: torch.Size) -> Tensor:
        """Expand values per input or output channel to the shape of the weight."""
        groups, out, into = self.squares.shape
        matrix = factors.view(groups, 1, into) if over == "inputs" else factors.view(groups, out, 1)
        matrix = matrix.expand(groups, out, into)
        matrix = matrix.transpose(1, 2) if self.transposed else matrix
        return matrix.reshape(*shape[:2], *[1] * (len(shape) - 2))


def lookahead(round: Round) -> Scores:
    """The magnitude of each weight, times the norms of the weights that produce its input and that read its output.

    |w| times the Frobenius norm of the weights of the layer before that make its input channel, times that of the
    weights of the next layer that read its output channel. The neighbours are the layers before and after in the
    order of the model (including unprunable ones), where the numbers of channels match; a linear layer may
    read flattened maps. Where they do not match, as at a shortcut or a concatenation, the factor is 1. A batch norm
    between two layers enters by its scale, |weight| / sqrt(running_var + eps); one without running statistics, and
    any other norm, does not. Only the order within a layer is meaningful.

    Source: Park et al. 2020, "Lookahead: a far-sighted alternative of magnitude-based pruning", section 2; the batch
    norm as in the authors' code (`lap_bn`).
    """
    layers = _layers(round)
    order = list(layers)
    found = {}
    for name, weight, _ in _weights(round):
        place = order.index(name)
        layer = layers[name]
        scores = weight.detach().double().abs()
        if place > 0 and layer.reads(before := layers[order[place - 1]]):
            made = before.made().repeat_interleave(layer.inputs // before.outputs)
            scores = scores * layer.spread(made.sqrt().to(scores), "inputs", weight.shape)
        if layer.scale is not None:
            scores = scores * layer.spread(layer.scale.abs().to(scores), "outputs", weight.shape)
        if place + 1 < len(order) and (after := layers[order[place + 1]]).reads(layer):
            read = after.read().view(layer.outputs, -1).sum(1)
            scores = scores * layer.spread(read.sqrt().to(scores), "outputs", weight.shape)
        found[name] = scores
    return found


def movement(round: Round) -> Scores:
    """Each weight times its change since the round began; the lowest scores are those that shrank most.

    Above 0 the weight grew in magnitude, below 0 it moved towards zero. Needs only the weights.

    Raises:
        BadValue: no weight has moved since the round began, or none in one of the tensors.
    Source: Sanh et al. 2020, "Movement pruning: adaptive sparsity by fine-tuning", section 4, with the whole change
    instead of the gradients that caused it; those are in `accumulated_movement`.
    """
    found, still, moved = {}, [], False
    for name, weight, mask in _weights(round):
        now = _single_precision(weight)
        change = now - round.before[name].to(now)
        found[name] = now * change
        if bool(change[mask].any()):
            moved = True
        elif bool(mask.any()):
            still.append(name)
    if still and not moved:
        raise BadValue("No weight has moved since the round began.",
                       try_="train first: run_rounds(..., train_first=True)")  # fmt: skip
    if still:
        raise BadValue(f"{still[0]} has not moved since the round began (frozen?).", asked=f"{len(still)} such weights",
                       try_="keep=... without it")  # fmt: skip
    return found


@_wanting("movement")
def accumulated_movement(round: Round) -> Scores:
    """Minus the sum over all steps of weight times gradient: low where training pushed a weight towards zero.

    Raises:
        BadValue: the round does not have movement.
    Source: Sanh et al. 2020, "Movement pruning: adaptive sparsity by fine-tuning", section 4 (without its learning
    rate, which is the same for all weights of a step).
    """
    _check_tensors(round, round.movement, "movement")
    return {name: _single_precision(round.movement[name]).to(weight.device) for name, weight, _ in _weights(round)}


@dataclass(frozen=True)
class Random:
    """Random numbers from 0 to 1, the same for the same seed on every device and in every round.

    Source: the baseline of Gale et al. 2019, "The state of sparsity in deep neural networks", section 3.
    """

    seed: int = 0

    def __call__(self, round: Round) -> Scores:
        numbers = torch.Generator().manual_seed(self.seed)
        return {
            name: torch.rand(weight.shape, generator=numbers, dtype=torch.float32, device="cpu").to(weight.device)
            for name, weight, _ in _weights(round)
        }


def _weights(round: Round) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, weight and mask for each of the masks, the mask on the device of the weight."""
    for name, mask in round.masks.items():
        weight = round.now[name].detach()
        yield name, weight, mask.to(weight.device)


def _single_precision(tensor: Tensor) -> Tensor:
    """In single precision at least: products in half precision underflow."""
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))


def _check_tensors(round: Round, tensors: Mapping[str, Tensor], what: str) -> None:
    for name, mask in round.masks.items():
        if name not in tensors or tensors[name].shape != mask.shape:
            there = f"{tuple(tensors[name].shape)}" if name in tensors else f"no {name if tensors else what}"
            raise BadValue(f"This criterion needs {what}.", asked=there, there=f"{name} {tuple(mask.shape)}",
                           try_=_HOW[what])  # fmt: skip


def _times(round: Round, tensors: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
    _check_tensors(round, tensors, what)
    found = {}
    for name, weight, _ in _weights(round):
        now = _single_precision(weight)
        found[name] = (now * tensors[name].detach().to(now)).abs()
    return found


def _layers(round: Round) -> dict[str, _Layer]:
    """All layers in the order of the model, with the batch norms between them."""
    masked = {name: (weight * mask).double() for name, weight, mask in _weights(round)}
    named = {name: masked.get(name, param.detach().double()) for name, param in weights_of(round.model).items()
             if name in masked or (name.endswith("weight") and _is_layer(owner_of(round.model, name)[0]))}  # fmt: skip
    scales = _scales(round.model, list(named))
    found = {}
    for name, weight in named.items():
        owner, _ = owner_of(round.model, name)
        transposed = isinstance(owner, _ConvTransposeNd)
        groups = owner.groups if isinstance(owner, _ConvNd) else 1
        squares = weight.square().flatten(2).sum(2) if weight.dim() > 2 else weight.square()
        squares = squares.view(groups, squares.shape[0] // groups, squares.shape[1])
        squares = squares.transpose(1, 2) if transposed else squares
        outputs = squares.shape[0] * squares.shape[1]
        scale = scales.get(name)
        fits = scale is not None and scale.numel() == outputs
        found[name] = _Layer(squares, transposed, scale if fits else None, not isinstance(owner, _ConvNd))
    return found


def _is_layer(owner: nn.Module) -> bool:
    return isinstance(owner, _ConvNd | nn.Linear)


def _scales(model: nn.Module, names: list[str]) -> dict[str, Tensor]:
    """The scale of the first batch norm behind each layer, before the next one, in the order of the model."""
    last = {owner_of(model, name)[0]: name for name in names}
    name = None
    found: dict[str, Tensor] = {}
    for module in model.modules():
        name = last.get(module, name)
        if isinstance(module, _BatchNorm) and name is not None and module.running_var is not None:
            scale = (module.running_var.double() + module.eps).rsqrt()
            weight = read(module, "weight")
            scale = scale if weight is None else scale * weight.detach().double().abs()
            found.setdefault(name, scale)
    return found
