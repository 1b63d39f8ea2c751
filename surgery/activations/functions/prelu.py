"""Two straight lines that meet at zero: PReLU learns the left slope, FReLU both."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.fx import wrap
from torch.nn import functional as F

from surgery.activations.dispatch import Function, apply
from surgery.activations.exported import behind, shaped
from surgery.activations.input_stats import Elementwise, InputStats, fitted, ones_like
from surgery.activations.recompute import said
from surgery.errors import BadValue

Alternation = Literal["slopes", "weights"]


def _prelu(x: Tensor, negative: Tensor) -> Tensor:
    return torch.where(x > 0, x, x * negative)


def _prelu_gradients(grad: Tensor, x: Tensor, negative: Tensor) -> tuple[Tensor, ...]:
    return torch.where(x > 0, grad, grad * negative), torch.where(x > 0, 0.0, grad * x)


def _frelu(x: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    return x * torch.where(x > 0, positive, negative)


def _frelu_gradients(grad: Tensor, x: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, ...]:
    right, product = x > 0, grad * x
    return (
        grad * torch.where(right, positive, negative),
        torch.where(right, product, 0.0),
        torch.where(right, 0.0, product),
    )


def _prelu_exported(x: Tensor, after: int, negative: Tensor) -> Tensor:
    """torch's own PReLU where it means the same axis; onnxruntime runs two lines faster."""
    # In a trace, a size is a tensor, and the length of a list a number.
    if len(negative.unbind(0)) == 1 or after == x.dim() - 2:
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return F.prelu(x, negative)
        if not torch.onnx.is_in_onnx_export():
            return F.prelu(x, negative)
    slope = shaped(negative, after)
    return F.relu(x) * (1 - slope) + x * slope


def _frelu_exported(x: Tensor, after: int, positive: Tensor, negative: Tensor) -> Tensor:
    low = shaped(negative, after)
    return F.relu(x) * (shaped(positive, after) - low) + x * low


PRELU = Function("prelu", _prelu, _prelu_gradients, _prelu_exported)
FRELU = Function("frelu", _frelu, _frelu_gradients, _frelu_exported)


@wrap  # symbolic traces keep it as one call
def prelu(x: Tensor, axis: int, negative: Tensor, recompute: bool = False) -> Tensor:
    """max(0, x) + negative min(0, x), channels of x on `axis`."""
    if torch.jit.is_scripting():  # type: ignore[attr-defined]
        return _prelu_exported(x, behind(x, axis), negative)
    return apply(PRELU, x, axis, negative, recompute=recompute)


@wrap
def frelu(x: Tensor, axis: int, positive: Tensor, negative: Tensor, recompute: bool = False) -> Tensor:
    """positive max(0, x) + negative min(0, x), channels of x on `axis`."""
    if torch.jit.is_scripting():  # type: ignore[attr-defined]
        return _frelu_exported(x, behind(x, axis), positive, negative)
    return apply(FRELU, x, axis, positive, negative, recompute=recompute)


class PReLU(nn.PReLU):
    """max(0, x) + weight min(0, x), with one learned slope per channel, or one for all.

    A `torch.nn.PReLU` whose channels may be on any axis, and whose backward pass allocates nothing of the size of x
    but the gradient of x.

    Source: He et al. 2015, "Delving Deep into Rectifiers", arXiv 1502.01852, section 2.1.
    """

    surgery_activation = "prelu"
    __constants__ = ("num_parameters", "recompute")  # type: ignore[assignment]
    recompute = False  # see `surgery.swap`

    def __init__(self, num_parameters: int = 1, init: float = 0.25, axis: int = 1) -> None:
        super().__init__(num_parameters, init)
        self.axis = axis

    def start_as(self, function: Elementwise, stats: InputStats) -> None:
        """Take the slope of `function` left of zero."""
        self.weight.copy_(fitted(-function(-ones_like(stats)), self.weight))

    def forward(self, input: Tensor) -> Tensor:
        """Return the activation of `input`, of any shape, in its dtype and layout."""
        return prelu(input, self.axis, self.weight, self.recompute)

    def extra_repr(self) -> str:
        """What `print` shows."""
        return super().extra_repr() + said(self.recompute)


