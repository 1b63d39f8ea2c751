"""Example: the input a model is run on to find its sites, given by the user or derived from the model."""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from surgery.errors import BadFile, CannotLook

BATCH = 2  # batch norm in training needs more than one
IMAGE_CHANNELS = 4  # the most an image usually has
# Limit over all tensors that a file describes, since they may have to be allocated. It is independent of the model: a
# network of a few convolutions runs on images of any size.
MOST_NUMBERS = 2**26
KEPT_VALUES = 1024  # largest tensor whose values are written to a file, since they may steer control flow


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """The arguments of one forward. `given` is False where they were derived from the model."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    given: bool = True

    @classmethod
    def of(cls, value: Any, model: nn.Module) -> Example:
        """A tensor is one argument, a tuple positional ones, a dict keywords, None the default of the model."""
        if isinstance(value, Example):
            return value
        if value is None:
            return cls((default_input(model),), {}, given=False)
        if isinstance(value, dict):
            return cls((), value)
        if isinstance(value, tuple):
            return cls(value, {})
        return cls((value,), {})

    def on(self, device: torch.device) -> Example:
        """The same arguments on another device; values of a default example are drawn there."""
        draw = device.type != "meta"
        args = tuple(mapped(part, lambda t: _moved(t, device, draw)) for part in self.args)
        kwargs = {key: mapped(part, lambda t: _moved(t, device, draw)) for key, part in self.kwargs.items()}
        return Example(args, kwargs, self.given)

    def to_data(self) -> dict[str, Any]:
        """Shapes, dtypes, and the values of small tensors as plain data, for a file."""
        plain = {"args": [_plain(part) for part in self.args]}
        return plain | {"kwargs": {key: _plain(part) for key, part in self.kwargs.items()}} if self.kwargs else plain

    @classmethod
    def from_data(cls, plain: dict[str, Any]) -> Example:
        """The example a saved file describes; tensors whose values were not saved are on the meta device.

        Raises:
            BadFile: it does not describe an example.
        """
        try:
            _check_size(plain)
            kwargs = {key: _unplain(part) for key, part in plain.get("kwargs", {}).items()}
            return cls(tuple(_unplain(part) for part in plain["args"]), kwargs, given=False)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, RecursionError) as error:
            raise BadFile(
                "The file describes an example that cannot be built.", asked=str(error) or type(error).__name__
            ) from error

    def __str__(self) -> str:
        shapes = Example(*mapped((self.args, self.kwargs), lambda tensor: tensor.detach().to("meta"))).to_data()
        return str(shapes["args"]) + (f" {shapes['kwargs']}" if self.kwargs else "")


def mapped(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """The same nested tuples, lists and dicts, with `change` applied to every tensor."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: mapped(part, change) for key, part in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        changed = copy.copy(value)
        for part in fields(value):
            object.__setattr__(changed, part.name, mapped(getattr(value, part.name), change))
        return changed
    if isinstance(value, tuple | list):
        parts = [mapped(part, change) for part in value]
        if hasattr(value, "_fields"):
            return type(value)(*parts)
        return type(value)(parts)
    return value


def default_input(model: nn.Module) -> Tensor:
    """A batch of two on the meta device, of the size in the model's configuration, else 224 pixels.

    The first convolution sets the channels; a model that starts with a linear layer gets rows of its width.

    Raises:
        CannotLook: the model starts with neither.
    """
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)), None)
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    settings = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None) or {}
    configured = settings.get("input_size") if isinstance(settings, dict) else settings.input_size
    if configured is None and isinstance(first, nn.Conv2d):
        configured = _configured(model, first.in_channels)
    if isinstance(first, nn.Conv2d) or configured is not None:
        # A stem that rearranges pixels feeds its first convolution more channels than the image has.
        shown = first.in_channels if isinstance(first, nn.Conv2d) else IMAGE_CHANNELS + 1
        channels = configured[0] if configured is not None and shown > IMAGE_CHANNELS else shown
        return torch.empty(BATCH, channels, *_image_size(model, configured), dtype=dtype, device="meta")
    if isinstance(first, nn.Linear):
        return torch.empty(BATCH, first.in_features, dtype=dtype, device="meta")
    raise CannotLook(
        f"{type(model).__name__} has no default input: it has neither a 2-d convolution nor a linear layer.",
        try_="pass example=: a tensor, a tuple of arguments, or a dict of keywords",
    )


