"""Network: what is exported: a copy of a model between flat lists of tensors, its arguments, its exported program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from surgery.dataflow.flow import tensors_in
from surgery.errors import BadValue, CannotLook, DynamicShapes, NoExample, NotConvertible, cause_of, first_line
from surgery.isolation.meta_copy import copied
from surgery.look.example import Example
from surgery.model import check_plain, dtype_of, in_mode
from surgery.rng import seeded

# What torch.export says where a shape or a branch depends on the values of the input.
_DATA_DEPENDENT = ("data-dependent", "data dependent", "GuardOnDataDependent")


class Flat(nn.Module):
    """A model that takes its arguments, keywords too, as positional tensors, and returns a tuple of tensors.

    It also gives names to what it wraps: an exporter that writes code cannot have a child that is called "0".
    """

    def __init__(self, model: nn.Module, keywords: Sequence[str] = ()) -> None:
        super().__init__()
        self.model = model
        self.keywords = tuple(keywords)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        count = len(inputs) - len(self.keywords)
        return tuple(tensors_in(self.model(*inputs[:count], **dict(zip(self.keywords, inputs[count:], strict=True)))))


@dataclass(frozen=True)
class Network:
    """A model in eval mode on the CPU, and the arguments of one forward, batch first.

    `any_batch`: it is exported for every batch size; otherwise for the size of `args` alone.
    """

    model: Flat
    args: tuple[Tensor, ...]
    any_batch: bool = False

    @property
    def shapes(self) -> Any:
        """What is dynamic about its arguments, as `torch.export` wants it."""
        return (tuple({0: Dim("batch", min=1, max=4096)} for _ in self.args),) if self.any_batch else None

    @cached_property
    def program(self) -> ExportedProgram:
        """What `torch.export` makes of it, once for all who ask.

        Raises:
            DynamicShapes: its shapes or its branches depend on the values of its input.
            NotConvertible: torch.export fails for another reason.
        """
        try:
            with torch.no_grad():
                return torch.export.export(self.model, self.args, dynamic_shapes=self.shapes)
        except Exception as error:  # whatever it may raise
            raise _refusal(self.model.model, error) from error

    @cached_property
    def outputs(self) -> tuple[Tensor, ...]:
        """What torch makes of the arguments."""
        return self.run(self.args)

    def run(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The outputs of the model itself on these inputs."""
        with torch.no_grad():
            outputs: tuple[Tensor, ...] = self.model(*(tensor.clone() for tensor in inputs))
        return outputs

    def one_by_one(self) -> Network:
        """The same network for a batch of one."""
        return Network(self.model, tuple(arg[:1].clone() for arg in self.args))

    def for_any_batch(self) -> Network:
        """The same network for every batch size.

        Raises:
            DynamicShapes, NotConvertible: torch.export cannot leave the batch size open.
        """
        pair = tuple(arg if arg.shape[0] > 1 else torch.cat((arg, arg)) for arg in self.args)
        free = replace(self, args=pair, any_batch=True)
        _ = free.program
        return free

    def half(self) -> Network:
        """A copy in half precision."""
        halved = tuple(arg.half() if arg.is_floating_point() else arg for arg in self.args)
        return Network(copied(self.model).half(), halved, self.any_batch)


def network_of(model: nn.Module, example: Any = None) -> Network:
    """A model and its example as a network to export; the model itself is left alone.

    Raises:
        CannotLook: the model is wrapped, or cannot be copied.
        NoExample: there is no example, and none can be derived from the model.
        BadValue: the model is not in float32, an argument is not a tensor, or tensors differ in their batch size.
    """
    check_plain(model)
    if dtype_of(model) not in (None, torch.float32):
        raise BadValue(
            "A network is exported in float32; its target may compute in less.", asked=str(dtype_of(model)),
            try_="a copy of the model, .float()",
        )  # fmt: skip
    try:
        with seeded():
            sample = Example.of(example, model).on(torch.device("cpu"))
    except CannotLook as error:
        raise NoExample(first_line(error), try_="example=: a tensor, a tuple, or a dict") from error
    args = (*sample.args, *sample.kwargs.values())
    if not args or not all(isinstance(arg, Tensor) and arg.dim() for arg in args):
        raise BadValue(
            "A network is exported with tensors that have a batch axis.",
            asked=", ".join(type(arg).__name__ for arg in args) or "no arguments",
            try_="example= with tensors alone; bind other arguments in a module of your own",
        )
    if len({arg.shape[0] for arg in args}) > 1:
        shapes = ", ".join(str(tuple(arg.shape)) for arg in args)
        raise BadValue("The arguments differ in their batch size.", asked=shapes, try_="the batch as first axis of all")
    alone = Flat(copied(model).cpu(), tuple(sample.kwargs))
    return Network(in_mode(alone, "eval"), tuple(arg.contiguous() for arg in args))


def _refusal(model: nn.Module, error: Exception) -> DynamicShapes | NotConvertible:
    kind, text = type(model).__name__, f"{type(error).__name__} {error}"
    if any(word in text for word in _DATA_DEPENDENT):
        return DynamicShapes(
            f"The shapes or the branches of {kind} depend on the values of its input.", asked=cause_of(error),
            try_="the part of the network in front of that (features, logits), and the rest in your own code",
        )  # fmt: skip
    return NotConvertible(f"torch.export cannot export {kind}.", asked=cause_of(error))
