"""PWLU: a piecewise linear function whose heights, bounds and outer slopes are learned."""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.fx import wrap

from surgery.activations.dispatch import apply, is_traced, taken_apart
from surgery.activations.exported import behind
from surgery.activations.functions.piecewise import (
    FLOOR,
    WIDE,
    apart,
    best_lines,
    bounds_for,
    snapped,
    sum_of_clips,
    tables,
)
from surgery.activations.functions.piecewise import PWLU as FUNCTION
from surgery.activations.functions.simple import QuickGELU, SquaredReLU
from surgery.activations.input_stats import Elementwise, InputStats
from surgery.activations.recompute import said
from surgery.errors import BadValue, UnknownName, nearest
from surgery.processes import processes

MOST_INTERVALS = 512  # the cost of a fit grows with the cube of this
KEPT = 0.9  # decay of the running statistics per batch

# Functions without parameters that can be given by name.
LIKE: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU, "relu6": nn.ReLU6, "leaky_relu": nn.LeakyReLU, "elu": nn.ELU, "selu": nn.SELU, "celu": nn.CELU,
    "gelu": nn.GELU, "gelu_tanh": partial(nn.GELU, approximate="tanh"), "quick_gelu": QuickGELU, "silu": nn.SiLU,
    "mish": nn.Mish, "hardswish": nn.Hardswish, "hardtanh": nn.Hardtanh, "softplus": nn.Softplus,
    "squared_relu": SquaredReLU, "sigmoid": nn.Sigmoid, "hardsigmoid": nn.Hardsigmoid, "tanh": nn.Tanh,
}  # fmt: skip


@wrap  # symbolic traces keep it as one call
def pwlu(x: Tensor, axis: int, intervals: int, *params: Tensor, recompute: bool = False) -> Tensor:
    """A piecewise linear function of x, whose channels are on `axis`."""
    check_rows("heights", params[0], intervals + 1)
    return apply(FUNCTION, x, axis, *params, recompute=recompute)


