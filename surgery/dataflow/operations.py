"""Operations: which functions and modules are activations, convolutions, norms, joins."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from surgery.activations.formula_check import computes

# The closed list of activations. Users write these names in patterns; the modules and functions below map to them.
ACTIVATIONS = (
    "relu", "relu6", "leaky_relu", "prelu", "elu", "selu", "celu", "gelu", "gelu_tanh", "quick_gelu", "silu", "mish",
    "hardswish", "hardtanh", "softplus", "squared_relu", "sigmoid", "hardsigmoid", "tanh",
)  # fmt: skip
SQUASHING = ("sigmoid", "hardsigmoid", "tanh", "softplus")
SCORES = ("sigmoid", "hardsigmoid")
RECTIFIED = "rectified_scores"  # ours, behind a classifier

_TORCH_MODULES: dict[type[nn.Module], str] = {
    nn.ReLU: "relu", nn.ReLU6: "relu6", nn.LeakyReLU: "leaky_relu", nn.PReLU: "prelu", nn.ELU: "elu",
    nn.SELU: "selu", nn.CELU: "celu", nn.GELU: "gelu", nn.SiLU: "silu", nn.Mish: "mish",
    nn.Hardswish: "hardswish", nn.Hardtanh: "hardtanh", nn.Softplus: "softplus", nn.Sigmoid: "sigmoid",
    nn.Hardsigmoid: "hardsigmoid", nn.Tanh: "tanh",
}  # fmt: skip
# timm's own classes, by the names of their modules: timm itself is not imported.
_TIMM_MODULES = {
    "Swish": "silu", "SwishMe": "silu", "Mish": "mish", "MishMe": "mish", "HardSwish": "hardswish",
    "HardSwishMe": "hardswish", "HardSigmoid": "hardsigmoid", "HardSigmoidMe": "hardsigmoid", "Sigmoid": "sigmoid",
    "Tanh": "tanh", "PReLU": "prelu", "GELU": "gelu", "GELUTanh": "gelu_tanh", "QuickGELU": "quick_gelu",
}  # fmt: skip
_TIMM_HOMES = ("timm.layers.activations", "timm.layers.activations_me", "timm.layers.activations_jit")
# Classes of other libraries by name. The name alone is not trusted: what they compute is checked.
_FOREIGN_MODULES = {
    "swish": "silu", "memoryefficientswish": "silu", "siluactivation": "silu", "quickgelu": "quick_gelu",
    "quickgeluactivation": "quick_gelu", "newgeluactivation": "gelu_tanh", "fastgeluactivation": "gelu_tanh",
    "accurategeluactivation": "gelu_tanh", "gelutanh": "gelu_tanh", "pytorchgelutanh": "gelu_tanh",
    "geluactivation": "gelu", "gelu": "gelu", "relusquaredactivation": "squared_relu", "relusquared": "squared_relu",
    "squaredrelu": "squared_relu", "hswish": "hardswish", "hardswish": "hardswish", "hsigmoid": "hardsigmoid",
    "hardsigmoid": "hardsigmoid", "mish": "mish", "mishactivation": "mish",
}  # fmt: skip
_RUNNING = ("forward", "__call__", "_call_impl", "_wrapped_call_impl")  # a subclass may override these

_FUNCTIONS = {name: name for name in ACTIVATIONS if name not in ("gelu_tanh", "quick_gelu", "squared_relu")}
_FUNCTIONS |= {"_prelu_kernel": "prelu"}

_OPERATIONS = {
    "conv": "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d deform_conv2d",
    "linear": "linear bilinear addmm baddbmm",
    "norm": "batch_norm layer_norm group_norm instance_norm rms_norm local_response_norm normalize sync_batch_norm",
    "add": "add add_ __add__ __iadd__ __radd__ sub sub_ __sub__ __isub__ __rsub__ index_add index_add_ scatter_add"
    " scatter_add_",
    "mul": "mul mul_ __mul__ __imul__ __rmul__ multiply div div_ __truediv__ __itruediv__ true_divide",
    "concat": "cat concat concatenate stack hstack vstack dstack",
    "matmul": "matmul __matmul__ __rmatmul__ bmm mm einsum",
    "attention": "scaled_dot_product_attention multi_head_attention_forward _native_multi_head_attention",
    "softmax": "softmax log_softmax",
    "pool": "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d "
    "adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d max_pool2d_with_indices "
    "boolean_dispatch lp_pool1d lp_pool2d mean amax max",
    # Values written into part of another tensor: a join if both are data, else a shape operation.
    "paste": "copy_ __setitem__ index_put index_put_ index_copy index_copy_ scatter scatter_ masked_scatter"
    " masked_scatter_ slice_scatter select_scatter diagonal_scatter as_strided_scatter",
    "resize": "interpolate upsample pixel_shuffle pixel_unshuffle grid_sample",
    # Values pass through, perhaps rearranged: neighbours are looked up through these.
    "shape": "view view_as reshape reshape_as flatten unflatten permute transpose transpose_ swapaxes swapdims t"
    " movedim moveaxis squeeze squeeze_ unsqueeze unsqueeze_ contiguous clone expand expand_as repeat repeat_interleave"
    " tile chunk split split_with_sizes tensor_split unbind narrow __getitem__ select index_select gather pad roll flip"
    " rot90 fold unfold channel_shuffle alias as_strided detach requires_grad_ float half bfloat16 double to type"
    " type_as cpu cuda dropout dropout_ dropout1d dropout2d dropout3d feature_dropout alpha_dropout adjoint",
}
_KIND_OF = {name: kind for kind, names in _OPERATIONS.items() for name in names.split()}

# Numeric parameters, in the order of the function's arguments.
_OPTIONS: dict[str, tuple[tuple[str, float], ...]] = {
    "leaky_relu": (("negative_slope", 0.01),),
    "elu": (("alpha", 1.0),),
    "celu": (("alpha", 1.0),),
    "hardtanh": (("min_val", -1.0), ("max_val", 1.0)),
    "softplus": (("beta", 1.0), ("threshold", 20.0)),
}

_IN_PLACE = (
    "__iadd__", "__isub__", "__imul__", "__itruediv__", "__idiv__", "__ifloordiv__", "__imod__", "__ipow__", "__iand__",
    "__ior__", "__ixor__", "__ilshift__", "__irshift__", "__imatmul__",
)  # fmt: skip
# These change how a tensor is read, not its values.
_NOT_WRITING = (
    "requires_grad_", "detach_", "squeeze_", "unsqueeze_", "transpose_", "t_", "swapaxes_", "swapdims_", "resize_",
    "rename_", "set_",
)  # fmt: skip
# These overwrite all previous values.
_OVERWRITING = (
    "copy_", "fill_", "zero_", "normal_", "uniform_", "random_", "bernoulli_", "exponential_", "cauchy_", "geometric_",
)  # fmt: skip
# These overwrite some values only.
_SCATTERING = ("__setitem__", "index_put_", "index_copy_", "scatter_", "masked_scatter_")
# These pass values to Python, where they cannot be followed.
LEAVING = ("item", "tolist", "numpy", "__array__", "__float__", "__int__", "__index__", "__complex__", "__dlpack__")
# These create tensors from Python values.
ARRIVING = (
    "tensor", "as_tensor", "asarray", "from_numpy", "from_dlpack", "frombuffer", "scalar_tensor", "new_tensor", "full",
    "new_full", "full_like", "fill_",
)  # fmt: skip

# Attribute of a module built by this library, or of its class: its name in the catalogue.
TAG = "surgery_activation"


def name_of(function: Callable[..., Any]) -> str:
    """The name of a torch function; for a read of an attribute such as `x.mT`, the attribute's."""
    name = getattr(function, "__name__", type(function).__name__)
    return getattr(getattr(function, "__self__", None), "__name__", name) if name == "__get__" else name


