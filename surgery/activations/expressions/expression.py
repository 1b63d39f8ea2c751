"""Expression: a frozen tree of operators over x, its value, and its gradients in closed form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from surgery.activations.expressions.operators import INPUT, OPERATORS, Operator
from surgery.errors import BadValue, UnknownName, nearest

_DEEPEST = 16  # levels; the largest function of two cores has six
_DIGITS = 6  # of a beta in print


@dataclass(frozen=True, slots=True)
class Expression:
    """A function of x: an operator on its arguments or, with the name "x" and without arguments, x itself.

    `beta` is the initial value of the parameter of this operator, 1 unless given; others have none. `str` prints it as
    `surgery.activations.expressions.notation.parse` reads it: "mul(x, sigmoid(scale(x, 0.5)))".

    Raises:
        UnknownName: there is no such operator.
        BadValue: it takes another number of arguments, or no beta; or the tree is deeper than 16 levels.
    """

    name: str = INPUT
    args: tuple[Expression, ...] = ()
    beta: float | None = None

    def __post_init__(self) -> None:
        if self.name != INPUT and self.name not in OPERATORS:
            there = ", ".join((INPUT, *OPERATORS))
            raise UnknownName(f"No operator is named {self.name!r}.", there=there, try_=nearest(self.name, OPERATORS))
        arity, has_beta = (0, False) if self.name == INPUT else (self.operator.arity, self.operator.has_beta)
        if len(self.args) != arity:
            raise BadValue(f"{self.name!r} takes {arity} argument{'s' * (arity != 1)}.", asked=f"{len(self.args)}")
        if self.beta is not None and not has_beta:
            raise BadValue(f"{self.name!r} has no parameter.", asked=f"{self.beta}")
        if has_beta:
            object.__setattr__(self, "beta", _rounded(1.0 if self.beta is None else self.beta))
        if self.depth > _DEEPEST:
            raise BadValue("The expression is too deep.", asked=f"{self.depth} levels", try_=f"at most {_DEEPEST}")

    def __str__(self) -> str:
        inside = [str(arg) for arg in self.args]
        if self.beta is not None and self.beta != 1:
            inside.append(f"{self.beta:g}")
        return f"{self.name}({', '.join(inside)})" if inside else self.name

    @property
    def operator(self) -> Operator:
        """The operator at the root; x has none."""
        return OPERATORS[self.name]

    @property
    def depth(self) -> int:
        """The number of operators on the longest way from x."""
        return 0 if self.name == INPUT else 1 + max((arg.depth for arg in self.args), default=0)

    @property
    def size(self) -> int:
        """The number of operators."""
        return 0 if self.name == INPUT else 1 + sum(arg.size for arg in self.args)

    @property
    def betas(self) -> tuple[float, ...]:
        """The initial parameters, in the order they are printed."""
        inner = tuple(beta for arg in self.args for beta in arg.betas)
        return inner if self.beta is None else (*inner, self.beta)

    @property
    def formula(self) -> str:
        """What it computes, as people write it."""
        return self._written(iter(range(1, 1 + len(self.betas))), len(self.betas) > 1)

    def value(self, x: Tensor, *betas: Tensor | float) -> Tensor:
        """The function of x, with these parameters in place of the initial ones, if given; a constant is spread to x.

        Parameters broadcast with x.
        """
        return _evaluated(self, x, iter(betas or self.betas)).value.expand_as(x)

    def gradients(self, grad: Tensor, x: Tensor, *betas: Tensor) -> tuple[Tensor, ...]:
        """The gradients of x and of each parameter, from that of the value; those of parameters are still to be summed.

        The chain rule along the tree: no operation is recorded, and nothing but x needs to be kept.
        """
        of_betas: list[Tensor] = []
        of_x = _pulled_back(_evaluated(self, x, iter(betas)), grad, of_betas)
        return (x * 0.0 if of_x is None else of_x), *of_betas

    def _written(self, numbers: Iterator[int], numbered: bool) -> str:
        if self.name == INPUT:
            return INPUT
        inside = dict(zip("ab", (arg._written(numbers, numbered) for arg in self.args), strict=False))
        beta = "" if self.beta is None else f"beta{next(numbers)}" if numbered else "beta"
        return self.operator.text.format(**inside, beta=beta)


X = Expression()


@dataclass(frozen=True, slots=True, eq=False)
class _Node:
    """An expression with its value, its evaluated arguments, and what its operator was called with."""

    value: Tensor
    expression: Expression
    inner: tuple[_Node, ...] = ()
    given: tuple[Tensor, ...] = ()


def _evaluated(expression: Expression, x: Tensor, betas: Iterator[Tensor | float]) -> _Node:
    if expression.name == INPUT:
        return _Node(x, expression)
    inner = tuple(_evaluated(arg, x, betas) for arg in expression.args)
    given = tuple(node.value for node in inner)
    if expression.beta is not None:
        beta = next(betas)
        given = (*given, beta if isinstance(beta, Tensor) else x.new_tensor(beta))
    return _Node(expression.operator.value(*given), expression, inner, given)


def _pulled_back(node: _Node, grad: Tensor, of_betas: list[Tensor]) -> Tensor | None:
    """The gradient of x, None where x does not occur; those of the parameters are appended in the order of print."""
    if node.expression.name == INPUT:
        return grad
    slopes = node.expression.operator.slopes(*node.given)
    inner = zip(node.inner, slopes[: len(node.inner)], strict=True)
    parts = [_pulled_back(child, grad * slope, of_betas) for child, slope in inner]
    if node.expression.beta is not None:
        of_betas.append(grad * slopes[-1])
    found = [part for part in parts if part is not None]
    return sum(found[1:], start=found[0]) if found else None


def _rounded(beta: float) -> float:
    """A beta that survives being printed."""
    try:
        rounded = float(f"{float(beta):.{_DIGITS}g}")
    except (TypeError, ValueError) as error:
        raise BadValue("A beta is a number.", asked=repr(beta)) from error
    if not abs(rounded) < float("inf"):
        raise BadValue("A beta is a finite number.", asked=repr(beta))
    return rounded