class PWLU(nn.Module):
    """A piecewise linear function on equal intervals, learned per channel or shared by all (channels=1).

    `heights` (N + 1, C) are its values at the knots from `left` to `right` (C,), -3 to 3 without a `bound`, and
    `low_slope` and `high_slope` (C,) its slopes beyond them. It is initialised as the function `like`: a name, a module
    that computes it (copied and frozen), or None for ReLU; `snap` keeps a knot at zero, so that ReLU is exact, and for
    a clipped ReLU such as ReLU6 one at its cap.

    `warmup` is a fraction of the training. Until then the module computes `like` (or, with None, its own initial
    function), its parameters have no gradient at all, and each training batch moves `running_mean` and
    `running_deviation` by a tenth (the first ten count equally); under DDP they are averaged over all processes,
    and the model needs `find_unused_parameters=True`. The first `set_progress` that reaches it sets the bounds three
    standard deviations from the mean and refits the function, in the same Parameters. At 0 it learns from the first
    step. The phase is not part of the state dict: after loading, call `set_progress` again.

    Torch-Pruning resizes the parameters with the channels. It would cut shared ones along the knots: put `heights`
    into its `ignored_layers` then.

    Source: Zhou, Zhu and Zhong 2021, "Learning specialized activation functions with the piecewise linear unit",
    arXiv 2104.03693: the definition, 16 intervals, statistic-based realignment. Ours: the snapped knot, and fitting
    where the paper takes the heights of ReLU at the knots.

    Raises:
        BadValue: fewer than one interval or channel, a bound not above 0, a warm-up outside [0, 1).
        UnknownName: `like` is not the name of a function without parameters.
    """

    __jit_unused_properties__ = ("gradual", "_inner")
    __constants__ = ("recompute",)
    recompute = False  # see `surgery.swap`
    running_mean: Tensor
    running_deviation: Tensor
    gathered: Tensor

    def __init__(
        self,
        channels: int = 1,
        intervals: int = 16,
        bound: float | None = None,
        *,
        warmup: float = 0.0,
        snap: bool = True,
        like: str | nn.Module | None = "relu",
        axis: int = 1,
    ) -> None:
        super().__init__()
        check(channels, intervals, bound)
        self.bound = bound
        if not 0 <= warmup < 1:
            raise BadValue(
                "`warmup` must be a fraction of the training.", asked=f"warmup={warmup!r}", try_="0 to below 1"
            )
        self.heights = nn.Parameter(torch.zeros(intervals + 1, channels))
        self.left, self.right, self.low_slope, self.high_slope = (nn.Parameter(torch.zeros(channels)) for _ in range(4))
        self.intervals = intervals
        self.warmup = warmup
        self.snap = snap
        self.axis = axis
        self.gathering = warmup > 0
        self.told = False  # until then, eval mode uses the parameters, which may come from a file
        first = _module_like(like)
        self.like = first if warmup > 0 and like is not None else None
        if warmup > 0:
            self.register_buffer("running_mean", torch.zeros(channels))
            self.register_buffer("running_deviation", torch.ones(channels))
            self.register_buffer("gathered", torch.zeros((), dtype=torch.long))
        function = _rows_of(first, self.heights, self._inner)
        low, high = around_zero(function, bound, channels, intervals, snap, self.left.dtype)
        self._become(function, low, high, (low, high))

    @property
    def gradual(self) -> bool:
        """Whether `set_progress` changes anything."""
        return self.warmup > 0

    @torch.no_grad()
    def set_progress(self, progress: float, step: int = 0) -> None:
        """Warm up below `warmup`, and learn from there on; the gathered statistics are used once, at its end."""
        self.told = True
        before, self.gathering = self.gathering, progress < self.warmup
        if self.gathering:
            for param in self.parameters():
                param.grad = None
        elif before and self.warmup and int(self.gathered) > 0:
            self._realign()
            self.gathered.zero_()

    def finish(self) -> None:
        """End the warm-up, and drop its statistics and its function."""
        if self.warmup:
            self.warmup, self.gathering, self.like = 0.0, False, None
            del self.running_mean, self.running_deviation, self.gathered

    @torch.no_grad()
    def start_as(self, function: Elementwise, stats: InputStats) -> None:
        """Fit `function` as closely as possible, with bounds three standard deviations from the mean in `stats`.

        A `bound` given by the user stays. Beyond the bounds, the outer slopes are fitted over the observed range.
        """
        rows = len(stats.mean)
        if self.heights.shape[1] == 1 and rows > 1:
            stats, function = stats.shared(), averaged(function, rows)
        low, high = bounds_for(function, stats, self.intervals, self.snap, self.left.dtype)
        if self.bound is not None:
            low, high = around_zero(function, self.bound, len(self.left), self.intervals, self.snap, self.left.dtype)
        self._become(function, low, high, (stats.low, stats.high))

    @torch.no_grad()
    def fit(self, function: Elementwise, low: float | Tensor, high: float | Tensor) -> float:
        """Fit `function` as closely as possible on [low, high], numbers or (C,); returns the maximum error there.

        Heights by least squares, in place; `function` maps rows of channels (n, C). The error falls with the square
        of the number of intervals; a function that is piecewise linear on the knots is reproduced to rounding.

        Raises:
            BadValue: the bounds are not in order, or the function is not finite there.
        """
        low, high = (
            torch.as_tensor(bound, dtype=torch.float64, device=self.left.device).expand(self.left.shape)
            for bound in (low, high)
        )
        if not bool((high - low > FLOOR * (1 + low.abs())).all()):
            raise BadValue("The bounds must be in order.", asked=f"{low.tolist()} to {high.tolist()}",
                           try_="low < high")  # fmt: skip
        self._become(function, low, high, (low, high))
        steps = torch.linspace(0, 1, 64 * self.intervals + 1).to(low).unsqueeze(1)
        points = (low + steps * (high - low)).to(self._inner)
        return float((apply(FUNCTION, points, -1, *self._settled()) - function(points.clone())).abs().max())

    def folded(self) -> nn.Module:
        """The same function for inference: a table of regions computed now, independent of the parameters."""
        return Folded(*self._settled(), axis=self.axis)

    def forward(self, input: Tensor) -> Tensor:
        """Return the activation of `input`, of any shape, in its dtype and layout."""
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            assert not self.gathering, "A PWLU is scripted after its warm-up: call surgery.settle(model) first."
            return _scripted(input, self.axis, self.heights, self.left, self.right, self.low_slope, self.high_slope)
        if not (self.gathering and (self.told or self.training)):
            return pwlu(input, self.axis, self.intervals, *self._own(), recompute=self.recompute)
        if self.training and _first_time():
            self._gather(input.detach())
        if self.like is not None:
            return self.like(input)  # type: ignore[no-any-return]
        return pwlu(input, self.axis, self.intervals, *(param.detach() for param in self._own()))

    def extra_repr(self) -> str:
        """What `print` shows."""
        warms_up = f", warmup={self.warmup}" * (self.warmup > 0)
        return f"{len(self.left)}, intervals={self.intervals}" + warms_up + said(self.recompute)

    @property
    def _inner(self) -> torch.dtype:
        return torch.promote_types(self.heights.dtype, torch.float32)

    def _own(self) -> tuple[Tensor, ...]:
        return self.heights, self.left, self.right, self.low_slope, self.high_slope

    def _settled(self) -> tuple[Tensor, ...]:
        """The parameters, with left < right whatever was learned."""
        check_rows("heights", self.heights, self.intervals + 1)
        left, right = (bound if bound.dtype == torch.float64 else bound.float() for bound in (self.left, self.right))
        return self.heights, left, apart(left, right), self.low_slope, self.high_slope

    def _become(self, function: Elementwise, low: Tensor, high: Tensor, reach: tuple[Tensor, Tensor]) -> None:
        """Set bounds (C,), heights and outer slopes, once all of them are computed."""
        left, right = low.to(self.left.dtype), high.to(self.right.dtype)
        heights, low_slope, high_slope = best_lines(function, left, right, reach, self.intervals, self._inner)
        with torch.no_grad():
            for param, value in zip(
                (self.heights, self.left, self.right, self.low_slope, self.high_slope),
                (heights, left, right, low_slope, high_slope), strict=True,
            ):  # fmt: skip
                param.copy_(value.expand(param.shape))

    def _realign(self) -> None:
        """Move the bounds to the range of the inputs, and keep the function."""
        if self.like is None:
            before = [param.detach().clone() for param in self._settled()]
            function: Elementwise = lambda rows: apply(FUNCTION, rows, -1, *before)  # noqa: E731
        else:
            function = _rows_of(self.like, self.heights, self._inner)
        mean, deviation = self.running_mean, self.running_deviation
        stats = InputStats(mean, deviation, mean, mean)
        low, high = bounds_for(function, stats, self.intervals, self.snap, self.left.dtype)
        self._become(function, low, high, (low, high))

    @torch.no_grad()
    def _gather(self, x: Tensor) -> None:
        """Update the running statistics with a batch; one that is empty or not finite is ignored."""
        own, x = len(self.running_mean), torch.atleast_1d(x)
        axis = self.axis if -x.dim() <= self.axis < x.dim() else -1
        if own not in (1, x.shape[axis]):
            there = f"{x.shape[axis]} on axis {axis} of {tuple(x.shape)}"
            raise BadValue(f"The warm-up statistics are for {own} channels.", asked=there)
        count = x.numel() // own
        if count:
            over = [dim for dim in range(x.dim()) if own == 1 or dim != axis % x.dim()]
            # One more axis, since an empty list would reduce all of them.
            rows = x.to(self._inner).unsqueeze(-1)
            square, mean = (moment.reshape(own) for moment in torch.var_mean(rows, [*over, -1], correction=0))
        else:
            square, mean = (torch.zeros_like(self.running_mean, dtype=self._inner) for _ in range(2))
        if processes() > 1:
            square, mean = _of_all_processes(square, mean, count)
        elif not count:
            return
        weight = (1 / (self.gathered + 1)).clamp_min(1 - KEPT)
        for old, new in ((self.running_mean, mean), (self.running_deviation, square.sqrt())):
            moved = old + weight * (new - old)
            old.copy_(torch.where(moved.isfinite(), moved, old))
        self.gathered.add_(1)


