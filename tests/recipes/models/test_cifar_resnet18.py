"""The ResNet-18 for small images: its layers, its ReLUs, and its blocks."""

import torch

import surgery
from recipes.models.build import build
from recipes.models.names import names


def test_it_has_the_relus_and_parameters_of_the_papers() -> None:
    model = build("cifar/resnet18").eval()
    sites = surgery.find_sites(model, torch.rand(1, 3, 32, 32))
    assert len(sites) == 17
    assert sum(torch.Size(site.shape).numel() for site in sites) == 557_056
    assert sum(parameter.numel() for parameter in model.parameters()) == 11_173_962


def test_its_blocks_can_be_dropped_where_nothing_is_projected() -> None:
    blocks = surgery.find_sites(build("cifar/resnet18")).blocks
    assert [str(block) for block in blocks if block.locked is None] == [
        "layer1.0", "layer1.1", "layer2.1", "layer3.1", "layer4.1",
    ]  # fmt: skip


def test_it_takes_small_images_and_larger_ones() -> None:
    model = build("cifar/resnet18", num_classes=3, in_chans=1).eval()
    assert model(torch.rand(1, 1, 32, 32)).shape == model(torch.rand(1, 1, 64, 32)).shape == (1, 3)
    assert "resnet18" in names("cifar")
