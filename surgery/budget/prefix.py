"""Prefix: the part of a network in front of an edit, which is computed once for all edits behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from surgery.edit.write import replace_children
from surgery.model import in_eval, parents_of
from surgery.repair.batches import FAILURES

MOST_BYTES = 1 << 30  # that may be kept of what enters a module, for all images together
_TRIED = 2  # images on which a prefix is proved


class _Nothing(nn.Module):
    """What stands for a module whose result is not needed: NaN of its shape, and the attributes of the module."""

    def __init__(self, module: nn.Module, shape: tuple[int, ...] | None) -> None:
        super().__init__()
        self.shape, self.original = shape, (module,)  # in a tuple, so that it is no child

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.original[0], name)

    def forward(self, input: Any = None, *_: Any, **__: Any) -> Any:
        """Return NaN (N, *shape), or the first argument if the shape is unknown."""
        if self.shape is None or not isinstance(input, Tensor):
            return input
        return torch.full((len(input), *self.shape), torch.nan, dtype=input.dtype, device=input.device)


class _Reached(Exception):
    """A forward got to the module that it was to get to."""


@dataclass(frozen=True, slots=True)
class Calls:
    """When modules are called in one forward: the first start and the last end of each, by path, as event numbers.

    `shapes` are those of the tensors they return, without the batch.
    """

    starts: dict[str, int]
    ends: dict[str, int]
    shapes: dict[str, tuple[int, ...]]

    @classmethod
    def of(cls, network: nn.Module, images: Tensor) -> Calls:
        """The calls of a forward in eval mode."""
        starts: dict[str, int] = {}
        ends: dict[str, int] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        number = count()

        def begin(path: str) -> None:
            starts.setdefault(path, next(number))

        def end(path: str, result: Any) -> None:
            ends[path] = next(number)
            if isinstance(result, Tensor) and result.shape[:1] == images.shape[:1]:
                shapes[path] = tuple(result.shape[1:])

        with in_eval(network), _hooked(network, begin, end):
            network(images.clone())
        return cls(starts, ends, shapes)

    def finished_before(self, path: str) -> list[str]:
        """The outermost modules all of whose calls end before the module at `path` is called first."""
        start = self.starts[path]
        over = {name: end for name, end in self.ends.items() if name and end < start}
        return [name for name in over if not any(around in over for around in parents_of(name))]


class Prefix:
    """Runs a network on images from one of its modules on, which the data reach in one tensor, else from the start.

    `cuts` are the paths of modules where the network may be entered. That all behind such a module depends on its input
    alone is proved: everything else is NaN, and the outputs stay bit-equal.
    """

    def __init__(self, network: nn.Module, images: Sequence[Tensor], cuts: Iterable[str]) -> None:
        self.network, self.images = network, list(images)
        self.calls = Calls.of(network, self.images[0][:_TRIED])
        known = [path for path in dict.fromkeys(cuts) if path in self.calls.starts]
        self.cuts = sorted(known, key=self.calls.starts.__getitem__)
        self.at: str | None = None
        self._entered: list[Tensor] = []
        self._passed: dict[str, nn.Module] = {}
        self._exact: dict[str, bool] = {}  # cuts that were tried

    def cut_for(self, path: str) -> str | None:
        """The last cut that is entered no later than the module at `path` is called; None from the start."""
        start = self.calls.starts.get(path)
        before = [cut for cut in self.cuts if start is not None and self.calls.starts[cut] <= start]
        return before[-1] if before else None

    def move_to(self, cut: str | None) -> None:
        """Enter the network at this cut from now on, which the network as it is set must reach unedited.

        Where that is not exact, or takes too much memory, the network is entered where it was before.
        """
        if cut == self.at:
            return
        if cut is None or (self.at is not None and self.calls.starts[cut] < self.calls.starts[self.at]):
            self.close()
        if cut is not None:
            self._try(cut)

    def outputs(self) -> Iterator[Tensor]:
        """The outputs for all batches, in eval mode."""
        return (self._output(number) for number in range(len(self.images)))

    def close(self) -> None:
        """Put the modules in front back, and forget what entered."""
        for path in sorted(self._passed, key=lambda path: path.count(".")):  # what is around a module before it
            replace_children(self.network, {path: self._passed[path]})
        self.at, self._entered, self._passed = None, [], {}

    def _try(self, cut: str) -> None:
        if not self._exact.get(cut, True):
            return
        first = self._entering(cut, 0)
        rows = sum(map(len, self.images))
        if first is None or first.numel() * first.element_size() * rows > MOST_BYTES * len(self.images[0]):
            self._exact[cut] = False
            return
        entered = [first, *(self._entering(cut, number) for number in range(1, len(self.images)))]
        passed = {path: self.network.get_submodule(path) for path in self._ahead_of(cut)}
        before = None if cut in self._exact else self._output(0)
        replace_children(
            self.network, {path: _Nothing(module, self.calls.shapes.get(path)) for path, module in passed.items()}
        )
        at, self.at, known, self._entered = self.at, cut, self._entered, [part for part in entered if part is not None]
        if before is not None:
            self._exact[cut] = self._gives(before)
        if self._exact[cut]:
            self._passed |= passed
        else:
            replace_children(self.network, passed)
            self.at, self._entered = at, known

    def _ahead_of(self, cut: str) -> list[str]:
        """The modules in front of a cut that are not passed already."""
        gone = [*self._passed]
        ahead = self.calls.finished_before(cut)
        return [path for path in ahead if path not in gone and not any(around in gone for around in parents_of(path))]

    def _gives(self, before: Tensor) -> bool:
        """Whether the outputs for the first batch are these."""
        try:
            return torch.equal(self._output(0), before)
        except FAILURES:
            return False

    def _entering(self, cut: str, number: int) -> Tensor | None:
        """What enters the module at a cut with a batch; None if that is not one tensor alone."""
        found: list[Tensor] = []

        def reached(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if len(args) == 1 and isinstance(args[0], Tensor) and not kwargs:
                found.append(args[0].clone())
            raise _Reached

        handle = self.network.get_submodule(cut).register_forward_pre_hook(reached, with_kwargs=True)
        try:
            self._output(number)
        except _Reached:
            pass
        finally:
            handle.remove()
        return found[0] if found else None

    def _output(self, number: int) -> Tensor:
        """The output for a batch, from where the network is entered."""
        images = self.images[number]
        with in_eval(self.network):
            if self.at is None:
                whole: Tensor = self.network(images.clone())
                return whole
            entering = self._entered[number].clone()
            handle = self.network.get_submodule(self.at).register_forward_pre_hook(lambda *_: (entering,))
            try:
                rest: Tensor = self.network(torch.full_like(images, torch.nan))
                return rest
            finally:
                handle.remove()


@contextmanager
def _hooked(network: nn.Module, begin: Callable[[str], None], end: Callable[[str, Any], None]) -> Iterator[None]:
    """Inside, `begin` and `end` are called with the path of each module that is called."""
    handles = []
    for path, module in network.named_modules():
        handles.append(module.register_forward_pre_hook(lambda *_, path=path: begin(path)))
        handles.append(module.register_forward_hook(lambda *seen, path=path: end(path, seen[-1])))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