_FOLDED = replace(FUNCTION, exported=sum_of_clips)  # its bounds are in order


class Folded(nn.Module):
    """A PWLU as a table, for inference: one index, then base + slope (x - anchor); in float32 inside."""

    anchors: Tensor
    bases: Tensor
    slopes: Tensor

    def __init__(
        self, heights: Tensor, left: Tensor, right: Tensor, low_slope: Tensor, high_slope: Tensor, *, axis: int = 1
    ) -> None:
        super().__init__()
        dtype = torch.promote_types(heights.dtype, torch.float32)
        params = (param.detach().to(dtype) for param in (heights, left, right, low_slope, high_slope))
        for name, table in zip(("anchors", "bases", "slopes"), tables(*params), strict=True):
            self.register_buffer(name, table.clone())
        self.axis = axis
        self._kept: tuple[tuple[object, ...], tuple[Tensor, ...]] | None = None

    def forward(self, input: Tensor) -> Tensor:
        """Return the activation of `input`, of any shape, in its dtype and layout."""
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            anchors, bases, slopes = self.anchors, self.bases, self.slopes
            after = behind(input, self.axis)
            return sum_of_clips(input, after, bases[1:], anchors[0], anchors[-1], slopes[0], slopes[-1])
        return apply(_FOLDED, input, self.axis, *self._lines())

    def _lines(self) -> tuple[Tensor, ...]:
        """Heights, bounds and outer slopes: views of the tables.

        They are kept, since in a network they take as long to make as the function of a small tensor. While they are,
        no other tensor can have their addresses: what has them is the tables, or a part of these.
        """
        tables = self.anchors, self.bases, self.slopes
        for table in tables:
            if type(table) is not Tensor or table.requires_grad:
                return _cut(*tables)
        if torch.compiler.is_compiling() or taken_apart():
            return _cut(*tables)
        where = tables[0].data_ptr(), tables[1].data_ptr(), tables[2].data_ptr(), tables[1].shape
        kept = self.__dict__.get("_kept")  # what an earlier version has pickled lacks it
        if kept is None or kept[0] != where:
            kept = self._kept = where, _cut(*tables)
        return kept[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None}

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"{self.anchors.shape[1]}, intervals={len(self.anchors) - 2}"


