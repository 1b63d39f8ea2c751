"""Trial: a copy set to actions computes what the edited network computes, and goes back."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import surgery
from surgery.budget.trial import Dropped, Switch, Trial
from surgery.cost.action import MENU, Action, actions_at, rules_of
from surgery.cost.editable import editable_groups
from surgery.cost.paddings import paddings_of
from surgery.model import in_eval
from tests.models.blocks import ResidualNet
from tests.models.transformers import TinyVit
from tests.surgery.budget.networks import images, small_net, with_random_weights


def trial_of(model: nn.Module, example: Tensor, swap_to: str = "silu") -> tuple[Trial, tuple[Action, ...]]:
    sites = surgery.find_sites(model, example)
    paddings = paddings_of(model, sites, editable_groups(model, sites))
    trial = Trial(model, sites, swap_to, paddings)
    return trial, actions_at(trial.groups, sites, MENU, swap_to, mergeable=paddings)


def output(model: nn.Module, x: Tensor) -> Tensor:
    with in_eval(model):
        return model(x.clone())


@pytest.mark.slow
@pytest.mark.parametrize(
    "make", [small_net, lambda: with_random_weights(ResidualNet(), 1).eval()], ids=["small", "resnet"]
)
def test_each_action_computes_what_its_rules_make(make: object) -> None:
    model = make()  # type: ignore[operator]
    trial, actions = trial_of(model, images(2))
    assert {action.what for action in actions} == {*MENU} - {"keep"}
    for action in actions:
        edited, _ = surgery.transform(model, rules_of([action]), images(2))
        trial.set_to([action])
        assert torch.equal(output(trial.network, images()), output(edited, images())), str(action)
    trial.set_to([])
    assert torch.equal(output(trial.network, images()), output(model, images()))


def test_several_actions_compute_what_their_rules_make() -> None:
    model = small_net()
    trial, actions = trial_of(model, images(2))
    named = {str(action): action for action in actions}
    chosen = [named["drop blocks.1"], named["affine blocks.0.relu 1/2"], named["swap relu to silu"]]
    edited, _ = surgery.transform(model, rules_of(chosen), images(2))
    trial.set_to(chosen)
    torch.testing.assert_close(output(trial.network, images()), output(edited, images()), rtol=0, atol=0)


@pytest.mark.slow
def test_the_blocks_of_a_transformer_are_tried_too() -> None:
    model = with_random_weights(TinyVit(), 0).eval()
    trial, actions = trial_of(model, TinyVit.example, "relu")
    for action in [action for action in actions if action.what in ("erase", "swap", "drop")]:
        edited, _ = surgery.transform(model, rules_of([action]), TinyVit.example)
        trial.set_to([action])
        assert torch.equal(output(trial.network, TinyVit.example), output(edited, TinyVit.example)), str(action)


def test_the_network_itself_stays_as_it_was() -> None:
    model = small_net()
    before = repr(model)
    trial, actions = trial_of(model, images(2))
    trial.set_to(actions[:1])
    assert repr(model) == before and not any(isinstance(module, Switch | Dropped) for module in model.modules())


def test_what_cannot_be_edited_is_named() -> None:
    class Held(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.act, self.fc = nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Linear(4, 2)
            self.known = {self.act: "relu"}

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.conv(x))
            for act in self.known:
                x = act(x)
            return self.fc(x.mean((2, 3)))

    trial, actions = trial_of(Held().eval(), images(2))
    assert {action.place for action in actions} >= {"relu"}
    assert len(trial.groups) + len(trial.left_out) == 2
