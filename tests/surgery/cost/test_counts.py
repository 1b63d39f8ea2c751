"""Counts: multiply-adds and activation elements, against sums by hand."""

from __future__ import annotations

import pytest
import torch

import surgery
from recipes.models.cifar_resnet18 import CifarResNet18
from surgery.cost.counts import counting_flops, elements, macs, macs_by_module, relu_count
from surgery.errors import CannotLook
from tests.models.gates import SqueezeExciteNet
from tests.surgery.budget.networks import images, small_net

CONV = 64 * 4 * 4 * 9  # a 3 x 3 convolution of 4 channels on 8 x 8 pixels


def test_multiply_adds_are_those_of_one_image() -> None:
    assert macs(small_net(), images(5)) == 64 * 3 * 4 + 4 * CONV + 4 * 3


def test_multiply_adds_are_known_for_every_module() -> None:
    found = macs_by_module(small_net(), images(2))
    assert found["blocks.1"] == 2 * CONV and found["blocks.0.conv1"] == CONV and "blocks.0.relu" not in found


def test_elements_are_those_of_one_image() -> None:
    sites = surgery.find_sites(small_net(), images(2))
    assert [elements(site) for site in sites] == [256] * 5 and relu_count(sites) == 1280


def test_a_resnet_18_for_cifar_has_the_published_count() -> None:
    sites = surgery.find_sites(CifarResNet18(), torch.rand(2, 3, 32, 32))
    assert len(sites) == 17 and relu_count(sites) == 557_056


def test_gates_do_not_count() -> None:
    sites = surgery.find_sites(SqueezeExciteNet(), SqueezeExciteNet.example)
    assert [elements(site) > 0 for site in sites] == [site.role == "nonlinearity" for site in sites]
    assert "gate" in {site.role for site in sites}


def test_a_wrapped_model_is_refused() -> None:
    with pytest.raises(CannotLook, match="hides the calls"):
        macs(torch.nn.DataParallel(small_net()), images(2))


def test_attention_is_counted_whatever_computes_it() -> None:
    query = torch.randn(1, 2, 17, 16)  # images, heads, tokens, width
    with counting_flops() as counter:
        torch.nn.functional.scaled_dot_product_attention(query, query, query)
    assert counter.get_total_flops() == 2 * (2 * 2 * 17 * 17 * 16)
