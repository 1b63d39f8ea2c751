"""Formula: an activation computed by an expression, such as those that a search finds."""

from __future__ import annotations

from functools import lru_cache, partial

import torch
from torch import Tensor, nn
from torch.fx import wrap

from surgery.activations.dispatch import Function, apply
from surgery.activations.exported import shaped
from surgery.activations.expressions.expression import Expression
from surgery.activations.expressions.notation import parse


def _exported(expression: Expression, x: Tensor, after: int, *betas: Tensor) -> Tensor:
    return expression.value(x, *(shaped(beta, after) for beta in betas))


@lru_cache(maxsize=1024)
def function_of(text: str) -> Function:
    """The function that an expression computes, with its gradients."""
    expression = parse(text)
    return Function("formula", expression.value, expression.gradients, partial(_exported, expression))


@wrap  # symbolic traces keep it as one call
def formula(x: Tensor, axis: int, text: str, beta: Tensor | None = None) -> Tensor:
    """The expression `text` of x, channels of x on `axis`, with a row of `beta` for each of its parameters."""
    return _applied(function_of(text), x, axis, beta)


def _applied(function: Function, x: Tensor, axis: int, beta: Tensor | None) -> Tensor:
    return apply(function, x, axis, *(() if beta is None else beta.unbind(0)))


class Formula(nn.Module):
    """The activation that an expression computes, such as "mul(x, sigmoid(scale(x)))".

    Its parameters, one row of `beta` for each, are learned, per channel or shared by all, unless `learn` is False.
    It can be traced, exported and compiled, but not scripted.

    Raises:
        UnknownName, BadValue: it is not an expression.

    Source: Ramachandran, Zoph and Le 2017, "Searching for activation functions", arXiv 1710.05941, section 2.
    """

    def __init__(self, expression: str | Expression, channels: int = 1, *, learn: bool = True, axis: int = 1) -> None:
        super().__init__()
        tree = parse(expression) if isinstance(expression, str) else expression
        self.text, self.axis = str(tree), axis
        self.surgery_activation = self.text
        self.function = function_of(self.text)
        rows = torch.tensor(tree.betas)[:, None].repeat(1, channels)
        self.beta = nn.Parameter(rows, requires_grad=learn) if tree.betas else None

    def forward(self, input: Tensor) -> Tensor:
        """Return the activation of `input`, of any shape, in its dtype and layout."""
        if torch.compiler.is_compiling():  # the compiler does not look a function up by its text
            return _applied(self.function, input, self.axis, self.beta)
        return formula(input, self.axis, self.text, self.beta)

    def extra_repr(self) -> str:
        """What `print` shows."""
        return self.text
