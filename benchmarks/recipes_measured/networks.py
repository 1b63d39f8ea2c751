"""The networks that recipes are measured on: one of each family, small enough for a processor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import surgery
from benchmarks.recipes_measured.excerpt import excerpt
from benchmarks.recipes_measured.protocol import Protocol
from recipes.data import shared_folder
from recipes.format.recipe import Recipe
from recipes.format.settings import Finetune
from recipes.models.build import build
from recipes.runs.run import run, silent

SGD = Finetune(lr=0.02, weight_decay=5e-4, channels_last=True)
ADAMW = Finetune(opt="adamw", lr=1e-3, weight_decay=0.05, clip_grad=1.0)


@dataclass(frozen=True)
class Network:
    """A model of a catalogue, the arguments of its builder, and the side in pixels of the images it is given.

    `training` is how it is trained first, from random weights; None: it has the published weights of the folder that
    SURGERY_DATA names. `passes` multiplies the epochs of that training, for networks that learn slowly and run fast.
    """

    about: str
    model: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    size: int = 32
    training: Finetune | None = SGD
    passes: int = 1


NETWORKS = {
    "resnet20": Network("ResNet-20", "cifar/resnet20", training=None),
    "resnet56": Network("ResNet-56", "cifar/resnet56", training=None),
    "vgg": Network("VGG-16, a quarter as wide", "cifar/vgg16_bn", {"width": 0.25}),
    "densenet": Network(
        "DenseNet, 4 blocks of 3 layers", "timm/densenet121", {"growth_rate": 12, "block_config": (3, 3, 3, 3)}, 64
    ),
    "inception": Network("GoogLeNet", "torchvision/googlenet", {"aux_logits": False}),
    "regnet": Network("RegNetX-200MF, 8 blocks", "timm/regnetx_002", {"depth": 8}, 64),
    "mobilenetv2": Network("MobileNetV2 0.5", "timm/mobilenetv2_050", size=64),
    "mobilenetv3": Network("MobileNetV3-Small 0.5", "timm/mobilenetv3_small_050", size=64),
    "efficientnet": Network("EfficientNet, 4 blocks", "timm/test_efficientnet", size=64),
    "convnext": Network(
        "ConvNeXt, 6 blocks", "timm/convnext_tiny",
        {"depths": (1, 1, 3, 1), "dims": (32, 64, 128, 256), "patch_size": 2}, training=ADAMW, passes=2,
    ),
    "vit": Network(
        "ViT, 6 layers, 16 patches", "timm/vit_tiny_patch16_224",
        {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 6, "num_heads": 2}, training=ADAMW, passes=2,
    ),
    "swin": Network(
        "Swin, 4 layers", "timm/swin_tiny_patch4_window7_224",
        {"img_size": 32, "window_size": 4, "embed_dim": 48, "depths": (2, 2), "num_heads": (2, 4)},
        training=ADAMW, passes=2,
    ),
    "mixer": Network(
        "Mixer-S/16, narrow MLPs", "timm/mixer_s16_224", {"img_size": 32, "mlp_ratio": (0.0625, 0.5)}, training=ADAMW,
    ),
}  # fmt: skip


def trained(name: str, folder: Path, protocol: Protocol, seed: int) -> Path:
    """The saved folder of a network with trained weights, which are trained now if they never were."""
    network, start, end = NETWORKS[name], folder / f"{name}-start", folder / f"{name}-trained"
    kwargs = dict(network.kwargs)
    if not (start / "surgery.json").is_file():
        torch.manual_seed(seed)
        weights = shared_folder() / "weights" / f"cifar10_{network.model.partition('/')[2]}.safetensors"
        model = build(network.model, pretrained=False if network.training else weights, num_classes=10, **kwargs)
        image = torch.rand(2, 3, network.size, network.size)
        surgery.save(model, start, name=network.model, kwargs={**kwargs, "num_classes": 10}, example=image)
    if network.training is None:
        return start
    recipe = Recipe(name="training", rules=(), finetune=protocol.first(network.training, network.passes))
    run(
        recipe, str(start), "cifar10", end, data_dir=excerpt(folder, protocol), img_size=network.size,
        val_num_samples=protocol.watched_images, seed=seed, resume=True, say=silent,
    )  # fmt: skip
    return end
