"""Rates: which units of a network are never active, because their weights were pruned or because they died."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pruning.dead.incoming_weights import static_units, unpruned_weights
from pruning.dead.measure import Measured, Role, check_settings, measure
from pruning.dead.tally import Tally
from surgery.errors import SurgeryError
from surgery.look.site import Site
from surgery.model import check_plain
from surgery.text import drawn_by, html_table, table

_COLUMNS = (
    "site", "block", "activation", "channels", "dead (static)", "dead (dynamic)", "silent", "elements",
    "dead elements (dynamic)", "silent elements", "zeros",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class DeadRow:
    """One activation call: how many of its units are dead, by channel and by element.

    A channel counts if it is dead at every position. `static` units have only pruned incoming weights, whatever they
    output; the outputs of `silent` ones never exceed the threshold; `dynamic` ones are silent and not static. Elements
    are pairs of channel and position, None where they are not defined (see `dead_neurons`). `zeros` is the fraction of
    the `outputs` values at or below the threshold.
    """

    site: str
    block: str | None
    activation: str
    channels: int
    static: int
    dynamic: int
    silent: int
    elements: int | None
    static_elements: int | None
    dynamic_elements: int | None
    silent_elements: int | None
    zeros: float
    outputs: int


@dataclass(frozen=True, slots=True, repr=False)
class DeadNeurons:
    """How many units of a network are dead, call by call and over all. Prints as a table.

    The fractions are of all channels, or elements, of all calls together. `unreached` are calls that never happened.
    """

    rows: tuple[DeadRow, ...]
    threshold: float
    samples: int
    model_kind: str
    mode: str = "eval"
    unreached: tuple[str, ...] = ()

    @property
    def channels(self) -> int:
        """The number of channels of all calls."""
        return sum(row.channels for row in self.rows)

    @property
    def static_share(self) -> float:
        """The fraction of channels whose incoming weights are all pruned."""
        return sum(row.static for row in self.rows) / max(self.channels, 1)

    @property
    def dynamic_share(self) -> float:
        """The fraction of channels that are silent although they have unpruned weights."""
        return sum(row.dynamic for row in self.rows) / max(self.channels, 1)

    @property
    def silent_share(self) -> float:
        """The fraction of channels that are silent, for whatever reason."""
        return sum(row.silent for row in self.rows) / max(self.channels, 1)

    @property
    def elements(self) -> int:
        """The number of elements of the calls where they are defined."""
        return sum(row.elements or 0 for row in self.rows)

    @property
    def dynamic_element_share(self) -> float:
        """The fraction of elements that are silent and do not belong to a static channel."""
        return sum(row.dynamic_elements or 0 for row in self.rows) / max(self.elements, 1)

    @property
    def silent_element_share(self) -> float:
        """The fraction of elements that are silent, for whatever reason."""
        return sum(row.silent_elements or 0 for row in self.rows) / max(self.elements, 1)

    @property
    def zeros(self) -> float:
        """The fraction of all outputs at or below the threshold."""
        return sum(row.zeros * row.outputs for row in self.rows) / max(sum(row.outputs for row in self.rows), 1)

    def to_json(self) -> str:
        """Rows and totals as one JSON object."""
        names = ("static_share", "dynamic_share", "silent_share", "dynamic_element_share", "silent_element_share")
        totals = {name: getattr(self, name) for name in ("channels", "elements", *names, "zeros")}
        return json.dumps(asdict(self) | {"totals": totals}, indent=1)

    def site_values(self) -> tuple[str, dict[str, float]]:
        """The fraction of dynamically dead channels at each call, which `surgery.draw` shows as bars."""
        return "fraction of dynamically dead channels", {row.site: row.dynamic / row.channels for row in self.rows}

    def plot(self, path: str | Path) -> None:
        """Plot the fractions over depth into a file (PNG, PDF or SVG, by its suffix). Needs the extra `plot`.

        Raises:
            SurgeryError: matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise SurgeryError(
                "Plotting needs matplotlib, which is not installed.",
                try_='pip install "activation-surgery[plot]"',
            ) from error
        figure = Figure(figsize=(max(6.0, 0.3 * len(self.rows)), 4.5), layout="constrained")
        axes = figure.subplots()
        depth = range(1, len(self.rows) + 1)
        for name in ("static", "dynamic"):
            axes.plot(depth, [getattr(row, name) / row.channels for row in self.rows], marker="o", label=name)
        axes.plot(depth, [row.zeros for row in self.rows], linestyle=":", color="grey", label="zeros")
        axes.set_xticks(list(depth), [row.site for row in self.rows], rotation=90, fontsize=7)
        axes.set_ylim(-0.02, 1.02)
        axes.set_ylabel("share")
        axes.set_title(f"Dead channels of {self.model_kind}, {self.samples} samples")
        axes.legend()
        figure.savefig(str(path))

    def __repr__(self) -> str:
        return f"<DeadNeurons: {self._totals()}>"

    def __str__(self) -> str:
        rows = table(_COLUMNS, self._cells()) if self.rows else []
        return "\n".join([*rows, *self._notes()])

    def _repr_html_(self) -> str:
        return html_table(_COLUMNS, self._cells(), below=[*self._notes(), drawn_by("model", "values=rates")])

    def _cells(self) -> list[tuple[str, ...]]:
        return [
            (row.site, row.block or "-", row.activation, *(str(n) for n in (row.channels, row.static, row.dynamic,
             row.silent)), *("-" if n is None else str(n) for n in (row.elements, row.dynamic_elements,
             row.silent_elements)), f"{row.zeros:.1%}")
            for row in self.rows
        ]  # fmt: skip

    def _totals(self) -> str:
        parts = [f"{self.dynamic_share:.2%} dynamically", f"{self.static_share:.2%} statically dead"]
        parts += [f"{self.silent_share:.2%} silent", f"{self.dynamic_element_share:.2%} of elements dynamically dead"]
        return f"{self.channels} channels of {self.model_kind} in {self.mode} mode: {', '.join(parts)}"

    def _notes(self) -> list[str]:
        silent = (
            f"silent: never above {self.threshold:g} on {self.samples} samples; so are {self.zeros:.1%} of all outputs"
        )
        unreached = [f"not reached: {', '.join(self.unreached)}"] if self.unreached else []
        return [self._totals(), silent, *unreached]