def _cut(anchors: Tensor, bases: Tensor, slopes: Tensor) -> tuple[Tensor, ...]:
    """Heights, bounds and outer slopes, out of the tables of regions."""
    return bases[1:], anchors[0], anchors[-1], slopes[0], slopes[-1]


def _scripted(
    x: Tensor, axis: int, heights: Tensor, left: Tensor, right: Tensor, low_slope: Tensor, high_slope: Tensor
) -> Tensor:
    """The value in TorchScript: in half precision the least distance of the bounds would be rounded away."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    left, right = left.to(dtype), right.to(dtype)
    value = sum_of_clips(
        x.to(dtype),
        behind(x, axis),
        heights.to(dtype),
        left,
        apart(left, right),
        low_slope.to(dtype),
        high_slope.to(dtype),
    )
    return value.to(x.dtype)


def _first_time() -> bool:
    """False if a forward is recomputed in a backward pass (checkpointing), or is only traced or transformed."""
    if taken_apart():
        return False
    return torch.compiler.is_compiling() or torch._C._current_graph_task_id() == -1


def _of_all_processes(square: Tensor, mean: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Variance and mean over the batches of all processes; this one has `count` values."""
    square, mean = square.double(), mean.double()
    sums = torch.stack([torch.ones_like(mean), mean, square + mean.square()]) * count
    dist.all_reduce(sums)
    mean = sums[1] / sums[0]
    return (sums[2] / sums[0] - mean.square()).clamp_min(0), mean


def _module_like(like: str | nn.Module | None) -> nn.Module:
    """A frozen module that computes the function `like`."""
    if isinstance(like, nn.Module):
        return copy.deepcopy(like).requires_grad_(False)
    name = "relu" if like is None else like
    if name not in LIKE:
        raise UnknownName(f"PWLU cannot be initialised as {name!r}.", there=", ".join(sorted(LIKE)),
                          try_=nearest(str(name), LIKE) or "a module that computes it")  # fmt: skip
    return LIKE[name]()


def _rows_of(like: nn.Module, heights: Tensor, dtype: torch.dtype) -> Elementwise:
    """The function of a module on rows (n, C) for these heights; averaged over channels if the heights are shared."""
    function = copy.deepcopy(like).to(heights.device, dtype)
    channels = max((param.shape[-1] for param in like.parameters() if param.dim()), default=1)
    return averaged(function, channels) if heights.shape[1] == 1 and channels > 1 else function


def averaged(function: Elementwise, channels: int) -> Elementwise:
    """The mean over all channels of a function of rows (n, C), as a function of rows (n, 1)."""
    return lambda rows: function(rows.expand(-1, channels)).mean(1, keepdim=True)


def around_zero(
    function: Elementwise, bound: float | None, channels: int, intervals: int, snap: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Bounds (C,) from -bound to bound; by default three standard deviations of a standard normal input."""
    reach = torch.full((channels,), WIDE if bound is None else float(bound), dtype=torch.float64)
    return snapped(function, -reach, reach, intervals, dtype) if snap else (-reach, reach)


def check(channels: int, intervals: int, bound: float | None) -> None:
    for name, value in (("channels", channels), ("intervals", intervals)):
        if type(value) is not int or value < 1:
            raise BadValue(f"`{name}` must be a positive integer.", asked=f"{name}={value!r}", try_="1 or more")
    if intervals > MOST_INTERVALS:
        raise BadValue("Too many intervals.", asked=f"intervals={intervals}", try_=f"at most {MOST_INTERVALS}")
    if bound is not None and not 0 < bound < float("inf"):
        raise BadValue("`bound` must be above 0.", asked=f"bound={bound!r}", try_="a number above 0")


def check_rows(name: str, table: Tensor, rows: int) -> None:
    """Check that a table was not cut along its rows, as Torch-Pruning does if all channels share it."""
    if not is_traced() and len(table) != rows:
        raise BadValue(
            f"{name} lost rows: it was cut as if they were channels.", asked=f"{len(table)} rows", there=f"{rows} rows",
            try_=f"{name} in the ignored_layers of Torch-Pruning",
        )  # fmt: skip
