"""Masks: which weights of a model are unpruned."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from pruning.masks.hold import hold
from pruning.masks.host_masks import host_masks
from pruning.masks.optimizers import optimizers_in
from pruning.masks.prunable import Filter, check_read_as_it_is, owner_of, prunable, weights_of
from surgery.errors import BadFile, BadValue, WrongModel, nearest
from surgery.model import check_plain
from surgery.text import table

FORMAT = "1"

_SOME = 0.01  # fraction of zeros in a weight up to which they may be coincidence


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Masks(Mapping[str, Tensor]):
    """Name -> boolean tensor, True where the weight is unpruned. Prints as a table; values are replaced, not changed.

    `Masks.full(model)` has every prunable weight unpruned, `Masks.of(model)` treats zeros as pruned. Names are those of
    `prunable(model)`, the same for a copy of the model.
    """

    tensors: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        for name, mask in self.tensors.items():
            if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
                there = str(mask.dtype) if isinstance(mask, Tensor) else type(mask).__name__
                raise BadValue(f"The mask of {name} is not boolean.", there=there, try_="mask != 0")

    @classmethod
    def full(cls, model: nn.Module, keep: Filter | None = None) -> Masks:
        """Masks under which every prunable weight is unpruned.

        Raises:
            CannotLook, NothingPicked, BadValue: as for `prunable`.
        """
        weights = prunable(model, keep)
        return cls({name: torch.ones(own.shape, dtype=torch.bool, device=_place(own)) for name, own in weights.items()})

    @classmethod
    def of(cls, model: nn.Module, keep: Filter | None = None) -> Masks:
        """Treat zeros as pruned: the masks of a pruning library if there are any, elsewhere the nonzero weights.

        For a network that was pruned elsewhere and comes without masks. A layer that is merely initialised with zeros
        counts as pruned here, and would never learn.

        Raises:
            CannotLook, NothingPicked, BadValue: as for `prunable`; or the model is on the meta device, without values.
        """
        found = {}
        weights, hosts = prunable(model, keep), host_masks(model)
        for name, param in weights.items():
            shown = hosts.get(name, param).detach()
            if shown.is_meta:
                raise BadValue(f"{name} has no values yet, so its zeros are unknown.",
                               asked="a weight on the meta device", try_="Masks.full(model)")  # fmt: skip
            found[name] = shown != 0
        return cls(found)

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    @property
    def size(self) -> int:
        """The number of weights, pruned or not."""
        return sum(mask.numel() for mask in self.values())

    @property
    def alive(self) -> int:
        """The number of unpruned weights."""
        return sum(int(mask.sum()) for mask in self.values())

    @property
    def share(self) -> float:
        """The density, the fraction of unpruned weights."""
        return self.alive / max(self.size, 1)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Mapping)
            and list(self) == list(other)
            and all(
                isinstance(other[name], Tensor) and torch.equal(mask, other[name].to(mask.device))
                for name, mask in self.items()
            )
        )

    __hash__ = None  # type: ignore[assignment]

    def __and__(self, other: Mapping[str, Tensor]) -> Masks:
        """The intersection: a weight is unpruned if it is in both; a missing name counts as unpruned."""
        other = other if isinstance(other, Masks) else Masks(other)
        shared = {name: other[name] for name in self if name in other}
        for name, mask in shared.items():
            if mask.shape != self[name].shape:
                raise BadValue(
                    f"Two masks of {name} differ in shape.", asked=f"{tuple(self[name].shape)} and {tuple(mask.shape)}"
                )
        both = {name: mask & shared[name].to(mask.device) if name in shared else mask for name, mask in self.items()}
        return Masks(both | {name: mask for name, mask in other.items() if name not in self})

    def beside(self, weights: Mapping[str, Tensor]) -> Masks:
        """The same masks, each on the device of the weight of its name."""
        return Masks({name: mask.to(weights[name].device) for name, mask in self.items()})

    @torch.no_grad()
    def lay_over(self, model: nn.Module) -> None:
        """Set every pruned weight to zero, in place. Masks of a pruning library are unchanged: see `hosts.commit`.

        Raises:
            WrongModel: a mask has a name that the model does not have, or another shape. Nothing has changed.
        """
        for param, mask in self.pairs(model):
            param.masked_fill_(~mask.to(param.device), 0)

    def held(
        self, model: nn.Module, optimizer: Optimizer | Iterable[Optimizer], also: Iterable[nn.Module] = ()
    ) -> AbstractContextManager[None]:
        """Inside, pruned weights are zero after every step of the optimiser (0.0 or -0.0).

        They are set to zero on entry, in the model and in those given as `also` (EMA copies), together with their
        optimiser state (momentum, moments); it may be one optimiser or several, and wrappers of them (Accelerate,
        Lookahead, schedule-free ones, whose copies of the weights are masked, too). Enter it before the first step,
        with the plain model even if a compiled or distributed wrapper of it is trained, and again after the model was
        moved or pruned structurally. Gradients are not masked: clipping by norm includes pruned weights.

        Raises:
            WrongModel: the masks belong to another model. Nothing has changed.
            BadValue: on entry, no optimiser has any of these weights, it is not an optimiser, or its steps cannot be
                followed; on exit, pruned weights are nonzero, because something else changed them.
        """
        optimizers, copies = optimizers_in(optimizer), [pair for copied in also for pair in self.pairs(copied)]
        return self._held(model, hold(self.pairs(model), optimizers, copies))

    @contextmanager
    def _held(self, model: nn.Module, holding: AbstractContextManager[None]) -> Iterator[None]:
        with holding:
            yield
            self.check_zero(model)

    def check_zero(self, model: nn.Module) -> None:
        """Check that all pruned weights of a model are zero.

        Raises:
            WrongModel: the masks belong to another model.
            BadValue: pruned weights are nonzero.
        """
        back = {name: _moved(param, mask) for name, (param, mask) in zip(self, self.pairs(model), strict=True)}
        if any(back.values()):
            raise BadValue(
                "Pruned weights are not zero any more.",
                asked=f"{sum(back.values())} nonzero, the first in {next(name for name in back if back[name])}",
                try_="with held(optimizer): around all steps, of all optimisers",
            )  # fmt: skip

    def pairs(self, model: nn.Module) -> list[tuple[nn.Parameter, Tensor]]:
        """Each weight of the model with its mask.

        Raises:
            WrongModel: the masks belong to another model.
            BadValue: a layer does not use such a weight directly, see `prunable`.
        """
        check_plain(model)
        found = weights_of(model)
        for name, mask in self.items():
            if name not in found or found[name].shape != mask.shape:
                there = f"{name} {tuple(found[name].shape)}" if name in found else ", ".join(list(found)[:3]) + ", ..."
                raise WrongModel(
                    f"The masks belong to another model: {name} {tuple(mask.shape)}.", there=there,
                    try_=nearest(name, found) if name not in found else "the masks of this model",
                )  # fmt: skip
            check_read_as_it_is(name, *owner_of(model, name))
        return [(found[name], mask) for name, mask in self.items()]

    def save(self, path: str | Path) -> None:
        """Write the masks to a safetensors file, one bit per weight."""
        packed = {name: torch.from_numpy(numpy.packbits(mask.cpu().numpy().reshape(-1))) for name, mask in self.items()}
        shapes = {name: list(mask.shape) for name, mask in self.items()}
        save_file(packed, path, {"kind": "masks", "format": FORMAT, "shapes": json.dumps(shapes)})

    @classmethod
    def load(cls, path: str | Path) -> Masks:
        """Read masks from a file that `save` wrote.

        Raises:
            BadFile: it is not such a file, or damaged.
        """
        try:
            with safe_open(path, framework="pt") as file:
                head = file.metadata() or {}
                packed = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if (head.get("kind"), head.get("format")) != ("masks", FORMAT):
                raise BadFile(f"{path} does not contain masks.", asked=str(head), try_="a file that Masks.save wrote")
            shapes: dict[str, list[int]] = json.loads(head["shapes"])
            if set(shapes) != set(packed):
                raise ValueError("other names in the head than in the body")
            return cls({name: _unpacked(packed[name], shape) for name, shape in shapes.items()})
        except (SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise BadFile(f"{path} cannot be read as masks.", asked=f"{type(error).__name__}: {error}") from error

    def __repr__(self) -> str:
        return f"<Masks: {self.alive} of {self.size} weights unpruned in {len(self)} tensors>"

    def __str__(self) -> str:
        rows = [
            (name, "x".join(map(str, mask.shape)), str(alive := int(mask.sum())), f"{alive / max(mask.numel(), 1):.1%}")
            for name, mask in self.items()
        ]
        lines = table(("weight", "shape", "unpruned", "density"), rows) if rows else []
        return "\n".join([*lines, f"{self.alive} of {self.size} weights unpruned (density {self.share:.2%})"])


def masks_in_force(model: nn.Module, keep: Filter | None = None) -> Masks:
    """The masks of a pruning library where it has any; every other prunable weight is unpruned, even if it is zero.

    Raises:
        CannotLook, NothingPicked, BadValue: as `prunable`.
    """
    hosts = host_masks(model)
    return Masks({name: hosts[name].detach() != 0 if name in hosts else mask
                  for name, mask in Masks.full(model, keep).items()})  # fmt: skip


def warn_of_zeros(model: nn.Module, masks: Masks, stacklevel: int) -> None:
    """Warn about weights that will learn although they look pruned: zeros among nonzero values.

    A weight of zeros alone counts as initialised that way.
    """
    for name, (param, mask) in zip(masks, masks.pairs(model), strict=True):
        unpruned = mask.to(param.device)
        zeros, count = int(((param == 0) & unpruned).sum()), int(unpruned.sum())
        if _SOME * count < zeros < count:
            warnings.warn(
                f"{zeros} of {count} unpruned weights of {name} are zero, and will learn: if they were pruned, pass"
                " their masks, or masks=Masks.of(model).", stacklevel=stacklevel + 1,
            )  # fmt: skip
            return


@torch.no_grad()
def _moved(param: Tensor, mask: Tensor) -> int:
    """The number of pruned weights that are nonzero; NaN is ignored, since its origin is unknown."""
    pruned = param[~mask.to(param.device)]
    return int(((pruned != 0) & ~pruned.isnan()).sum())


def _place(weight: Tensor) -> torch.device:
    """The device of the mask of a weight: that of the weight, but never meta."""
    return torch.device("cpu") if weight.is_meta else weight.device


def _unpacked(packed: Tensor, shape: list[int]) -> Tensor:
    count = math.prod(shape)
    if packed.dim() != 1 or len(packed) != -(-count // 8):
        raise ValueError(f"{packed.numel()} bytes for {shape}")
    return torch.from_numpy(numpy.unpackbits(packed.numpy(), count=count).astype(bool).reshape(shape))
