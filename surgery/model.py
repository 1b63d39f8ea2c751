"""Model: the type of the network that a function is given and gives back."""

from typing import TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)
