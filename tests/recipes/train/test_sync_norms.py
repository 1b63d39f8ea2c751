"""Synchronised batch norms compute the same as before, with their activations, or are refused by name."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d, norm_act
from timm.layers.norm_act import SyncBatchNormAct
from torch import Tensor, nn

import surgery
from recipes.format.settings import Finetune
from recipes.train import loss as task
from recipes.train.sync_norms import check_synchronisable, synchronised
from surgery.errors import BadValue, CannotEdit, NotProved
from tests.asserts import assert_raises

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class NormReLU(nn.BatchNorm2d):
    """A norm with an activation, not from timm."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x))


class Renamed(nn.BatchNorm2d):
    """A batch norm under another name."""


def net(norm: Callable[[int], nn.Module] = BatchNormAct2d) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = nn.Sequential(nn.Conv2d(3, 4, 3), norm(4), nn.Conv2d(4, 4, 3), norm(4), nn.Flatten(), nn.Linear(64, 2))
    made.train()(IMAGES)  # statistics that are not those of a fresh norm
    return made.eval()


def edited(name: str) -> nn.Module:
    made, _ = surgery.transform(net(), surgery.swap(name), IMAGES)
    return made.eval()


@pytest.mark.parametrize("model", [net, lambda: net(nn.BatchNorm2d), lambda: net(Renamed), lambda: edited("prelu"),
                                   lambda: edited("pwlu"), lambda: edited("identity")])  # fmt: skip
def test_the_function_is_the_same(model: Callable[[], nn.Module]) -> None:
    plain = model()
    made = synchronised(copy.deepcopy(plain))
    assert torch.equal(made(IMAGES), plain(IMAGES))
    assert sum(isinstance(module, nn.SyncBatchNorm) for module in made.modules()) == 2
    assert made.state_dict().keys() == plain.state_dict().keys()


def test_an_activation_shows_behind_a_norm_whose_weights_are_zero() -> None:
    plain = net()
    nn.init.zeros_(plain[3].weight)
    made = synchronised(plain)
    assert isinstance(made, nn.Sequential) and isinstance(made[3], SyncBatchNormAct)
    assert isinstance(made[3].act, nn.ReLU)


def test_a_norm_that_does_more_is_refused_by_name() -> None:
    assert_raises(CannotEdit, lambda: synchronised(net(NormReLU)), "1 does more", "NormReLU", "sync_bn=False")
    hooked = net(nn.BatchNorm2d)
    hooked[3].register_forward_hook(lambda *_: None)
    assert_raises(CannotEdit, lambda: check_synchronisable(hooked), "3 has hooks", "BatchNorm2d")


def test_a_conversion_that_loses_an_activation_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's conversion drops the activation of a norm."""
    monkeypatch.setattr(norm_act, "convert_sync_batchnorm", nn.SyncBatchNorm.convert_sync_batchnorm)
    mixed = nn.Sequential(nn.BatchNorm2d(3), net())
    assert_raises(
        NotProved, lambda: synchronised(mixed), "1.1 computes something else", "BatchNormAct2d, then SyncBatchNorm",
        "sync_bn=False",
    )  # fmt: skip
    plain = net(nn.BatchNorm2d)
    assert torch.equal(synchronised(copy.deepcopy(plain))(IMAGES), plain(IMAGES)), "which is right where there is none"


def test_the_body_of_a_training_shares_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = edited("prelu")
    monkeypatch.setattr(task, "processes", lambda: 2)
    assert_raises(BadValue, lambda: task.body_of(plain, Finetune(sync_bn=True)), "need CUDA", "sync_bn")
    monkeypatch.setattr(task, "_on_cuda", lambda _: True)
    body = task.body_of(plain, Finetune(sync_bn=True))
    assert torch.equal(body.eval()(IMAGES), plain(IMAGES))
    assert {id(param) for param in body.parameters()} == {id(param) for param in plain.parameters()}
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in plain.modules())
