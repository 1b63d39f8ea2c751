"""Prunable: which weights of a model may be pruned, and where a pruning library stores them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from surgery.errors import BadValue, CannotLook, NothingPicked
from surgery.isolation.meta_copy import copied
from surgery.model import check_plain
from surgery.rng import seeded

Filter = Callable[[str, nn.Module], bool]

_ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
_FAILED = (RuntimeError, TypeError, ValueError, AttributeError, AssertionError, LookupError, ArithmeticError)
_known: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()  # layers that were tested, and the result
_NEARLY = 0.05  # relative difference up to which a layer counts as linear in its weight, in any precision


def convolutions_and_linear(name: str, module: nn.Module) -> bool:
    """The default filter: weights of convolutions and linear layers, and the input projections of attention."""
    own = name.rpartition(".")[2]
    if isinstance(module, nn.MultiheadAttention):
        return own in _ATTENTION
    return isinstance(module, _ConvNd | nn.Linear) and own == "weight"


def prunable(model: nn.Module, keep: Filter | None = None) -> dict[str, nn.Parameter]:
    """The weights that may be pruned, by name, in the order of the model.

    By default those of convolutions and linear layers, and the input weights of `nn.MultiheadAttention`; never biases
    or the scales of norms. `keep(name, module)` overrides this: it is called once for every parameter with two axes or
    more, with the first layer that has it if several do. Weights masked by a pruning library
    (`torch.nn.utils.prune`, `torch.ao.pruning`) have the name that the layer reads; the value is the trained parameter.

    Raises:
        CannotLook: the model is wrapped or scripted, or has lazy layers without a shape.
        NothingPicked: no weight may be pruned.
        BadValue: a layer computes the weight it uses from this one (weight standardisation, weight norm), so that a
            zero here need not be a zero there.
    """
    check_plain(model)
    wanted = keep or convolutions_and_linear
    found = {name: param for name, param in weights_of(model).items() if wanted(name, owner_of(model, name)[0])}
    for name in found:
        check_read_as_it_is(name, *owner_of(model, name))
    if not found:
        raise NothingPicked(
            f"{type(model).__name__} does not have prunable weights.", asked="the weights that `keep` picks",
            try_="keep=lambda name, module: ..., or a model with convolutions or linear layers",
        )  # fmt: skip
    return found


def weights_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """Every parameter with two axes or more, once, by the name that its layer reads."""
    found: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for path, module in model.named_modules():
        for own, param in _parameters_of(module):
            if is_lazy(param):
                raise CannotLook(f"{path}.{own} has no shape yet.", asked=type(module).__name__,
                                 try_="run the model on one batch first")  # fmt: skip
            if param.dim() >= 2 and id(param) not in seen:
                seen.add(id(param))
                found[f"{path}.{own}" if path else own] = param
    return found


def owner_of(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that reads a weight, and its name there."""
    path, _, own = name.rpartition(".")
    return model.get_submodule(path), own


