"""The VGG for small images: its layers, its size, and its sites."""

import pytest
import torch
from torch import nn

import surgery
from recipes.models.build import build, input_size
from recipes.models.names import names

# By hand: convolutions of 3 x 3 with biases, two numbers a channel for the norms, and the linear layer.
WIDTHS = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
CONVOLUTIONS = sum(9 * before * after + after for before, after in zip([3, *WIDTHS], WIDTHS, strict=False))
PARAMETERS = CONVOLUTIONS + 2 * sum(WIDTHS) + 512 * 10 + 10


@pytest.fixture(scope="module")
def vgg() -> nn.Module:
    return build("cifar/vgg16_bn").eval()


def test_it_has_the_parts_it_should(vgg: nn.Module) -> None:
    convolutions = [module for module in vgg.modules() if isinstance(module, nn.Conv2d)]
    assert [module.out_channels for module in convolutions] == WIDTHS
    assert sum(isinstance(module, nn.BatchNorm2d) for module in vgg.modules()) == 13
    assert sum(isinstance(module, nn.MaxPool2d) for module in vgg.modules()) == 5
    assert sum(parameter.numel() for parameter in vgg.parameters()) == PARAMETERS == 14_728_266


def test_its_features_are_called_as_those_of_torchvision(vgg: nn.Module) -> None:
    with torch.device("meta"):
        large = build("torchvision/vgg16_bn").get_submodule("features").state_dict()
    small = vgg.get_submodule("features").state_dict()
    assert {name: tensor.shape for name, tensor in small.items()} == {
        name: tensor.shape for name, tensor in large.items()
    }


def test_it_takes_small_images_and_larger_ones(vgg: nn.Module) -> None:
    assert vgg(torch.rand(1, 3, 32, 32)).shape == vgg(torch.rand(1, 3, 64, 32)).shape == (1, 10)
    assert input_size("cifar/vgg16_bn") is None and "vgg16_bn" in names("cifar")
    other = build("cifar/vgg16_bn", num_classes=3, in_chans=1).eval()
    assert other(torch.rand(1, 1, 32, 32)).shape == (1, 3)


def test_a_narrow_one_has_the_same_layers() -> None:
    narrow = build("cifar/vgg16_bn", width=0.1)
    convolutions = [module.out_channels for module in narrow.modules() if isinstance(module, nn.Conv2d)]
    assert convolutions == [8, 8, 13, 13, 26, 26, 26, 51, 51, 51, 51, 51, 51]
    assert narrow.eval()(torch.rand(1, 3, 32, 32)).shape == (1, 10)


def test_what_goes_in_comes_out_with_about_its_size(vgg: nn.Module) -> None:
    fresh = build("cifar/vgg16_bn").get_submodule("features")
    with torch.no_grad():
        spread = float(fresh.train()(torch.randn(8, 3, 32, 32)).std())
    assert 0.3 < spread < 3


def test_surgery_sees_its_stages(vgg: nn.Module) -> None:
    sites = surgery.find_sites(vgg)
    assert len(sites) == 13 and len({site.block for site in sites}) == 5
    assert {site.activation for site in sites} == {"relu"} or all(site.activation.startswith("relu") for site in sites)
    _, report = surgery.transform(vgg, surgery.erase_relu())
    assert len(report.plan.edits) > 0
