"""A trained network, which repairs are measured on."""

from pathlib import Path

import pytest
from torch import nn

from recipes.data import Pictures, cifar10
from recipes.models.build import build


@pytest.fixture(scope="module")
def trained(surgery_data: Path) -> tuple[nn.Module, Pictures, Pictures]:
    """ResNet-20, images to fit on, and 500 others to measure on."""
    train = cifar10(surgery_data / "data" / "cifar10", test=False).train
    assert train is not None
    weights = surgery_data / "weights" / "cifar10_resnet20.safetensors"
    later = Pictures(train.images[2000:2500], train.labels[2000:2500])
    return build("cifar/resnet20", pretrained=weights).eval(), train.first(1000), later