def dead_neurons(
    model: nn.Module,
    batches: Iterable[Any],
    masks: Mapping[str, Tensor] | None = None,
    *,
    threshold: float = 0.0,
    role: Role = "nonlinearity",
) -> DeadNeurons:
    """Count the units that are never active on these batches, for every activation call of a role, in eval mode.

    A unit is *silent* if its output never exceeds `threshold` on the given inputs: for a channel at any position, for
    an element (channel and position) on any sample. For ReLU with threshold 0 this means that its output is always
    zero. GELU, SiLU, leaky ReLU and others are nonzero below zero: for them it means that the input is never positive.
    A sigmoid or a softplus is never silent at 0.

    A unit is *static* if it has incoming weights and all of them are pruned, whatever its output: behind a batch norm,
    a bias or a shortcut, such a unit may be active. Both numbers are therefore given. *Dynamic* units are silent and
    not static. Incoming weights are those of `Site.weights` that have an output for each channel; without any (as
    behind a concat) no unit is static. Weights are pruned according to `masks`, else to the masks of a pruning
    library; otherwise none is, even in a layer initialised with zeros. Pass `masks=Masks.of(model)` to treat zeros as
    pruned.

    Erased calls are not sites, and do not count. Tokens (N, T, C) have their channels on the site's channel axis, the
    last. Elements are counted if the first axis is the batch and all batches have the same positions.
    `batches` are tensors (N, ...), pairs (images, labels) or dicts with an "image"; they are read once. Memory is
    that of one sample, whatever their number. The model is unchanged afterwards. With torch.distributed, every
    process must call this, and each gets the numbers over the batches of all.

    Source: the dynamic dead-neuron rate of Liu et al., "AP: Selective Activation for De-sparsifying Pruned Networks".

    Raises:
        CannotLook: the model is wrapped or scripted, or cannot be copied.
        NothingPicked: it does not have activation calls of this role in eval mode.
        BadValue: the batches are empty, or one fails in the model; an output is NaN; an invalid threshold; `masks`
            that are not boolean tensors by name.
        WrongModel: the masks belong to another model.
    """
    check_plain(model)
    check_settings(threshold, role)
    unpruned = unpruned_weights(model, masks)
    return dead_of(model, measure(model, batches, threshold, role), unpruned, threshold=threshold, mode="eval")


def dead_of(
    model: nn.Module, measured: Measured, unpruned: Mapping[str, Tensor], *, threshold: float, mode: str
) -> DeadNeurons:
    """The rates, from the measurements and the unpruned weights."""
    rows = tuple(_row(site, tally, threshold, static_units(model, site, len(tally.channels), unpruned))
                 for site, tally in measured.seen)  # fmt: skip
    return DeadNeurons(rows, threshold, measured.samples, type(model).__name__, mode, measured.unreached)


def _row(site: Site, tally: Tally, threshold: float, static: Tensor) -> DeadRow:
    silent = tally.channels <= threshold
    static = static.to(silent.device)
    elements = static_elements = dynamic_elements = silent_elements = None
    if tally.elements is not None:
        quiet = tally.elements <= threshold
        wide = [1] * quiet.dim()
        wide[max(site.channel_axis - 1, 0)] = -1  # a sample has no batch axis
        pruned = static.view(wide).expand_as(quiet)
        elements, silent_elements = quiet.numel(), int(quiet.sum())
        static_elements, dynamic_elements = int(pruned.sum()), int((quiet & ~pruned).sum())
    return DeadRow(
        site=str(site),
        block=site.block,
        activation=site.activation,
        channels=len(silent),
        static=int(static.sum()),
        dynamic=int((silent & ~static).sum()),
        silent=int(silent.sum()),
        elements=elements,
        static_elements=static_elements,
        dynamic_elements=dynamic_elements,
        silent_elements=silent_elements,
        zeros=int(tally.below) / max(tally.outputs, 1),
        outputs=tally.outputs,
    )
