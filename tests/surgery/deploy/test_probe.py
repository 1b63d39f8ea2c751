"""One function alone on a target: its operators, its error, its problem."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import surgery
from surgery.deploy.probe import Probed, as_trained, error_of, function_at, in_short, inputs_at, probed
from tests.surgery.deploy.memory import MEMORY, lacking, wrong
from tests.surgery.small_net import SmallNet

X = torch.linspace(-3, 3, 24).reshape(2, 3, 2, 2)


def test_verdicts() -> None:
    assert probed(nn.ReLU(), X, MEMORY).verdict == "one operator"
    pieces = probed(surgery.activations.build("quick_gelu"), X, MEMORY)
    assert pieces.verdict == "decomposed" and len(pieces.operators) == 3 and pieces.error == 0
    failed = probed(nn.Mish(), X, lacking("mish"))
    assert failed.verdict == "fails" and str(failed) == "fails" and "memory does not have mish" in failed.problem
    off = probed(nn.ReLU(), X, wrong("relu.default", lambda y: y + 0.5))
    assert off.verdict == "wrong" and off.error == pytest.approx(0.5) and str(off) == "relu.default, wrong"


def test_a_function_may_stand_in_a_frame() -> None:
    """Some converters learn from a layer of their own which axis is the batch."""
    framed = replace(MEMORY, frame=("max_pool2d.default",))
    seen: list[tuple[str, ...]] = []

    def note(folder: Path) -> tuple[str, ...]:
        seen.append(MEMORY.operators(folder))
        return seen[-1]

    found = probed(nn.ReLU(), X, replace(framed, operators=note))
    assert seen == [("max_pool2d.default", "relu.default", "max_pool2d.default")]
    assert found.operators == ("relu.default",) and found.error == 0
    assert probed(nn.ReLU(), X.flatten(), framed).operators == ("relu.default",)  # nothing to pool


def test_errors_are_relative_above_one() -> None:
    assert error_of(torch.tensor([101.0, 0.5]), torch.tensor([100.0, 0.25])) == 0.25
    assert error_of(torch.tensor([110.0]), torch.tensor([100.0])) == pytest.approx(0.1)
    assert error_of(torch.tensor([float("-inf")]), torch.tensor([-100.0])) == float("inf")
    assert error_of(torch.tensor([-100.0]), torch.tensor([float("-inf")])) == float("inf")
    assert error_of(torch.tensor([float("nan")]), torch.tensor([-100.0])) == float("inf")
    odd = torch.tensor([float("nan"), float("inf"), float("-inf")])
    assert error_of(odd, odd.clone()) == 0 and error_of(odd, -odd) == float("inf")
    assert error_of(torch.ones(2, 1), torch.ones(2, 3)) == float("inf") and error_of(odd[:0], odd[:0]) == 0


def test_half_precision_is_judged_by_its_own_tolerance() -> None:
    half = wrong("relu.default", lambda y: y + 0.004)
    assert probed(nn.ReLU(), X.half(), half).verdict == "one operator"
    assert probed(nn.ReLU(), X, half).verdict == "wrong"


def test_operators_in_short() -> None:
    assert in_short(("Mul", "Mul", "Add")) == "2 Mul + Add"
    assert in_short(()) == "nothing"
    assert in_short(("Mul", "Mul", "Add"), most=2) == "2 Mul + Add"
    assert in_short(("Mul", "Mul", "Add"), most=1) == "3 operators"


def test_many_operators_are_counted() -> None:
    assert str(Probed(("Min", "Max") * 29)) == "58 operators"
    assert str(Probed(("Min", "Max") * 29, error=1.0)) == "58 operators, wrong"
    assert str(Probed(("Sub", "Exp", "Add", "Div"))) == "Sub + Exp + Add + Div"


def test_functions_and_inputs_are_those_of_the_sites() -> None:
    model = SmallNet().eval()
    x = torch.randn(2, 3, 8, 8)
    sites = surgery.find_sites(model, x)
    entered = inputs_at(model, sites, sites[:1])
    assert list(entered) == [sites[0].key]
    function = function_at(model, sites[0])
    assert surgery.activations.row_of(sites[0].activation).name == "relu" and isinstance(function, nn.ReLU)
    assert not function.inplace and entered[sites[0].key].min() < 0


@pytest.mark.parametrize("slope", [0.25, 0.0, -0.5])
def test_channels_that_are_alike_are_made_to_differ(slope: float) -> None:
    """Slopes of zero too: a PReLU that replaces a ReLU begins there."""
    function = nn.PReLU(4, init=slope)
    weight = as_trained(function).get_parameter("weight")
    assert len(set(weight.tolist())) == 4 and (weight - slope).abs().max() <= 0.1
    assert function.weight.tolist() == [slope] * 4


def test_every_learned_function_has_channels_that_differ() -> None:
    for name in ("pwlu", "npwlu", "frelu", "swish", "smelu", "gsmelu"):
        function = as_trained(surgery.activations.build(name, 4)).eval()
        y = function(torch.linspace(-3, 3, 61).reshape(-1, 1, 1, 1).expand(-1, 4, 1, 1))
        assert all((y[:, channel] != y[:, 0]).any() for channel in range(1, 4)), name
        assert y.isfinite().all()


def test_what_already_differs_or_is_shared_stays() -> None:
    learned = nn.PReLU(2)
    learned.weight.data = torch.tensor([0.1, 0.7])
    assert as_trained(learned).get_parameter("weight").tolist() == pytest.approx([0.1, 0.7])
    shared = surgery.activations.build("pwlu", 4, per="layer")
    for before, after in zip(shared.parameters(), as_trained(shared).parameters(), strict=True):
        assert torch.equal(before, after)


def test_nothing_measured_is_not_wrong() -> None:
    assert Probed(("relu",), None).verdict == "one operator"
    assert Probed(("relu",), float("nan")).verdict == "wrong"
