"""Candidate: a function in place of every nonlinearity, trained alike for the same seed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import surgery
from recipes.activation_search.candidate import Trainer
from recipes.format.settings import Finetune
from surgery.activations.expressions.notation import parse
from surgery.errors import SurgeryError

pytest.importorskip("sklearn")
SWISH = parse("mul(x, sigmoid(scale(x)))")


def trainer(**changed: Any) -> Trainer:
    options = Finetune(epochs=2, batch_size=64, lr=0.05, crop=0, hflip=0.0)
    return Trainer(model="mlp", data="digits", options=options, **changed)


def test_the_same_seed_gives_the_same_training() -> None:
    trains, told = trainer(train_num_samples=300), list[tuple[int, float]]()
    first = trains.train(SWISH, 0, lambda *epoch: told.append(epoch))
    assert first == trains.train(SWISH, 0, lambda *_: None) != trains.train(SWISH, 1, lambda *_: None)
    assert [epoch for epoch, _ in told] == [1, 2] and told[-1][1] == first.accuracy > 0.5


def test_every_second_image_chooses_and_the_others_report() -> None:
    trains = trainer(val_num_samples=6)
    score = trains.train(SWISH, 0, lambda *_: None)
    assert {score.accuracy * 3, score.reported * 3} <= {0, 1, 2, 3}


@pytest.mark.parametrize("learn", [True, False])
def test_betas_learn_or_not(learn: bool) -> None:
    network = trainer(learn=learn).network(SWISH, 0)
    betas = [value for name, value in network.named_parameters() if name.endswith("beta")]
    assert [beta.shape for beta in betas] == [(1, 64)] * 2 and {beta.requires_grad for beta in betas} == {learn}


def test_a_network_of_a_catalogue_gets_the_function_everywhere() -> None:
    trains = replace(trainer(img_size=16), model="timm/test_resnet")
    network = trains.network(parse("max(x, tanh(x))"), 0)
    found = {site.activation for site in surgery.find_sites(network, torch.rand(2, 3, 16, 16))}
    assert found == {"max(x, tanh(x))"}


def test_a_function_that_diverges_is_an_error() -> None:
    with pytest.raises(SurgeryError, match="The loss of step"):
        trainer().train(parse("exp(square(exp(x)))"), 0, lambda *_: None)
