"""Exported form: what exporters and scripts see of a function, in operators that every deploy target knows.

Parameters are shaped to broadcast along the channel axis, which is never moved; there is no gather, and nothing
depends on values. Inputs are taken to be finite, and slopes moderate: max(0, x) (p - n) + n x rounds like p x unless n
is much larger than p. These functions and the exported forms of the catalogue compile with `torch.jit.script`.
Each form stands beside its formula in `functions/`; that of a PWLU is `sum_of_clips` in `piecewise.py`.
"""

from torch import Tensor


def behind(x: Tensor, axis: int) -> int:
    """How many axes of x follow the channel axis; none if x does not have this axis: its last one is the channels."""
    dim = x.dim()
    return dim - 1 - axis % dim if -dim <= axis and axis < dim else 0


def shaped(param: Tensor, after: int) -> Tensor:
    """A parameter (C,) as (C, 1, ...), with `after` ones, to broadcast along the channel axis."""
    return param.view([-1] + [1] * after) if after else param
