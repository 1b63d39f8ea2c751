"""Two traces prove that an edit changed what it should and nothing else, or prove nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import ResNet, resnet50

import surgery
from surgery import transforms
from surgery.edit import prove, same_traces
from surgery.look import finder, observe
from tests import models
from tests.models import picture


class Shortcut(nn.Module):
    """A ReLU that runs twice, a function, and a sum whose order could be reversed."""

    def __init__(self, stride: int = 1, slope: float = 0.1, turned: bool = False, twice: bool = False) -> None:
        super().__init__()
        self.conv, self.other, self.act = nn.Conv2d(3, 3, 3, stride, 1), nn.Conv2d(3, 3, 3, stride, 1), nn.ReLU()
        self.slope, self.turned, self.twice = slope, turned, twice

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.conv(self.act(x)))
        z = F.leaky_relu(self.other(x), self.slope)
        z = self.other(z) if self.twice else z
        return z - y if self.turned else y - z


def shown(before: nn.Module, after: nn.Module, *sites: str) -> bool:
    """Whether the looks prove that `after` is `before` with these calls replaced."""
    old, new = surgery.find_sites(before, picture()), surgery.find_sites(after, picture())
    keys = {str(site): site.key for site in old}
    return same_traces.only_these_changed(
        after, old.look, new.look, {keys[site]: site.replace("act 2/2", "act_1") for site in sites}
    )


@pytest.mark.parametrize("to", ["silu", "prelu", "pwlu", "identity"])
def test_an_edit_is_shown(to: str) -> None:
    edited, _ = surgery.transform(Shortcut(), surgery.swap(to, site="act 2/2"), picture())
    assert shown(Shortcut(), edited, "act 2/2")


@pytest.mark.parametrize("to", ["silu", "identity"])
@pytest.mark.parametrize(
    "change", [{"stride": 2}, {"slope": 0.2}, {"turned": True}, {"twice": True}], ids=lambda change: next(iter(change))
)
def test_whatever_else_changed_is_not_shown(change: dict[str, Any], to: str) -> None:
    edited, _ = surgery.transform(Shortcut(**change), surgery.swap(to, site="act 2/2"), picture())
    assert not shown(Shortcut(), edited, "act 2/2")


def test_another_weight_and_another_call_are_not_shown() -> None:
    edited, _ = surgery.transform(Shortcut(), surgery.swap("silu", site="act 2/2"), picture())
    edited.conv, edited.other = edited.other, edited.conv
    assert shown(Shortcut(), edited, "act 2/2"), "the same operations on weights of the same names"
    edited.get_submodule("other").weight = edited.get_submodule("conv").weight
    assert not shown(Shortcut(), edited, "act 2/2")
    both, _ = surgery.transform(Shortcut(), surgery.swap("silu", site="act*"), picture())
    assert not shown(Shortcut(), both, "act 2/2")


def test_where_numbers_decide_nothing_is_shown() -> None:
    class Steered(Shortcut):
        def forward(self, x: Tensor) -> Tensor:
            y = self.act(self.conv(self.act(x)))
            return y if y.sum() > -1 else x

    edited, _ = surgery.transform(Steered(), surgery.swap("silu", site="act 2/2"), picture())
    assert not shown(Steered(), edited, "act 2/2")


NETWORKS = (
    models.ResidualNet, models.BottleneckNet, models.PreActNet, models.DenseNet, models.FireNet, models.ShuffleNet,
    models.MobileNet, models.PlainNet, models.TwiceUsed, models.ThriceInPlace, models.FunctionalSpellings,
)  # fmt: skip


@pytest.mark.parametrize("to", ["silu", "prelu", "identity"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_common_networks_need_no_other_proof(kind: type[Any], to: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: object) -> None:
        raise AssertionError("the traces show it")

    monkeypatch.setattr(transforms, "prove_rewrites", asked)
    _, report = surgery.transform(kind(), surgery.swap(to, optional=True), kind.example)
    assert report.plan.edits and {edit.make for edit in report.plan.edits} == {to}


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """The number of scratch copies, and of forwards of a ResNet, by mode and device."""
    done: Counter[str] = Counter()
    for module in (finder, observe, prove):
        original: Callable[..., nn.Module] = module.scratch_copy

        def scratch_copy(model: nn.Module, *, original: Callable[..., nn.Module] = original, **how: Any) -> nn.Module:
            done["copies"] += 1
            return original(model, **how)

        monkeypatch.setattr(module, "scratch_copy", scratch_copy)

    def count(module: nn.Module, args: tuple[Any, ...]) -> None:
        if isinstance(module, ResNet):
            done[f"{'train' if module.training else 'eval'} on {args[0].device.type}"] += 1

    handle = torch.nn.modules.module.register_module_forward_pre_hook(count)
    yield done
    handle.remove()


def test_a_network_is_looked_at_once_before_and_once_after(work: Counter[str]) -> None:
    surgery.transform_(resnet50(), surgery.erase_relu())
    assert work == {
        "eval on meta": 2,  # before, after
        "train on meta": 2,  # before, after
        "copies": 5,  # one for each of these, and one that nobody watches
    }


@pytest.mark.slow
def test_starting_values_and_calls_of_the_network_itself_take_one_forward_each(work: Counter[str]) -> None:
    surgery.transform_(resnet50(), surgery.swap("prelu"), torch.rand(2, 3, 32, 32))
    assert work == {
        "eval on meta": 2,
        "train on meta": 2,
        "eval on cpu": 2,  # what enters the calls; that the new modules are called where nobody watches
        "copies": 6,
    }
