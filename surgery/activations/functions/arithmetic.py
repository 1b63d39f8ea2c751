"""Arithmetic: the add, multiply and concat operations of quantisable networks, once their ReLU was replaced."""

from __future__ import annotations

from torch import Tensor, nn
from torch.ao.nn.quantized import FloatFunctional


class Arithmetic(nn.Module):
    """torch's `FloatFunctional` with another activation behind the sum in `add_relu`.

    Converters of `torch.ao.quantization` look for `FloatFunctional` by its exact class: it is kept as a child, and its
    observer gets the sum.
    """

    def __init__(self, functional: FloatFunctional, activation: nn.Module) -> None:
        super().__init__()
        self.functional = functional
        self.activation = activation

    def add_relu(self, x: Tensor, y: Tensor) -> Tensor:
        """The activation of x + y."""
        return self.activation(self.functional.add(x, y))  # type: ignore[no-any-return]

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """x + y."""
        return self.functional.add(x, y)

    def add_scalar(self, x: Tensor, y: float) -> Tensor:
        """x + y, y a number."""
        return self.functional.add_scalar(x, y)

    def mul(self, x: Tensor, y: Tensor) -> Tensor:
        """x y."""
        return self.functional.mul(x, y)

    def mul_scalar(self, x: Tensor, y: float) -> Tensor:
        """x y, y a number."""
        return self.functional.mul_scalar(x, y)

    def cat(self, x: list[Tensor], dim: int = 0) -> Tensor:
        """The tensors `x` concatenated along `dim`."""
        return self.functional.cat(x, dim)

    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        """The matrix product of x and y."""
        return self.functional.matmul(x, y)
