"""Masks of other libraries are read from a model, and laid over with ours."""

from __future__ import annotations

import torch
import torch.ao.pruning
from torch import nn
from torch.nn.utils import prune

from pruning.masks.host_masks import host_masks
from pruning.masks.masks import Masks
from tests.pruning.tiny import random_masks, tiny_net


def test_of_a_model_pruned_by_torch() -> None:
    model = tiny_net()
    prune.l1_unstructured(model[0], "weight", amount=10)
    prune.random_unstructured(model[4], "weight", amount=0.5)
    prune.l1_unstructured(model[4], "weight", amount=0.5)
    with torch.no_grad():
        model[0].weight_orig[model[0].weight_mask.bool()] = 0  # masked by nobody: it may live
    masks = Masks.of(model)
    assert torch.equal(masks["0.weight"], model[0].weight_mask.bool())
    assert masks["0.weight"].sum() == 62
    assert torch.equal(masks["4.weight"], model[4].weight_mask.bool())
    assert masks["4.weight"].sum() == 48
    for layer in (model[0], model[4]):
        prune.remove(layer, "weight")
    assert Masks.of(model)["4.weight"].sum() == 48


def test_of_a_model_with_a_sparsifier() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    sparsifier = torch.ao.pruning.WeightNormSparsifier(sparsity_level=0.5, sparse_block_shape=(1, 1))
    sparsifier.prepare(model, [{"tensor_fqn": "2.weight"}])
    assert Masks.of(model).share == 1
    sparsifier.step()
    masks = Masks.of(model)
    assert masks["2.weight"].sum() == 32
    assert torch.equal(masks["2.weight"], model[2].weight != 0)
    assert masks["0.weight"].all()
    assert list(found := host_masks(model)) == ["2.weight"]
    assert torch.equal(found["2.weight"].bool(), masks["2.weight"])


def test_laid_over_hosts_too() -> None:
    model = tiny_net()
    prune.identity(model[4], "weight")
    masks = random_masks(model)
    masks.lay_over(model)
    assert torch.equal(model[4].weight_orig != 0, masks["4.weight"])
