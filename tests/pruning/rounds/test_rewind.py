"""Rewinding: to what weights and buffers go back."""

from __future__ import annotations

import torch
from torch import nn

from pruning.rounds.rounds import run_rounds
from tests.asserts import assert_bit_equal
from tests.pruning.rounds.small_rounds import Held, magnitude, net, state, train


def test_nothing_is_shared_with_what_is_rewound_to() -> None:
    model = net()
    given = model.state_dict()  # the very tensors of the model
    start = state(model)
    seen = []

    def training(model: nn.Module, held: Held) -> None:
        seen.append(model.conv2.bias.detach().clone())
        assert_bit_equal([model.bn.running_mean, model.bn.weight, seen[-1]],
                         [start["bn.running_mean"], start["bn.weight"], start["conv2.bias"]])  # fmt: skip
        train(model, held)
        assert not torch.equal(model.conv2.bias, seen[-1])

    run_rounds(model, training, magnitude, 0.2, 3, rewind=given)
    assert len(seen) == 4


def test_a_state_dict_is_rewound_to_and_stays() -> None:
    model, other = net(), net(seed=1).state_dict()
    kept, seen = {name: tensor.clone() for name, tensor in other.items()}, []

    def training(model: nn.Module, held: Held) -> None:
        seen.append(state(model))
        train(model, held)

    run_rounds(model, training, magnitude, 0.2, 2, rewind=other)
    assert_bit_equal(other.values(), kept.values())
    for later in seen[1:]:
        assert torch.equal(later["conv2.bias"], other["conv2.bias"])
        alive = later["conv1.weight"] != 0
        assert torch.equal(later["conv1.weight"], other["conv1.weight"] * alive)
    assert float(seen[1]["calls"]) == 3  # the state dict does not hold it


def test_init_takes_back_buffers_that_are_not_in_the_state_dict() -> None:
    model = net()
    run_rounds(model, train, magnitude, 0.2, 2)
    assert float(model.calls) == 3


def test_fine_tuning_goes_on_from_the_trained_weights() -> None:
    model, ended, begun = net(), [], []

    def training(model: nn.Module, held: Held) -> None:
        begun.append(state(model))
        train(model, held)
        ended.append(state(model))

    run_rounds(model, training, magnitude, 0.2, 2, rewind=None)
    for before, after in zip(ended[:-1], begun[1:], strict=True):
        assert torch.equal(before["bn.running_var"], after["bn.running_var"])
        assert torch.equal(before["conv2.bias"], after["conv2.bias"])
        assert torch.equal(after["conv1.weight"], before["conv1.weight"] * (after["conv1.weight"] != 0))
