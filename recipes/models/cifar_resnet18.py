"""The ResNet-18 of the private-inference literature for 32 x 32 images: 64 to 512 channels, projections."""

import torch
from torch import Tensor, nn

from recipes.models.cifar_resnet import BasicBlock


class ProjectedBlock(BasicBlock):
    """Two 3 x 3 convolutions and a shortcut, projected by a convolution and a norm where the shape changes."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__(in_channels, channels, stride)
        self.projection = nn.Sequential()
        if stride != 1 or in_channels != channels:
            convolution = nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False)
            self.projection = nn.Sequential(convolution, nn.BatchNorm2d(channels))

    def shortcut(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, channels, H / stride, W / stride)."""
        projected: Tensor = self.projection(x)
        return projected


class CifarResNet18(nn.Module):
    """ResNet-18 with a 3 x 3 stem and no pool, as papers on ReLU counts use it: 557,056 ReLUs for one image.

    Source: He et al., "Deep Residual Learning for Image Recognition", 2015, table 1, adapted to small images; counted
    so in Cho et al., "Selective Network Linearization for Efficient Private Inference", 2022, section 4.
    """

    def __init__(self, num_classes: int = 10, in_chans: int = 3) -> None:
        super().__init__()
        self.image_size = 32  # its usual size; others work as well
        self.conv1 = nn.Conv2d(in_chans, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.act1 = nn.ReLU(inplace=True)
        self.layer1 = _stage(64, 64, stride=1)
        self.layer2 = _stage(64, 128, stride=2)
        self.layer3 = _stage(128, 256, stride=2)
        self.layer4 = _stage(256, 512, stride=2)
        self.linear = nn.Linear(512, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, in_chans, H, W) to logits (N, num_classes)."""
        x = self.act1(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.linear(torch.mean(x, dim=(2, 3)))
        return logits


def _stage(in_channels: int, channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(ProjectedBlock(in_channels, channels, stride), ProjectedBlock(channels, channels, 1))
