"""The benchmark of budgets: its rankings, its split of the images, and the published structures."""

from __future__ import annotations

import torch

import surgery
from benchmarks.budget.pictures import split
from benchmarks.budget.rankings import entropies, evenly, relus, until
from benchmarks.budget.structures import STRUCTURES
from recipes.data import Pictures
from recipes.models.build import build

IMAGES = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_rankings_hold_every_site_once_and_stop_at_the_budget() -> None:
    model = build("cifar/resnet20").eval()
    sites = surgery.find_sites(model, IMAGES[:2])
    order = evenly(sites)
    assert sorted(map(str, order)) == sorted(map(str, sites))
    assert [site.positions == site.position for site in order[:9]] == [True] * 9  # erase_relu begins with the last
    taken = until(order, 0.65 * 188_416)
    assert relus(sites, map(str, taken)) <= 0.65 * 188_416 < relus(sites, map(str, taken[:-1]))


def test_a_site_whose_inputs_have_one_sign_has_no_entropy() -> None:
    model = build("cifar/resnet20").eval()
    norm = model.get_submodule("layer3.2.bn1")
    with torch.no_grad():
        norm.get_parameter("weight").zero_()
        norm.get_parameter("bias").fill_(1.0)
    found = {str(site): bits for site, bits in entropies(model, surgery.find_sites(model, IMAGES[:2]), IMAGES)}
    assert found.pop("layer3.2.act1") < 1e-6
    assert len(found) == 18 and all(0 < bits <= 1 for bits in found.values())


def test_images_to_choose_on_come_from_all_classes() -> None:
    labels = torch.arange(10).repeat_interleave(10)
    chosen, others = split(Pictures(torch.zeros(100, 3, 1, 1, dtype=torch.uint8), labels), 20)
    assert chosen.labels.bincount().tolist() == [2] * 10 and others.labels.bincount().tolist() == [8] * 10


def test_the_structures_are_those_that_were_published() -> None:
    assert [len(blocks) for blocks in STRUCTURES.values()] == [6, 8, 9, 10, 11, 16]
    assert all(list(blocks) == sorted(set(blocks)) for blocks in STRUCTURES.values())
