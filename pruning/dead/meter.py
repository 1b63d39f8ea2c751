"""Meter: measure dead neurons during training, on every n-th forward."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from threading import get_ident
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from pruning.dead.incoming_weights import unpruned_weights
from pruning.dead.measure import Measured, Role, Sums, check_settings, layers_with, means_of, sites_of, with_inputs
from pruning.dead.rates import DeadNeurons, dead_of
from pruning.dead.tally import Tally, tallying
from pruning.masks.prunable import weights_of
from surgery.dataflow.flow import tensors_in
from surgery.errors import BadValue
from surgery.look.example import Example
from surgery.look.observe import Key, observing
from surgery.look.site import Site
from surgery.model import check_plain


class DeadNeuronMeter:
    """Measure dead neurons during training: `with DeadNeuronMeter(model, every=50) as meter:` around your own loop.

    It observes the first forward in train mode, and every `every`-th after it; the others cost nothing. Measurements
    accumulate until `meter.reset()`, and `meter.rates()` returns the same numbers as `dead_neurons`: a unit is silent
    if it was never active on any observed sample, although the weights changed meanwhile. Before the first observation
    the calls of the model are found, once. Neither the model nor its training changes, and all hooks are removed at the
    end. Forwards of a copy of the model that is made inside (an average of the weights) do not count, nor do those that
    start in another thread while one is being observed. With `inputs=True` the mean inputs of the layers are measured,
    too, for AP by the units that were dead in training: `with_ap(..., by="dead", meter=meter)`.

    Pass the plain model, even if a distributed wrapper of it is trained. A compiled forward cannot be observed, and is
    not counted.

    Raises:
        CannotLook: the model is wrapped or scripted.
        BadValue: `every` is not a positive integer, another argument is out of range, or the meter is entered twice.
    """

    def __init__(
        self,
        model: nn.Module,
        every: int = 50,
        *,
        threshold: float = 0.0,
        role: Role = "nonlinearity",
        inputs: bool = False,
    ) -> None:
        check_plain(model)
        check_settings(threshold, role)
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise BadValue("`every` must be a positive number of forwards.", asked=f"every={every!r}", try_="50")
        self.model, self.every, self.threshold, self.role = model, every, threshold, role
        self.layers = layers_with(model, weights_of(model)) if inputs else {}
        self._forwards = 0  # in train mode, so far
        self._depth = 0  # a forward may call its model recursively
        self._thread = 0  # the thread of the observed forward
        self._looking = ExitStack()
        self._hooks: list[Any] = []
        self._sites: dict[Key, Site] = {}
        self._leading: set[Key] = set()
        self.reset()

    def __repr__(self) -> str:
        name = type(self.model).__name__
        return f"<DeadNeuronMeter of {name}: every={self.every}, {self._samples} samples since the last reset>"

    def reset(self) -> None:
        """Drop the measurements; the count of forwards continues."""
        self._tallies: dict[Key, Tally] = {}
        self._sums: Sums = {}
        self._samples = 0

    def rates(self, masks: Mapping[str, Tensor] | None = None) -> DeadNeurons:
        """The rates since the last reset; which weights are pruned is read now, see `dead_neurons`.

        With torch.distributed, every process must call this, and each gets the rates over all.

        Raises:
            BadValue: no forward was observed since the last reset, or an output was NaN; `masks` that are not boolean
                tensors by name.
            WrongModel: the masks belong to another model.
        """
        unpruned = unpruned_weights(self.model, masks)
        return dead_of(self.model, self.measured(), unpruned, threshold=self.threshold, mode="train")

    def measured(self) -> Measured:
        """The measurements since the last reset, over all processes; `Raises:` as in `rates`."""
        failure = None
        if not self._tallies:
            failure = BadValue(
                "No forward was observed yet.", asked=f"{self._forwards} forwards in train mode, every={self.every}",
                try_="model.train(), and steps inside the meter's `with`",
            )  # fmt: skip
        measured = Measured.of(self._sites.values(), self._tallies, self._samples, failure)
        return replace(measured, inputs=means_of(self.model, self.layers, self._sums)) if self.layers else measured

    def __enter__(self) -> Self:
        if self._hooks:
            raise BadValue(
                "This meter is already measuring.", asked="a nested `with` on the same meter",
                try_="one `with` around the whole loop, or a second DeadNeuronMeter",
            )  # fmt: skip

        # A copy of the model shares these hooks: as plain functions they are not copied, and check which model runs.
        def begin(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if model is self.model:
                self._begin(args, kwargs)

        def end(model: nn.Module, args: Any, result: Any) -> None:
            if model is self.model:
                self._end()

        self._hooks = [
            self.model.register_forward_pre_hook(begin, with_kwargs=True),
            self.model.register_forward_hook(end, always_call=True),
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._looking.close()
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._depth = [], 0

    def _begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.compiler.is_compiling() or not self.model.training:
            return
        if self._depth and self._thread != get_ident():
            return
        self._depth, self._thread = self._depth + 1, get_ident()
        if self._depth > 1:
            return
        self._forwards += 1
        if (self._forwards - 1) % self.every:
            return
        first = next(tensors_in((args, kwargs)), None)
        samples = 0 if first is None or first.dim() == 0 else len(first)
        if not self._sites:
            self._sites, self._leading = sites_of(self.model, Example(args, kwargs), samples, self.role, "train")
        self._samples += samples
        look = tallying(self._tallies, self._sites, self._leading, samples, self.threshold)
        self._looking.enter_context(with_inputs(observing(self.model, look), self.layers, self._sums))

    def _end(self) -> None:
        if self._depth and self._thread == get_ident() and not torch.compiler.is_compiling():
            self._depth -= 1
            if not self._depth:
                self._looking.close()
