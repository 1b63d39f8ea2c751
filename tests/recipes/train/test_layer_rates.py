"""Layer rates: added activations learn as fast as the layer in front, and all other rates stay."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn

import surgery
from recipes.format.settings import Finetune
from recipes.train.layer_rates import layer_groups, layers_of
from recipes.train.setup import optimizer_of

DECAY = 0.5
LEARNED = ("pwlu", "npwlu", "frelu", "swish", "smelu")


class Plain(nn.Module):
    """A network without a group matcher, with functional calls."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in range(14))
        self.fc = nn.Linear(3, 2)
        self.pretrained_cfg = {"classifier": "fc"}

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.convs[0](x))
        for conv in self.convs[1:]:
            x = conv(x)
        return self.fc(torch.relu(x).mean((2, 3)))


def scales(model: nn.Module, groups: list[dict[str, Any]] | None = None) -> dict[str, float]:
    """The factor of every parameter, by name."""
    name_of = {id(param): name for name, param in model.named_parameters()}
    groups = layer_groups(model, 0.05, DECAY) if groups is None else groups
    return {name_of[id(param)]: group["lr_scale"] for group in groups for param in group["params"]}


# An activation, and the layer in front of it: in the stem, in a stage, at the end of a block, in the head.
NETWORKS = {
    "test_resnet.r160_in1k": {"act1": "bn1", "layer2.0.act1": "layer2.0.bn1", "layer4.0.act2": "layer4.0.bn2"},
    "test_efficientnet.r160_in1k": {"bn1.act": "bn1", "blocks.2.0.bn1.act": "blocks.2.0.bn1", "bn2.act": "bn2"},
    "vgg11_bn": {"features.2": "features.1", "features.27": "features.26", "pre_logits.act1": "pre_logits.fc1"},
    "mobilenetv3_small_050": {"bn1.act": "bn1", "blocks.1.0.bn2.act": "blocks.1.0.bn2", "act2": "conv_head"},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name, function", [*((name, "prelu") for name in NETWORKS),
                                            *(("test_resnet.r160_in1k", name) for name in LEARNED)])  # fmt: skip
def test_activations_learn_as_fast_as_the_layer_in_front(name: str, function: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, pretrained=False)
    before = scales(model, param_groups_layer_decay(model, 0.05, layer_decay=DECAY))
    edited, report = surgery.transform(model, surgery.swap(function))
    after = scales(edited)
    assert report.added and {name: after[name] for name in before} == before
    for activation, layer in NETWORKS[name].items():
        found = {scale for name, scale in after.items() if name.startswith(f"{activation}.")}
        assert found == {before[f"{layer}.weight"]}, f"{activation} behind {layer}"


def test_a_network_without_a_matcher_keeps_its_layers() -> None:
    model = Plain()
    before = layers_of(model)
    assert (before["convs.0.weight"], before["convs.13.weight"], before["fc.weight"]) == (0, 2, 3)
    edited, _ = surgery.transform(model, surgery.swap("prelu"), torch.randn(2, 3, 4, 4))
    assert layers_of(edited) == before | {"relu.weight": 0, "relu_1.weight": 2}


@pytest.mark.slow
def test_weights_that_rest_while_slopes_learn_are_there() -> None:
    edited, _ = surgery.transform(Plain(), surgery.swap("frelu", alternate="weights"), torch.randn(2, 3, 4, 4))
    surgery.set_progress(edited, 0.5, step=1)
    assert not edited.convs[3].weight.requires_grad, "it rests"
    optimizer = optimizer_of(edited, Finetune(layer_decay=DECAY, weight_decay=0.05))
    held = [id(param) for group in optimizer.param_groups for param in group["params"]]
    assert sorted(held) == sorted(id(param) for param in edited.parameters())
