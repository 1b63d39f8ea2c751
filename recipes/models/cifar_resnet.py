"""The small residual networks of He et al. for 32 x 32 images: 16, 32 and 64 channels, shortcuts without weights."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from surgery.errors import BadValue

DEPTHS = (20, 32, 44, 56, 110)


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut without parameters; one activation module per call."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.act2 = nn.ReLU(inplace=True)
        self.stride = stride
        self.padded = channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, channels, H / stride, W / stride)."""
        out = self.act1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        joined: Tensor = self.act2(out + self.shortcut(x))
        return joined

    def shortcut(self, x: Tensor) -> Tensor:
        """`x`, subsampled by the stride, and padded with channels of zeros on both sides."""
        if self.stride == 1 and self.padded == 0:
            return x
        before = self.padded // 2
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.padded - before))


class CifarResNet(nn.Module):
    """A residual network of `depth` layers: 6 n + 2, with n blocks in each of the three stages.

    Source: He et al., "Deep Residual Learning for Image Recognition", 2015, section 4.2, with their option A.
    """

    def __init__(self, depth: int, num_classes: int = 10, in_chans: int = 3) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise BadValue(
                f"a CIFAR ResNet of depth {depth} does not exist.", try_=f"6 n + 2: {', '.join(map(str, DEPTHS))}"
            )
        self.image_size = 32  # its usual size; others work as well
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(in_chans, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.act1 = nn.ReLU(inplace=True)
        self.layer1 = _stage(blocks, 16, 16, stride=1)
        self.layer2 = _stage(blocks, 16, 32, stride=2)
        self.layer3 = _stage(blocks, 32, 64, stride=2)
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, in_chans, H, W) to logits (N, num_classes)."""
        x = self.act1(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(torch.mean(x, dim=(2, 3)))
        return logits


def _stage(blocks: int, in_channels: int, channels: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, channels, stride)
    return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1)))
