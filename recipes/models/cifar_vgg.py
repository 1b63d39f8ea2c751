"""The VGG of the pruning literature for 32 x 32 images: 13 convolutions with batch norm and one linear layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

DEPTHS = (16,)
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class CifarVGG(nn.Module):
    """VGG-16 with batch norm for small images; its `features` are called as those of torchvision's `vgg16_bn`.

    Five stages, each with a pooling layer at its end, reduce 32 x 32 pixels to one; a single linear layer with 512
    inputs replaces the three of the original. `width` multiplies the channels of
    all layers, which keep at least 8.

    Source: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2014,
    configuration D; with norms and one linear layer as in Liu et al., "Rethinking the Value of Network Pruning", 2019.
    """

    def __init__(self, num_classes: int = 10, in_chans: int = 3, width: float = 1.0) -> None:
        super().__init__()
        self.image_size = 32  # its usual size; larger ones work as well
        layers: list[nn.Module] = []
        channels = in_chans
        for stage in STAGES:
            for wider in (max(8, round(width * whole)) for whole in stage):
                layers += [nn.Conv2d(channels, wider, 3, padding=1), nn.BatchNorm2d(wider), nn.ReLU(inplace=True)]
                channels = wider
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, in_chans, H, W), H and W at least 32, to logits (N, num_classes)."""
        logits: Tensor = self.classifier(torch.mean(self.features(x), dim=(2, 3)))
        return logits