def operation_of(function: Callable[..., Any]) -> str:
    """The kind of a torch function: "conv", "norm", "add", ..., "activation", or "other"."""
    name = getattr(function, "__name__", "")
    if name == "__get__":
        return "shape"  # `x.T`, `x.data`
    if name.rstrip("_") in _FUNCTIONS and not name.startswith("__"):
        return "activation"
    return _KIND_OF.get(name, "other")


def activation_of_function(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """The activation a torch function computes with these arguments ("relu6" for hardtanh between 0 and 6)."""
    name = _FUNCTIONS[getattr(function, "__name__", "").rstrip("_")]
    if name == "hardtanh":
        low = kwargs.get("min_val", args[1] if len(args) > 1 else -1.0)
        high = kwargs.get("max_val", args[2] if len(args) > 2 else 1.0)
        return "relu6" if (low, high) == (0, 6) else name
    if name == "gelu":
        approximate = kwargs.get("approximate", args[1] if len(args) > 1 else "none")
        return "gelu_tanh" if approximate == "tanh" else name
    return name


def options_of_function(
    activation: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[str, float], ...]:
    """The numeric parameters of a functional activation call, defaults filled in."""
    known = _OPTIONS.get(activation, ())
    given = dict(zip((name for name, _ in known), args[1:], strict=False)) | kwargs
    return tuple((name, float(given.get(name, default))) for name, default in known)


def options_of_module(activation: str, module: nn.Module) -> tuple[tuple[str, float], ...]:
    """The numeric parameters of an activation module."""
    return tuple((name, float(getattr(module, name, default))) for name, default in _OPTIONS.get(activation, ()))


def works_in_place(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """True if this call of an activation function overwrites its input."""
    name = getattr(function, "__name__", "")
    if name.endswith("_") and not name.endswith("__"):
        return True
    if kwargs.get("inplace"):
        return True
    # Positional `inplace` is always the last option of torch's functional activations, and the only boolean.
    return any(value is True for value in args[1:])


def written_by(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors that a torch function of this name overwrites, judging by its name and arguments."""
    if "out" in kwargs:
        out = kwargs["out"]
        return [part for part in (out if isinstance(out, tuple | list) else (out,)) if isinstance(part, Tensor)]
    in_place = name == "__setitem__" or name in _IN_PLACE or (name.endswith("_") and not name.endswith("__"))
    if (in_place and name not in _NOT_WRITING) or kwargs.get("inplace"):
        first = args[0] if args else kwargs.get("input")
        return [first] if isinstance(first, Tensor) else []
    return []


def how_written(name: str, kwargs: dict[str, Any]) -> str:
    """How much of the tensor a function writes into survives in its result: "nothing", the "rest", or "all"."""
    if "out" in kwargs or name in _OVERWRITING:
        return "nothing"
    return "rest" if name in _SCATTERING else "all"


def activation_of_module(module: nn.Module) -> str | None:
    """The activation a module computes, of torch, timm, this library or another well-known one; None for other modules.

    A subclass or an object that overrides forward is not the activation it is derived from: it is treated like any
    other module, and the calls inside it are found.
    """
    if "forward" in vars(module):
        return None
    if TAG in vars(module):
        return str(vars(module)[TAG]) or None
    known = activation_of_class(type(module))
    if known is not None:
        return _refined(module, known) or None
    name = _FOREIGN_MODULES.get(type(module).__name__.lower(), "")
    return name if name and computes(module, name) else None


def activation_of_class(kind: type) -> str | None:
    """The activation that the objects of a class compute unless they are built otherwise, None if it is not known.

    A class with a forward of its own is not the activation it is derived from.
    """
    known = _known_class(kind)
    if known is None:
        return None
    parent, name = known
    same = all(inspect.getattr_static(kind, method) is inspect.getattr_static(parent, method) for method in _RUNNING)
    return name if same else None


def named_after_activation(module: nn.Module) -> bool:
    """True if a module is an activation by its mark, its class or its name, whatever it computes."""
    return (
        TAG in vars(module)
        or _known_class(type(module)) is not None
        or type(module).__name__.lower() in _FOREIGN_MODULES
    )


def _known_class(kind: type) -> tuple[type, str] | None:
    """The first class in the MRO that is an activation, with its name."""
    for parent in kind.__mro__:
        if TAG in vars(parent):
            return parent, str(vars(parent)[TAG])
        if parent in _TORCH_MODULES:
            return parent, _TORCH_MODULES[parent]
        if parent.__module__ in _TIMM_HOMES and parent.__name__ in _TIMM_MODULES:
            return parent, _TIMM_MODULES[parent.__name__]
    return None


def _refined(module: nn.Module, name: str) -> str:
    if name == "gelu":
        return "gelu_tanh" if getattr(module, "approximate", "none") == "tanh" else name
    if name == "hardtanh":
        return "relu6" if (getattr(module, "min_val", -1), getattr(module, "max_val", 1)) == (0, 6) else name
    return name
