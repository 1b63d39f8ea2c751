"""The networks of the studies: how each is built, and how it is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from benchmarks.studies.jobs import Protocol
from recipes.data import shared_folder
from recipes.format.settings import Finetune
from recipes.models.build import build


@dataclass(frozen=True)
class Network:
    """A model by its name, and its training from trained and from fresh weights.

    Trained weights are those of the folder that SURGERY_DATA names.
    """

    name: str
    trained: Finetune
    fresh: Finetune
    kwargs: Mapping[str, int] | None = None

    def build(self, seed: int, *, fresh: bool) -> nn.Module:
        """The model, with trained weights or with random ones that depend on the seed."""
        torch.manual_seed(seed)
        return build(self.name, pretrained=False if fresh else self._weights, **self.kwargs or {})

    @property
    def _weights(self) -> Path:
        return shared_folder() / "weights" / f"cifar10_{self.name.partition('/')[2]}.safetensors"

    def options(self, protocol: Protocol, *, fresh: bool) -> Finetune:
        """The settings of its training under a protocol."""
        options = self.fresh if fresh else self.trained
        epochs = protocol.fresh_epochs if fresh else protocol.epochs
        return replace(options, epochs=epochs, warmup_epochs=min(options.warmup_epochs, epochs - 1))


def resnet(depth: int) -> Network:
    """He et al.'s small residual network of `depth` layers."""
    trained = Finetune(batch_size=128, lr=0.02, weight_decay=1e-4, channels_last=True)
    fresh = Finetune(batch_size=128, lr=0.1, weight_decay=5e-4, warmup_epochs=1, channels_last=True)
    return Network(f"cifar/resnet{depth}", trained, fresh)


def vit_tiny() -> Network:
    """A ViT-tiny with 4 x 4 patches of 32 x 32 images, trained in bfloat16."""
    options = Finetune(opt="adamw", batch_size=128, lr=1e-3, weight_decay=0.05, warmup_epochs=1, amp=True)
    return Network(
        "timm/vit_tiny_patch16_224", options, options, {"num_classes": 10, "img_size": 32, "patch_size": 4}
    )  # fmt: skip
