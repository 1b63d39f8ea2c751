"""Training setup: timm's optimisers and schedules, without weight decay where there should be none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import surgery
from recipes.format.settings import OPTIMIZERS, Finetune
from recipes.train.setup import optimizer_of, schedule_of


class Deep(nn.Module):
    """Two layers that know their order, and a parameter without weight decay."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.act = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()
        self.head, self.token = nn.Linear(64, 2), nn.Parameter(torch.zeros(1, 2))

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        return {"stem": r"^conv|^bn"}

    def no_weight_decay(self) -> set[str]:
        return {"token"}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.act(self.bn(self.conv(x))).flatten(1)) + self.token


def deep() -> Deep:
    model = Deep()
    surgery.transform_(model, surgery.swap("pwlu"), torch.randn(2, 3, 6, 6))
    return model


@pytest.mark.parametrize("layer_decay", [None, 0.5])
def test_activations_biases_and_norms_are_not_decayed(layer_decay: float | None) -> None:
    model = deep()
    optimizer = optimizer_of(model, Finetune(weight_decay=0.3, layer_decay=layer_decay))
    names = {id(param): name for name, param in model.named_parameters()}
    decayed = {
        names[id(param)]
        for group in optimizer.param_groups
        if group["weight_decay"] == 0.3
        for param in group["params"]
    }
    others = {group["weight_decay"] for group in optimizer.param_groups} - {0.3}
    assert decayed == {"conv.weight", "head.weight"} and others == {0.0}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)


@pytest.mark.parametrize("sched", ["none", "cosine"])
def test_layers_further_from_the_head_learn_more_slowly(sched: str) -> None:
    model = deep()
    options = Finetune(layer_decay=0.5, lr=1.0, sched=sched, epochs=2)
    optimizer = optimizer_of(model, options)
    schedule_of(optimizer, options, steps=3).step_update(0)
    rate = {id(param): group["lr"] for group in optimizer.param_groups for param in group["params"]}
    assert [rate[id(weight)] for weight in (model.conv.weight, model.act.heights, model.head.weight)] == [0.5, 0.5, 1.0]


RATES: dict[str, tuple[dict[str, Any], list[float]]] = {
    "none": ({}, [1.0] * 6),
    "none, after a rise": ({"sched": "none", "warmup_epochs": 1, "warmup_lr": 0.1}, [0.1, 0.4, 0.7, 1.0, 1.0, 1.0]),
    "step": ({"decay_epochs": 1.0}, [1.0, 1.0, 1.0, 0.1, 0.1, 0.1]),
    "cosine": ({"min_lr": 0.5}, [1.0, 0.9665, 0.875, 0.75, 0.625, 0.5335]),
    "poly": ({"decay_rate": 1.0}, [1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
}


@pytest.mark.parametrize("name", RATES)
def test_schedules(name: str) -> None:
    more, expected = RATES[name]
    options = Finetune(**{"sched": name, "epochs": 2, "lr": 1.0, **more})
    optimizer = optimizer_of(nn.Linear(2, 2), options)
    schedule, found = schedule_of(optimizer, options, steps=3), []
    for step in range(6):
        schedule.step_update(step)
        found.append(optimizer.param_groups[0]["lr"])
    assert found == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("opt", OPTIMIZERS)
def test_every_optimiser_is_made_and_moves_weights(opt: str) -> None:
    model = deep()
    optimizer = optimizer_of(model, Finetune(opt=opt, lr=0.1))
    before = model.conv.weight.detach().clone()
    model(torch.randn(2, 3, 6, 6)).square().sum().backward()
    optimizer.step()
    optimizer.step()
    assert not torch.equal(model.conv.weight, before)


def test_without_momentum() -> None:
    assert optimizer_of(nn.Linear(2, 2), Finetune(momentum=0.0)).param_groups[0]["nesterov"] is False
    assert optimizer_of(nn.Linear(2, 2), Finetune(momentum=0.5)).param_groups[0]["nesterov"] is True