def _configured(model: nn.Module, channels: int) -> tuple[int, int, int] | None:
    """Channels, height and width from the configuration of a transformers model, or from its vision part."""
    config = getattr(model, "config", None)
    for part in (config, _named(config, "vision_config")):
        size, named = _named(part, "image_size"), _named(part, "num_channels")
        sides = tuple(size) if isinstance(size, tuple | list) else (size, size)
        if len(sides) == 2 and all(type(side) is int and side > 0 for side in sides):
            return named if type(named) is int and named > 0 else channels, sides[0], sides[1]
    return None


def _named(config: Any, name: str) -> Any:
    """An entry of a configuration, which may be an object or a mapping; None if absent."""
    return config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)


def _image_size(model: nn.Module, configured: Any) -> tuple[int, int]:
    patches = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if patches is not None:
        return int(patches[0]), int(patches[1])
    if isinstance(size := getattr(model, "image_size", None), int):
        return size, size
    if configured is not None:
        return int(configured[1]), int(configured[2])
    return (299, 299) if type(model).__name__.endswith("Inception3") else (224, 224)


def _moved(value: Tensor, device: torch.device, draw: bool) -> Tensor:
    if draw and value.device.type == "meta":
        if not value.is_floating_point():
            return torch.zeros_like(value, device=device)
        return torch.randn(value.shape, dtype=torch.float32, device=device).to(value.dtype)
    return value.detach().clone().to(device)  # a forward may write into its input


def unwritten(plain: dict[str, Any]) -> list[str]:
    """The types of the values in an example, given as plain data, that a file cannot hold."""
    return [entry["other"] for entry in _inside(plain) if "other" in entry]


def _check_size(plain: dict[str, Any]) -> None:
    """Check that the tensors are small enough to allocate, before any is.

    Raises:
        BadFile: the tensors have more than `MOST_NUMBERS` elements.
    """
    count = sum(math.prod(entry["shape"]) for entry in _inside(plain) if "shape" in entry)
    if count > MOST_NUMBERS:
        raise BadFile("The file describes an example that is too large.", asked=f"{count} elements",
                      there=f"at most {MOST_NUMBERS}")  # fmt: skip


def _inside(plain: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The tables that describe the tensors, tuples and dicts of an example."""
    todo: deque[Any] = deque([*plain["args"], *plain.get("kwargs", {}).values()])
    while todo:
        item = todo.popleft()
        if isinstance(item, list):
            todo += item
        elif isinstance(item, dict):
            yield item
            todo += [*item.get("tuple", ()), *item.get("dict", {}).values()]


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        plain = {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
        return plain | {"values": _numbers(value)} if _are_kept(value) else plain
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return {"tuple": [_plain(part) for part in value]}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {key: _plain(part) for key, part in value.items()}}
    return value if isinstance(value, str | int | float | bool | None) else {"other": type(value).__name__}


def _are_kept(value: Tensor) -> bool:
    real = not value.is_meta and value.layout is torch.strided and not value.is_quantized and not value.is_complex()
    return real and value.numel() <= KEPT_VALUES


def _numbers(value: Tensor) -> str:
    """The values of a tensor in one line; reading them back is bit-exact."""
    exact = value.detach().cpu().flatten()
    exact = exact.double() if exact.is_floating_point() else exact.long()
    return " ".join(map(repr, exact.tolist()))


def _unplain(value: Any) -> Any:
    if isinstance(value, list):
        return [_unplain(part) for part in value]
    if isinstance(value, dict) and "shape" in value:
        dtype = getattr(torch, value["dtype"])
        if "values" not in value:
            return torch.empty(value["shape"], dtype=dtype, device="meta")
        read = float if dtype.is_floating_point else int
        return torch.tensor([read(word) for word in value["values"].split()], dtype=dtype).reshape(value["shape"])
    if isinstance(value, dict) and "tuple" in value:
        return tuple(_unplain(part) for part in value["tuple"])
    if isinstance(value, dict):
        return {key: _unplain(part) for key, part in value["dict"].items()}
    return value
