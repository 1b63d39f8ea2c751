"""Does one PReLU learn XOR? Three parameters beside a small perceptron and a growing cosine unit, by learning rate.

Needs no data. From the root of the repository:

    python -m benchmarks.studies.xor --protocol reduced

Source: Pinto and Tavares 2024, arXiv 2409.10821.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from benchmarks.conditions import markdown_table, paragraph
from benchmarks.studies.jobs import Write, by_name
from benchmarks.studies.results import Results, at
from benchmarks.studies.spread import spread
from benchmarks.studies.study import Study
from surgery import activations

RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
CORNERS = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
TARGETS = torch.tensor([0.0, 1.0, 1.0, 0.0])
START = math.sqrt(0.5)  # weights of two inputs begin between this and its negative, as those of `nn.Linear`
SLOPE = 0.25  # of a PReLU below zero, at the start

Parameters = Mapping[str, Tensor]  # each (networks, ...)
Network = Callable[[Parameters, Tensor], Tensor]  # from parameters and inputs (4, 2) to outputs (networks, 4)


def prelu(of: Parameters, x: Tensor) -> Tensor:
    """Two weights and the slope of a PReLU."""
    module = activations.build("prelu", len(of["slope"]))
    outputs = torch.func.functional_call(module, {"weight": of["slope"]}, ((x @ of["weights"].T),))
    return torch.as_tensor(outputs).T


def cosine(of: Parameters, x: Tensor) -> Tensor:
    """Two weights and a bias of a growing cosine unit, z cos z: three parameters, too."""
    z = of["weights"] @ x.T + of["bias"][:, None]
    return z * z.cos()


def perceptron(of: Parameters, x: Tensor) -> Tensor:
    """Two hidden ReLUs and a line: nine parameters."""
    hidden = F.relu(torch.einsum("nhi,ci->nch", of["weights"], x) + of["bias"][:, None])
    return torch.einsum("nch,nh->nc", hidden, of["outward"]) + of["shift"][:, None]


@dataclass(frozen=True)
class Arm:
    """A network, the shapes of its parameters, and whether its inputs are -1 and 1, or else 0 and 1."""

    about: str
    network: Network
    shapes: Mapping[str, tuple[int, ...]]
    centred: bool = True
    control: str = ""
    fresh: bool = True

    @property
    def inputs(self) -> Tensor:
        """The four inputs (4, 2)."""
        return 2 * CORNERS - 1 if self.centred else CORNERS


@dataclass(frozen=True)
class Size:
    """Networks for each seed and learning rate, and the steps that they learn."""

    name: str
    networks: int
    steps: int
    seeds: int


UNIT, GCU = {"weights": (2,), "slope": ()}, {"weights": (2,), "bias": ()}
MLP: dict[str, tuple[int, ...]] = {"weights": (2, 2), "bias": (2,), "outward": (2,), "shift": ()}
ARMS = {
    "prelu": Arm("one PReLU without bias, 3 parameters, inputs -1 and 1", prelu, UNIT),
    "prelu-01": Arm("the same, inputs 0 and 1", prelu, UNIT, centred=False, control="prelu"),
    "gcu": Arm("one growing cosine unit, 3 parameters, inputs -1 and 1", cosine, GCU, control="prelu"),
    "gcu-01": Arm("the same, inputs 0 and 1", cosine, GCU, centred=False, control="prelu-01"),
    "mlp": Arm("two ReLUs and a line, 9 parameters, inputs -1 and 1", perceptron, MLP, control="prelu"),
    "mlp-01": Arm("the same, inputs 0 and 1", perceptron, MLP, centred=False, control="prelu-01"),
}
PROTOCOLS = by_name(
    Size("smoke", networks=10, steps=100, seeds=1),
    Size("reduced", networks=400, steps=3000, seeds=3),
    Size("full", networks=2000, steps=10_000, seeds=5),
)


def measure(arm: Arm, seed: int, size: Size, device: str, write: Write) -> None:
    """Train networks of an arm with each learning rate, and write how many have learned XOR, in a row for each."""
    shares = solved(arm, seed, RATES, size.networks, size.steps).double().mean(1)
    for rate, share in zip(RATES, shares.tolist(), strict=True):
        write({"rate": rate, "solved": share})


def solved(arm: Arm, seed: int, rates: Sequence[float], networks: int, steps: int) -> Tensor:
    """Which networks learn XOR by gradient descent on the squared error (rates, networks), from the same starts."""
    generator = torch.Generator().manual_seed(seed)
    parameters = {
        name: _again(START * (2 * torch.rand(networks, *shape, generator=generator) - 1), len(rates))
        for name, shape in arm.shapes.items()
    }
    if "slope" in parameters:
        parameters["slope"] = torch.full((len(rates) * networks,), SLOPE)
    rate = torch.tensor(rates).repeat_interleave(networks)
    for _ in range(steps):
        learned = {name: value.detach().requires_grad_() for name, value in parameters.items()}
        # Losses are added, so no gradient knows of another network.
        loss = (arm.network(learned, arm.inputs) - TARGETS).square().mean(1).sum()
        gradients = torch.autograd.grad(loss, list(learned.values()))
        with torch.no_grad():
            parameters = {
                name: value - rate.view(-1, *[1] * (value.dim() - 1)) * slope
                for (name, value), slope in zip(learned.items(), gradients, strict=True)
            }
    outputs = arm.network(parameters, arm.inputs)
    right = ((outputs > 0.5) == (TARGETS > 0.5)) & outputs.isfinite()
    return right.all(1).view(len(rates), networks)


def _again(tensor: Tensor, times: int) -> Tensor:
    return tensor.repeat(times, *[1] * (tensor.dim() - 1))


def tables(size: Size, results: Results) -> list[str]:
    """How many networks of each arm learn XOR, by learning rate."""
    cells = [
        (
            name,
            *(spread(results.of(name, at(k, "solved")).values(), digits=0) for k in range(len(RATES))),
            str(results.seeds(name)),
        )
        for name in results
    ]
    return [
        paragraph(
            f"How many of {size.networks} networks for each seed output more than 0.5 exactly where they should, after"
            f" {size.steps:,} steps of gradient descent on the mean squared error of the four points, in percent, by"
            " the learning rate."
        ),
        "",
        *markdown_table(("arm", *(f"{rate:g}" for rate in RATES), "seeds"), cells),
    ]


def draw(results: Results) -> Figure:
    """Success by learning rate."""
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.subplots()
    for name in results:
        means = [100 * fmean(results.of(name, at(k, "solved")).values()) for k in range(len(RATES))]
        axes.plot(RATES, means, marker="o", markersize=4, linewidth=1.2, label=name)
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("networks that learn XOR, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


STUDY = Study(
    "xor", "XOR by one PReLU", "benchmarks.studies.xor", ARMS, PROTOCOLS, measure, tables, draw, on_data=False
)  # fmt: skip

if __name__ == "__main__":
    STUDY.main(__doc__)
