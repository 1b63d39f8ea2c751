"""Replacements: types and flags of new parameters are those of their place."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import surgery
from surgery.edit.replacement import new_activation
from tests import models
from tests.models import picture
from tests.surgery.transformed import transformed


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_new_parameters_have_the_dtype_of_their_place(dtype: torch.dtype) -> None:
    model = models.BottleneckNet().to(dtype)
    edited = transformed(model, surgery.swap("prelu", position=3), picture().to(dtype))
    assert edited.get_parameter("body.0.act3.weight").dtype is dtype
    assert edited(picture().to(dtype)).dtype is dtype


def test_what_takes_the_place_of_a_frozen_module_is_frozen() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.PReLU()).requires_grad_(False)
    edited = transformed(model, surgery.swap("prelu", init=0.1))
    assert edited.get_parameter("1.weight").tolist() == pytest.approx([0.1] * 4)
    assert not edited.get_parameter("1.weight").requires_grad


def around(name: str) -> Any:
    return torch.inference_mode() if name == "inference" else torch.autocast("cpu", torch.bfloat16)


@pytest.mark.parametrize("mode", ["inference", "autocast"])
def test_what_is_put_in_does_not_depend_on_where_one_calls_from(mode: str) -> None:
    model, rule = models.BottleneckNet(), surgery.swap("prelu")
    plan = surgery.make_plan(surgery.find_sites(model, picture()), rule)
    planned, in_place = copy.deepcopy(model), copy.deepcopy(model)
    with around(mode):
        copied, _ = surgery.transform(model, rule, picture())
        surgery.transform_(in_place, rule, picture())
        surgery.apply_plan(planned, plan)
    for module in (copied, in_place, planned):
        assert {weight.dtype for weight in module.parameters()} == {torch.float32}
        assert not any(weight.is_inference() for weight in (*module.parameters(), *module.buffers()))
        module(picture()).sum().backward()
        assert all(weight.grad is not None for name, weight in module.named_parameters() if "act" in name)


def test_new_parameters_have_the_dtype_of_the_weights_before_them() -> None:
    model = models.BottleneckNet()
    model.body.double()
    plan = surgery.make_plan(surgery.find_sites(models.BottleneckNet(), picture()), surgery.swap("prelu"))
    (first, *_, last) = [replace(edit, site=replace(edit.site, dtype="bfloat16")) for edit in plan.edits]
    assert next(new_activation(model, first).parameters()).dtype is torch.float64
    bare = replace(last, site=replace(last.site, weights=(), owner=""))
    assert next(new_activation(model, bare).parameters()).dtype is torch.float32