def _parameters_of(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    if isinstance(module, parametrize.ParametrizationList):
        return  # named after the layer instead
    for name, param in module._parameters.items():
        if param is not None:
            own = name.removesuffix("_orig").removesuffix("_v")  # of torch's hook-based masks and weight norms
            computed = f"{own}_mask" in module._buffers or isinstance(vars(module).get(own), Tensor)
            yield own if computed else name, param
    if parametrize.is_parametrized(module):
        lists: nn.ModuleDict = module.parametrizations  # type: ignore[assignment]
        for name, parametrization in lists.items():
            # Of several tensors, as in weight_norm, the largest represents the weight.
            yield name, max(parametrization.parameters(recurse=False), key=Tensor.numel)


def check_read_as_it_is(name: str, module: nn.Module, own: str) -> None:
    """Check that a layer uses a weight directly; else a zero in the parameter need not be a zero weight.

    Raises:
        BadValue: naming the weight; also for one whose tensor is of a special class.
    """
    reason = None
    if parametrize.is_parametrized(module, own):
        kinds = [type(part).__name__ for part in module.parametrizations[own]]  # type: ignore[index]
        reason = None if set(kinds) <= {"FakeSparsity"} else f"a parametrisation, {', '.join(kinds)}"
    elif own not in module._parameters and f"{own}_mask" not in module._buffers:
        reason = "a hook that computes it"
    elif own == "weight" and isinstance(module, _ConvNd | nn.Linear) and not _used_as_it_is(module):
        reason = f"{type(module).__name__}.forward(), which computes another weight from it"
    if reason is not None:
        raise BadValue(
            f"{name} is not the weight that its layer uses.", asked=reason,
            try_="keep=lambda name, module: ..., without such layers",
        )  # fmt: skip
    param = module._parameters.get(own, module._parameters.get(f"{own}_orig"))
    if param is not None and type(param.data) is not Tensor:
        raise BadValue(
            f"{name} is not a plain tensor.", asked=type(param.data).__name__,
            try_="the model before it is quantised or distributed, or keep=lambda name, module: ..., without it",
        )  # fmt: skip


def _used_as_it_is(layer: _ConvNd | nn.Linear) -> bool:
    """Whether a layer is linear in each entry of its weight; layers with torch's own forward are not tested."""
    forward: Callable[..., Tensor] = type(layer).forward
    if forward in [kind.forward for kind in _PLAIN]:
        return True
    if layer not in _known:
        _known[layer] = _tried(layer, forward)
    return _known[layer]


def _tried(layer: _ConvNd | nn.Linear, forward: Callable[..., Tensor]) -> bool:
    tried = copied(layer).eval().requires_grad_(False)
    if layer.weight.is_meta:
        tried = tried.to_empty(device="cpu")
        for param in (*tried.parameters(), *tried.buffers()):
            param.fill_(1)
    try:
        with seeded():
            return _linear(tried, forward) and _one_by_one(tried, forward)
    except _FAILED:
        return False  # unknown behaviour


@torch.no_grad()
def _linear(layer: nn.Module, forward: Callable[..., Tensor]) -> bool:
    """Whether the outputs for two halves of the weight add up. `forward` runs without hooks, which could compute it."""
    weight: Tensor = layer.weight  # type: ignore[assignment]
    whole, x = torch.randn_like(weight), torch.randn(_input_of(layer)).to(weight)
    part = whole * (torch.rand(weight.shape, device=weight.device) < 0.5)
    results = []
    for weights in (whole, part, whole - part, torch.zeros_like(whole)):
        weight.copy_(weights)
        results.append(forward(layer, x))
    full, first, second, none = results
    return bool((full - first - second + none).abs().max() <= _NEARLY * full.abs().max())


@torch.enable_grad()
def _one_by_one(layer: nn.Module, forward: Callable[..., Tensor]) -> bool:
    """Whether, for an input with a single nonzero value, each output depends on one weight only."""
    weight: Tensor = layer.weight  # type: ignore[assignment]
    with torch.no_grad():
        weight.copy_(torch.randn_like(weight))
    x = torch.zeros(_input_of(layer)).to(weight)
    none = forward(layer, x)
    x[0, 0][tuple(size // 2 for size in x.shape[2:])] = 1
    weight.requires_grad_(True)
    reached = (forward(layer, x) - none).flatten()
    (felt,) = torch.autograd.grad(reached[reached.abs().argmax()].abs(), weight)
    return bool(felt.abs().sum() <= (1 + _NEARLY) * felt.abs().max())


def _input_of(layer: nn.Module) -> tuple[int, ...]:
    """The smallest input shape of one sample."""
    if isinstance(layer, nn.Linear):
        return (1, layer.in_features)
    assert isinstance(layer, _ConvNd)
    extent = (step * (size - 1) + 1 for step, size in zip(layer.dilation, layer.kernel_size, strict=True))
    return (1, layer.in_channels, *extent)


_PLAIN = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip
