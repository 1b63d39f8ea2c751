"""Deployed: what is run and timed: modules, on what enters them, in a layout and a dtype."""

from __future__ import annotations

import pytest
import torch

import surgery
from surgery.activations import Affine
from surgery.cost.conditions import Conditions
from surgery.cost.deployed import arguments_of, arranged, deployed, running
from surgery.look.example import Example
from tests.surgery.budget.networks import images, small_net


def conditions(layout: str = "contiguous", dtype: torch.dtype = torch.float32, runtime: str = "eager") -> Conditions:
    return Conditions.here(runtime, layout, dtype, 2, torch.device("cpu"))  # type: ignore[arg-type]


def test_the_deployed_form_computes_the_same_and_is_a_copy() -> None:
    model = small_net()
    made = deployed(model, images(2))
    with torch.no_grad():
        torch.testing.assert_close(made(images()), model(images()))
    assert made is not model and not any(param.requires_grad for param in made.parameters())


def test_arguments_are_those_of_the_first_call() -> None:
    model = small_net()
    found = arguments_of(model, ["blocks.0", "blocks.1"], Example((images(2),), {}))
    with torch.no_grad():
        entering = torch.relu(model.stem(images(2)))
        torch.testing.assert_close(found["blocks.0"], ((entering,), {}))
        torch.testing.assert_close(found["blocks.1"][0][0], model.blocks[0](entering))


def test_arguments_get_layout_and_dtype() -> None:
    (image, number), _ = arranged(((images(2), torch.tensor(3)), {}), conditions("channels_last", torch.bfloat16))
    assert image.is_contiguous(memory_format=torch.channels_last) and image.dtype == torch.bfloat16
    assert number.dtype == torch.int64


def test_a_module_is_run_under_the_conditions() -> None:
    seen: list[tuple[torch.dtype, bool, bool]] = []

    class Spy(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            last = x.is_contiguous(memory_format=torch.channels_last)
            seen.append((x.dtype, last, torch.is_inference_mode_enabled()))
            return x

    running(Spy(), ((images(2),), {}), conditions("channels_last", torch.float64))()
    assert seen == [(torch.float64, True, True)]


@pytest.mark.slow
def test_onnxruntime_runs_what_was_exported() -> None:
    found = running(small_net(), ((images(2),), {}), conditions(runtime="onnxruntime"))()
    with torch.no_grad():
        torch.testing.assert_close(found[0], small_net()(images(2)), rtol=1e-4, atol=1e-5)  # type: ignore[index]


def test_norms_are_folded_and_linear_neighbours_merged() -> None:
    model, _ = surgery.transform(small_net(), surgery.erase(site="blocks.0.relu 1/2", stand_in="affine"), images(2))
    made = deployed(model, images(2))
    assert not any(isinstance(module, torch.nn.BatchNorm2d | Affine) for module in made.modules())
    with torch.no_grad():
        torch.testing.assert_close(made(images()), model(images()), rtol=1e-4, atol=1e-5)


def test_what_cannot_be_merged_is_timed_as_it_is() -> None:
    model = torch.nn.Sequential(torch.nn.ReLU())
    assert isinstance(deployed(model, images(2))[0], torch.nn.ReLU)