class FReLU(nn.Module):
    """positive max(0, x) + negative min(0, x), both slopes learned per channel, or shared by all.

    `alternate` trains one set of parameters while the other is frozen, as in the paper, whose abstract allows two
    readings: "slopes", positive slopes in turn with negative ones, and "weights", slopes in turn with all other
    weights of the model (trained in even phases). A phase lasts `every` steps, counted by
    `surgery.set_progress(model, progress, step)`; count epochs there to alternate by epochs. Frozen parameters have no
    gradient at all, so neither momentum nor Adam moves them; DDP then needs `find_unused_parameters=True`. Before
    the first call, and at progress 1, everything learns, as it does after `settle` and `undo`. Freeze your own layers
    before the first call: later they cannot be distinguished from weights frozen by the alternation.

    Source: Varshney and Singh 2021, "Optimizing nonlinear activation function for convolutional neural networks",
    DOI 10.1007/s11760-021-01863-z, abstract. Initial slopes are ours: those of ReLU.
    """

    surgery_activation = "frelu"
    __constants__ = ("recompute",)
    recompute = False
    __jit_unused_properties__ = ("gradual", "rests_weights")

    def __init__(
        self,
        channels: int = 1,
        positive: float = 1.0,
        negative: float = 0.0,
        *,
        alternate: Alternation | None = None,
        every: int = 1,
        axis: int = 1,
    ) -> None:
        super().__init__()
        if alternate not in (None, *get_args(Alternation)):
            choices = "'slopes', 'weights' or None"
            raise BadValue("Unknown `alternate`.", asked=f"alternate={alternate!r}", there=choices)
        if type(every) is not int or every < 1:
            raise BadValue("`every` must be a positive number of steps.", asked=f"every={every!r}", try_="1 or more")
        self.positive = nn.Parameter(torch.full((channels,), float(positive)))
        self.negative = nn.Parameter(torch.full((channels,), float(negative)))
        self.alternate = alternate
        self.every = every
        self.axis = axis
        self.phase: int | None = None

    @property
    def gradual(self) -> bool:
        """Whether `set_progress` changes anything."""
        return self.alternate is not None

    def set_progress(self, progress: float, step: int = 0) -> None:
        """Enter the phase that `step` falls into; at progress 1 everything learns."""
        self.phase = step // self.every % 2 if self.alternate and progress < 1 else None
        for slope, learns in ((self.positive, self._learns(0)), (self.negative, self._learns(1))):
            if not learns:
                slope.grad = None

    def finish(self) -> None:
        """Stop alternating."""
        self.alternate, self.phase = None, None

    @property
    def rests_weights(self) -> bool:
        """True while all weights of the model except those of activations are frozen."""
        return self.alternate == "weights" and self.phase == 1

    def _learns(self, number: int) -> bool:
        if self.phase is None:
            return True
        return self.phase == number if self.alternate == "slopes" else self.phase == 1

    def start_as(self, function: Elementwise, stats: InputStats) -> None:
        """Take the slopes of `function` right and left of zero."""
        self.positive.copy_(fitted(function(ones_like(stats)), self.positive))
        self.negative.copy_(fitted(-function(-ones_like(stats)), self.negative))

    def forward(self, input: Tensor) -> Tensor:
        """Return the activation of `input`, of any shape, in its dtype and layout."""
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return frelu(input, self.axis, self.positive, self.negative)
        positive = self.positive if self._learns(0) else self.positive.detach()
        negative = self.negative if self._learns(1) else self.negative.detach()
        return frelu(input, self.axis, positive, negative, self.recompute)

    def extra_repr(self) -> str:
        """What `print` shows."""
        alternates = f", alternate={self.alternate!r}, every={self.every}" * bool(self.alternate)
        return f"{len(self.positive)}" + alternates + said(self.recompute)
