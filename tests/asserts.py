"""Assertions about models, used everywhere in the tests; each of them raises."""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from surgery.activations import Arithmetic
from surgery.activations import dispatch as forms

HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
)


def call(model: nn.Module, example: Any) -> Any:
    """Run the model: a tensor is one argument, a tuple positional ones, a dict keywords."""
    if isinstance(example, dict):
        return model(**example)
    return model(*example) if isinstance(example, tuple) else model(example)


def tensors(value: Any) -> list[Tensor]:
    """All tensors inside an output, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [tensor for part in value.values() for tensor in tensors(part)]
    if isinstance(value, (list, tuple)):
        return [tensor for part in value for tensor in tensors(part)]
    return []


def assert_bit_equal(a: Iterable[Tensor], b: Iterable[Tensor], what: str = "output") -> None:
    """The same tensors, bit for bit; equal NaNs are equal."""
    first, second = list(a), list(b)
    assert len(first) == len(second), f"{what}: {len(first)} tensors against {len(second)}"
    for place, (tensor, other) in enumerate(zip(first, second, strict=True)):
        assert tensor.shape == other.shape, f"{what} {place}: {tuple(tensor.shape)} against {tuple(other.shape)}"
        assert tensor.dtype == other.dtype, f"{what} {place}: {tensor.dtype} against {other.dtype}"
        if not torch.equal(tensor.nan_to_num(0.5), other.nan_to_num(0.5)) or not torch.equal(
            tensor.isnan(), other.isnan()
        ):
            apart = (tensor.double() - other.double()).abs().max().item()
            raise AssertionError(f"{what} {place} differs by up to {apart:g}")


def assert_only_changed(before: Iterable[Any], after: Iterable[Any], edited: Iterable[Any]) -> None:
    """The sites after an edit are the earlier ones without the `edited` ones, in the same order, with the same facts.

    Facts that describe the surroundings (feeds, fed_by, weights, place in block or owner) may follow the edit; what
    names a call, says what it computes, and says on which tensor may not.
    """
    gone = {site.key for site in edited}
    assert gone, "no site was said to be edited"
    kept = [site for site in before if site.key not in gone]
    found = list(after)
    same = ("owner", "activation", "inplace", "role", "shape", "dtype", "channels", "channel_axis", "modes")
    assert [_facts(site, same) for site in found] == [_facts(site, same) for site in kept]


def _facts(site: Any, names: tuple[str, ...]) -> tuple[Any, ...]:
    assert set(names) <= {field.name for field in fields(site)}
    return tuple(getattr(site, name) for name in names)


def assert_same_function(a: nn.Module, b: nn.Module, example: Any, seed: int = 0) -> None:
    """Bit-equal outputs in eval mode, and in train mode with one seed also gradients and buffers.

    Works on copies: neither model's state is touched.
    """
    outputs = []
    for model in (a, b):
        torch.manual_seed(seed)
        with torch.no_grad():
            outputs.append(tensors(call(copy.deepcopy(model).eval(), copy.deepcopy(example))))
    assert_bit_equal(*outputs, what="output in eval mode")

    trained = [_train_once(model, example, seed) for model in (a, b)]
    for part in ("output in train mode", "gradient", "buffer"):
        assert list(trained[0][part]) == list(trained[1][part]), f"names of each {part}"
        assert_bit_equal(trained[0][part].values(), trained[1][part].values(), what=part)


def _train_once(model: nn.Module, example: Any, seed: int) -> dict[str, dict[str, Tensor]]:
    model = copy.deepcopy(model).train()
    model.zero_grad()
    torch.manual_seed(seed)
    output = tensors(call(model, copy.deepcopy(example)))
    losses = [tensor.float().pow(2).sum() for tensor in output if tensor.requires_grad]
    if losses:
        torch.stack(losses).sum().backward()
    gradients = {name: param.grad for name, param in model.named_parameters() if param.grad is not None}
    return {
        "output in train mode": {str(place): tensor.detach() for place, tensor in enumerate(output)},
        "gradient": gradients,
        "buffer": dict(model.named_buffers()),
    }


def assert_same_frame(old: nn.Module, new: nn.Module) -> None:
    """Everything but the function is the same: class, names, devices, dtypes, gradient flags, modes, hooks.

    `new` may have children and parameters of its own that `old` lacks, but none under an old name that differ.
    """
    assert isinstance(new, type(old).__mro__[0] if type(new) is type(old) else _base(type(old))), "class"
    olds, news = dict(old.named_parameters()), dict(new.named_parameters())
    assert list(olds) == [name for name in news if name in olds], "parameter names or their order"
    old_buffers, new_buffers = dict(old.named_buffers()), dict(new.named_buffers())
    assert set(old_buffers) <= set(new_buffers), "buffer names"
    for name, tensor in olds.items():
        other = news[name]
        assert tensor.device == other.device, f"device of {name}"
        assert tensor.dtype == other.dtype, f"dtype of {name}"
        assert tensor.shape == other.shape, f"shape of {name}"
        assert tensor.requires_grad == other.requires_grad, f"requires_grad of {name}"
    modules = dict(new.named_modules(remove_duplicate=False))
    for path, value in list(modules.items()):
        if isinstance(value, Arithmetic):  # what it took the place of is its child
            modules |= {f"{path}.{name}": child for name, child in value.functional.named_children()}
    for path, module in old.named_modules(remove_duplicate=False):
        assert path in modules, f"module {path!r} is gone"
        assert module.training == modules[path].training, f"training flag of {path!r}"
        for kind in HOOKS:
            ours, theirs = getattr(module, kind), getattr(modules[path], kind)
            assert len(ours) == len(theirs), f"{kind} of {path!r}"
    devices = {old.device for old in olds.values()}
    for name, value in news.items():
        assert value.device in devices or not devices, f"device of the new {name}"
    training = {module.training for module in new.modules()}
    assert training <= {module.training for module in old.modules()}, "training flag of a new child"


def _base(kind: type) -> type:
    """The class as its author wrote it: a run-time subclass keeps module and qualified name."""
    named = [
        base for base in kind.__mro__ if (base.__module__, base.__qualname__) == (kind.__module__, kind.__qualname__)
    ]
    return named[-1]


def _random_state() -> tuple[Any, ...]:
    kind, keys, *rest = numpy.random.get_state()
    return (torch.get_rng_state().tolist(), random.getstate(), (kind, keys.tolist(), *rest))


def _snapshot(model: nn.Module) -> dict[str, Any]:
    """All state of a model, which looking must not change."""
    modules = list(model.named_modules(remove_duplicate=False))
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {
        "module names": [path for path, _ in modules],
        "module objects": [id(module) for _, module in modules],
        "module classes": {path: type(module) for path, module in modules},
        "training flags": {path: module.training for path, module in modules},
        "attributes": {path: list(vars(module)) for path, module in modules},
        "plain attributes": {path: _plain(module) for path, module in modules},
        "hooks": {path: [list(getattr(module, kind).items()) for kind in HOOKS] for path, module in modules},
        "tensor objects": [(name, id(tensor)) for name, tensor in named],
        "versions": [(name, tensor._version) for name, tensor in named],
        "gradient flags": {name: tensor.requires_grad for name, tensor in named},
        "gradients": {name: tensor.grad is None for name, tensor in named if tensor.is_leaf},
        "devices": {name: (tensor.device, tensor.dtype) for name, tensor in named},
        **_process(),
    }


def _process() -> dict[str, Any]:
    """All state of the process, which looking must not change."""
    return {
        "random state": _random_state(),
        "grad mode": torch.is_grad_enabled(),
        "default device": torch.get_default_device(),
        "default dtype": torch.get_default_dtype(),
        "global hooks": _global_hooks(),
        "Module.__call__": nn.Module.__call__,
        "Module.__getattr__": nn.Module.__getattr__,
        "fast path of attention": torch.backends.mha.get_fastpath_enabled(),
        "forms of functions": forms._only,
        "filters of warnings": list(warnings.filters),
        "modes": torch.overrides._get_current_function_mode_stack(),
    }


def _plain(module: nn.Module) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for name, value in vars(module).items():
        if isinstance(value, (bool, int, float, str, type(None))):
            facts[name] = value
        elif isinstance(value, Tensor):
            facts[name] = (id(value), value._version)
        elif isinstance(value, (list, dict, tuple, set)):
            facts[name] = (id(value), len(value))
    return facts


def _global_hooks() -> list[list[int]]:
    names = ("_global_forward_hooks", "_global_forward_pre_hooks", "_global_backward_hooks")
    return [list(getattr(torch.nn.modules.module, name)) for name in names]


@contextmanager
def assert_process_untouched() -> Iterator[None]:
    """Nothing inside, not even an exception, changes the random state and the switches of the process."""
    before = _process()
    try:
        yield
    finally:
        for what, value in _process().items():
            assert value == before[what], f"{what} changed"


@contextmanager
def assert_untouched(model: nn.Module) -> Iterator[None]:
    """Nothing inside, not even an exception, changes the model or the process."""
    before = _snapshot(model)
    numbers = [(name, tensor.detach().clone()) for name, tensor in model.state_dict().items()]
    try:
        yield
    finally:
        after = _snapshot(model)
        for what, value in before.items():
            # Written to and put back is accepted for buffers' versions only if the numbers below agree.
            if what != "versions":
                assert after[what] == value, f"{what} changed"
        changed = [name for name, version in before["versions"] if (name, version) not in after["versions"]]
        parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        assert not parameters & set(changed), f"parameters were written to: {sorted(parameters & set(changed))}"
        states = model.state_dict()
        assert list(states) == [name for name, _ in numbers], "names of the state"
        for name, tensor in numbers:
            if tensor.device.type != "meta":
                assert torch.equal(states[name].nan_to_num(0.5), tensor.nan_to_num(0.5)), f"{name} changed"


def assert_raises(error: type[BaseException], function: Callable[[], Any], *words: str) -> BaseException:
    """The call fails with this error, whose message holds all the words."""
    try:
        function()
    except error as caught:
        missing = [word for word in words if word not in str(caught)]
        assert not missing, f"the message lacks {missing}: {caught}"
        return caught
    raise AssertionError(f"{error.__name__} was not raised")
