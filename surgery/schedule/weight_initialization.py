"""Weight initialization: redraw the weights of a model, each layer with the gain of the activation that follows it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from surgery.activations import build
from surgery.activations.functions.rectified_scores import RectifiedScores
from surgery.dataflow.operations import SQUASHING
from surgery.edit.rollback import all_or_nothing
from surgery.errors import BadValue, cause_of
from surgery.isolation.meta_copy import scratch_copy
from surgery.look.finder import find_sites
from surgery.look.site import Site
from surgery.model import M
from surgery.schedule.param_groups import is_activation

Fan = Literal["in", "out"]

# A normal distribution as evenly spaced points with weights. For smooth functions this is exact to rounding, like
# Gauss-Hermite quadrature; at a kink, where that is off by 1e-4 or more, it is accurate to 1e-5.
STEP, REACH = 0.01, 8.0


def initialize(model: M, example: Any = None, *, fan: Fan = "in", generator: torch.Generator | None = None) -> M:
    """Redraw the weights of all convolutions and linear layers as in He et al., in place; returns the model.

    Weights are normal with standard deviation gain / sqrt(fan). The gain is that of the activation the layer feeds,
    the first one if there are several, also through norms and adds: see `gain`. It is 1 if the layer feeds none, like a
    classifier, or feeds `RectifiedScores`, or only a sigmoid, tanh or the like that is a gate or the head. `fan="in"`
    preserves the mean square of activations, "out" that of gradients; both count the average number of connections of
    an element, so groups and strides count.

    Biases become 0, norms get weight 1, bias 0 and fresh statistics. A norm whose weights are all 0, such as the last
    of a residual branch in some models, keeps them. The input projections of `nn.MultiheadAttention` are drawn as in
    torch (Xavier). Embeddings, positions, scales, other parameters outside layers, and those of activations, are
    unchanged. Frozen weights are redrawn, too.

    `example` is the input the model is run on to find what feeds what, as in `find_sites`. Numbers are drawn on the
    CPU, or on the device of `generator`, so one seed gives the same weights on every device.

    Raises:
        BadValue: another fan; weights without values (on meta) or parametrised; an activation without gain.
        CannotLook: the model is wrapped or does not run on the example.

    Source: He et al. 2015, arXiv 1502.01852, section 2.2.
    """
    if fan not in get_args(Fan):
        problem = "`fan` must be 'in' (preserve the forward variance) or 'out' (backward)."
        raise BadValue(problem, asked=f"fan={fan!r}")
    sites = find_sites(model, example)
    _check_weights(model, _parts(model)[0])
    return _draw(model, _gains(model, list(sites)), fan, generator)


@all_or_nothing(lambda model, *_: (*model.parameters(), *model.buffers()))
def _draw(model: M, gains: dict[int, float], fan: Fan, generator: torch.Generator | None) -> M:
    """Redraw the weights, each with the gain of the activation it feeds."""
    layers, norms, attentions = _parts(model)
    drawn = set[int]()
    with torch.no_grad():
        for _, layer in layers:
            weight = layer.weight
            if id(weight) not in drawn:
                drawn.add(id(weight))
                deviation = gains.get(id(weight), 1.0) / math.sqrt(fan_of(layer, fan))
                weight.copy_(_normal(weight, generator).mul_(deviation))
            if layer.bias is not None:
                layer.bias.zero_()
        for norm in norms:
            _reset(norm)
        for attention in attentions:
            _reset_projections(attention, generator)
    return model


def gain(function: Callable[[Tensor], Tensor], channels: int = 1, *, axis: int = 1, dims: int = 2) -> float:
    """The factor that compensates for the loss of variance in an activation: 1 / sqrt(E[f(z)^2]), z standard normal.

    sqrt(2) for ReLU. `function` is called once, with a float64 tensor of `dims` axes that has its `channels` on
    `axis`; the mean square is taken over all channels. A module is called as a copy, in eval mode.

    Raises:
        BadValue: the function cannot be called this way, or its mean square is zero or not finite.

    Source: He et al. 2015, arXiv 1502.01852, equation 10, where f is ReLU; the same argument for any f.
    """
    if isinstance(function, nn.Module):
        function = scratch_copy(function, meta=False).to("cpu", torch.float64).eval()
    points = torch.arange(-round(REACH / STEP), round(REACH / STEP) + 1, dtype=torch.float64) * STEP
    weights = torch.softmax(-points.square() / 2, 0)
    shape, along = [1] * dims, 0 if axis % dims else dims - 1
    shape[axis] = channels
    rows = points.view([-1 if place == along else 1 for place in range(dims)])
    shape[along] = len(points)
    try:
        with torch.no_grad():
            values = function(rows.expand(shape).clone())
    except (RuntimeError, TypeError, ValueError) as error:
        raise BadValue(
            f"This activation cannot be evaluated on a normal distribution: {cause_of(error)}",
            asked=f"a float64 tensor of shape {tuple(shape)}",
        ) from error
    square = float(values.square().movedim(along, 0).flatten(1).mean(1) @ weights)
    if not 0 < square < math.inf:
        raise BadValue("This activation has no gain.", asked=f"a mean square of {square} on a normal distribution")
    return 1 / math.sqrt(square)


def fan_of(layer: Any, fan: str) -> float:
    """The inputs per output of a layer ("in"), or the outputs per input ("out"), on average and ignoring borders."""
    if isinstance(layer, nn.Linear):
        return layer.in_features if fan == "in" else layer.out_features
    taps = math.prod(layer.kernel_size) / layer.groups
    spread = taps / math.prod(layer.stride)  # elements of the larger side have fewer connections each
    if fan == "in":
        return float(layer.in_channels * (spread if isinstance(layer, _ConvTransposeNd) else taps))
    return float(layer.out_channels * (taps if isinstance(layer, _ConvTransposeNd) else spread))


def _parts(model: nn.Module) -> tuple[list[tuple[str, Any]], list[nn.Module], list[nn.MultiheadAttention]]:
    """The convolutions and linear layers with their paths, the norms, the attentions; none inside an activation."""
    inside = {id(child) for module in model.modules() if is_activation(module) for child in module.modules()}
    modules = [(path, module) for path, module in model.named_modules() if id(module) not in inside]
    layers = [(path, module) for path, module in modules if _is_layer(module)]
    norms = [module for _, module in modules if _is_norm(module)]
    return layers, norms, [module for _, module in modules if isinstance(module, nn.MultiheadAttention)]


def _is_layer(module: nn.Module) -> bool:
    # By name: torchvision is not imported here, and its class does not derive from torch's convolutions.
    return isinstance(module, _ConvNd | nn.Linear) or type(module).__name__ == "DeformConv2d"


def _is_norm(module: nn.Module) -> bool:
    """Torch's norms, and those of other libraries, which have "norm" in their name and one weight per channel."""
    weight = module._parameters.get("weight")
    named = "norm" in type(module).__name__.lower()
    return named and (hasattr(module, "reset_running_stats") or (weight is not None and weight.dim() == 1))


def _check_weights(model: nn.Module, layers: list[tuple[str, Any]]) -> None:
    empty = next((path for path, param in model.named_parameters() if param.is_meta), None)
    if empty is not None:
        raise BadValue(
            "The weights of this model have no values yet.", asked=f"{empty} on the meta device",
            try_="model.to_empty(device='cpu') first",
        )  # fmt: skip
    for path, layer in layers:
        if layer._parameters.get("weight") is None:
            raise BadValue(
                f"The weight of {path or type(layer).__name__} is computed from other tensors.",
                asked="a parametrisation or a mask", try_="remove it, initialize, and add it again",
            )  # fmt: skip


def _gains(model: nn.Module, sites: list[Site]) -> dict[int, float]:
    """The gain of each weight that feeds an activation, by its id."""
    parameters = dict(model.named_parameters())
    known: dict[tuple[Any, ...], float] = {}
    gains: dict[int, float] = {}
    for site in sites:
        squashes = site.role != "nonlinearity" and site.activation in SQUASHING
        if (
            squashes
            or site.fed_by == ("weight",)
            or (site.module and isinstance(model.get_submodule(site.module), RectifiedScores))
        ):
            continue
        fed = [id(parameters[path]) for path in site.weights if path in parameters]
        if all(weight in gains for weight in fed):
            continue
        key = (site.module or (site.activation, site.options), site.channels, site.channel_axis, len(site.shape))
        if key not in known:
            known[key] = _gain_at(model, site)
        for weight in fed:
            gains.setdefault(weight, known[key])
    return gains


def _gain_at(model: nn.Module, site: Site) -> float:
    if site.module is None:
        options: dict[str, Any] = dict(site.options)
        return gain(build(site.activation, **options))
    module = model.get_submodule(site.module)
    tensors = [*module.parameters(), *module.buffers()]
    if all(value.numel() == 1 for value in tensors):
        return gain(module, dims=max(2, len(site.shape)))  # the same for all channels: one suffices
    if len(site.shape) < 2:
        return gain(module, site.channels)
    return gain(module, site.channels, axis=site.channel_axis, dims=len(site.shape))


def _normal(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal values of a shape, in float32 or better, on the device of the generator."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    device = generator.device if generator is not None else torch.device("cpu")
    return torch.randn(like.shape, generator=generator, dtype=dtype, device=device)


def _reset(norm: nn.Module) -> None:
    weight, bias = norm._parameters.get("weight"), norm._parameters.get("bias")
    if weight is not None and bool((weight != 0).any()):
        weight.fill_(1)
    if bias is not None:
        bias.zero_()
    if hasattr(norm, "reset_running_stats"):
        norm.reset_running_stats()  # type: ignore[operator]


def _reset_projections(attention: nn.MultiheadAttention, generator: torch.Generator | None) -> None:
    """As in the constructor of `nn.MultiheadAttention`; its output projection is treated as a linear layer."""
    for weight in _projections(attention):
        bound = math.sqrt(6 / sum(weight.shape))
        noise = torch.empty(weight.shape, device=generator.device if generator is not None else "cpu")
        weight.copy_(noise.uniform_(-bound, bound, generator=generator))
    if attention.in_proj_bias is not None:
        attention.in_proj_bias.zero_()


def _projections(attention: nn.MultiheadAttention) -> Iterator[Tensor]:
    for name in ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"):
        weight = attention._parameters.get(name)
        if weight is not None:
            yield weight
