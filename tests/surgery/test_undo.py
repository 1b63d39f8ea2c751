"""Undo restores class, modules, names, hooks, mode and every bit of the results, step by step and all at once."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

import surgery
from surgery.edit.write import keep_history
from surgery.history.history import History, Step
from surgery.plan.rules import Rule
from tests import models
from tests.asserts import HOOKS, assert_raises, assert_same_function, assert_untouched
from tests.models import picture, randomise
from tests.processes import run_python

RULES: tuple[tuple[type[models.Stated], Rule], ...] = (
    (models.ResidualNet, surgery.erase_relu()),
    (models.ResidualNet, surgery.swap("prelu", position=1)),
    (models.BottleneckNet, surgery.erase_relu()),
    (models.TwoNames, surgery.swap("gelu", site="first")),
    (models.PreActNet, surgery.erase_relu(fade=True)),
    (models.AliasBlocks, surgery.swap("silu", site="mlp3.act")),
    (models.HeadOnLevels, surgery.swap("prelu")),
    (models.ListLoop, surgery.erase()),
    (models.WhileLoop, surgery.erase(iteration=2)),
    (models.SharedInComprehension, surgery.erase(iteration=1)),
    (models.FunctionalSpellings, surgery.swap("elu")),
    (models.UserHooks, surgery.erase(site="act 2/2")),
    (models.Encoder, surgery.erase()),
    (models.HelperMethod, surgery.erase()),
)


def frame(model: nn.Module) -> dict[str, object]:
    """Everything that undo must restore, objects by identity."""
    modules = list(model.named_modules(remove_duplicate=False))
    return {
        "objects": [(path, id(module)) for path, module in modules],
        "classes": [(path, type(module)) for path, module in modules],
        "modes": [(path, module.training) for path, module in modules],
        "attributes": [(path, sorted(vars(module))) for path, module in modules],
        "hooks": [(path, name, dict(getattr(module, name))) for path, module in modules for name in HOOKS],
        "parameters": [(name, id(param), param.requires_grad) for name, param in model.named_parameters()],
        "buffers": [(name, id(buffer)) for name, buffer in model.named_buffers()],
        "keys": list(model.state_dict()),
    }


@pytest.mark.parametrize(("kind", "rule"), RULES, ids=lambda value: getattr(value, "__name__", str(value)))
def test_undo_brings_back_the_very_same_objects(kind: type[models.Stated], rule: Rule) -> None:
    model = randomise(kind())
    before, copied = frame(model), copy.deepcopy(model)
    surgery.transform_(model, rule, kind.example)
    assert frame(model) != before
    assert surgery.undo(model) is model
    assert frame(model) == before
    assert surgery.history_of(model) == ()
    assert_same_function(model, copied, kind.example)


@pytest.mark.parametrize(("kind", "rule"), RULES, ids=lambda value: getattr(value, "__name__", str(value)))
def test_a_copy_of_an_edited_model_can_be_undone_alone(kind: type[models.Stated], rule: Rule) -> None:
    model = randomise(kind())
    edited, _ = surgery.transform(model, rule, kind.example)
    copied = copy.deepcopy(edited)
    with assert_untouched(edited):
        surgery.undo(copied)
    assert_same_function(copied, model, kind.example)
    assert [type(module) for module in copied.modules()] == [type(module) for module in model.modules()]
    assert_same_function(surgery.undo(edited), model, kind.example)


@pytest.mark.parametrize(
    ("kind", "rule"),
    [pair for pair in RULES if pair[0] is not models.UserHooks],  # their hooks are lambdas
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_pickled_model_can_be_undone(kind: type[models.Stated], rule: Rule) -> None:
    model = randomise(kind())
    edited, _ = surgery.transform(model, rule, kind.example)
    restored = pickle.loads(pickle.dumps(edited))
    assert_same_function(restored, edited, kind.example)
    assert_same_function(surgery.undo(restored), model, kind.example)


def test_two_steps_on_one_owner_survive_pickle() -> None:
    model = randomise(models.ResidualNet())
    edited, _ = surgery.transform(model, surgery.erase_relu(), picture())
    twice, _ = surgery.transform(edited, surgery.swap("gelu", position=1), picture())
    restored = pickle.loads(pickle.dumps(twice))
    assert_same_function(restored, twice, picture())
    assert_same_function(surgery.undo(restored, 1), edited, picture())
    assert_same_function(surgery.undo(restored), model, picture())


def test_a_pickled_model_can_be_undone_in_another_process(tmp_path: Path) -> None:
    model = randomise(models.ResidualNet()).eval()
    edited, _ = surgery.transform(model, surgery.erase_relu(), picture())
    file = tmp_path / "edited.pt"
    with torch.no_grad():
        torch.save((edited, edited(picture()), model(picture())), file)
    code = (
        "import sys, torch, surgery\n"
        "from tests.models import picture\n"
        "torch.set_num_threads(1)\n"
        "model, edited, plain = torch.load(sys.argv[1], weights_only=False)\n"
        "with torch.no_grad():\n"
        "    assert torch.equal(model(picture()), edited)\n"
        "    assert torch.equal(surgery.undo(model)(picture()), plain)\n"
    )
    done = run_python(code, file)
    assert done.returncode == 0, done.stderr


# Steps


def test_step_by_step() -> None:
    model = randomise(models.BottleneckNet())
    states = [model]
    rules = [surgery.erase_relu(), surgery.swap("prelu", position=1), surgery.swap("gelu", site="body.1.act2")]
    for rule in rules:
        states.append(surgery.transform(states[-1], rule, picture())[0])
    last = states.pop()
    assert len(surgery.history_of(last)) == 3
    while states:
        assert surgery.undo(last, 1) is last
        earlier = states.pop()
        assert_same_function(last, earlier, picture())
        assert len(surgery.history_of(last)) == len(surgery.history_of(earlier))


@pytest.mark.parametrize("steps", [2, 3, None])
def test_several_steps_at_once(steps: int | None) -> None:
    model = randomise(models.ResidualNet())
    before = frame(model)
    once = None
    for rule in (
        surgery.erase_relu(),
        surgery.swap("gelu", position=1),
        surgery.erase(activation="gelu", block="layer1.0"),
    ):
        surgery.transform_(model, rule, picture())
        once = once or copy.deepcopy(model)
    surgery.undo(model, steps)
    if steps == 2:
        assert once is not None
        assert_same_function(model, once, picture())
        surgery.undo(model)
    assert frame(model) == before


def test_undone_models_can_be_transformed_again() -> None:
    model = randomise(models.ResidualNet())
    first, _ = surgery.transform(model, surgery.erase_relu(), picture())
    again = surgery.undo(copy.deepcopy(first))
    surgery.transform_(again, surgery.erase_relu(), picture())
    assert_same_function(again, first, picture())


def test_the_mode_is_that_of_the_model_now() -> None:
    model = models.BottleneckNet().train()
    surgery.transform_(model, surgery.swap("prelu"), picture())
    model.eval()
    surgery.undo(model)
    assert not any(module.training for module in model.modules())


def test_hooks_given_to_what_was_put_in_stay_with_the_slot() -> None:
    model = models.BottleneckNet()
    calls: list[str] = []
    model.body[0].act3.register_forward_hook(lambda module, args, out: calls.append("before"))
    surgery.transform_(model, surgery.swap("gelu", site="body.0.act3"), picture())
    handle = model.body[0].act3.register_forward_hook(lambda module, args, out: calls.append("after"))
    model(picture())
    assert calls == ["before", "after"]
    handle.remove()
    surgery.undo(model)(picture())
    assert calls == ["before", "after", "before"]


def test_weights_trained_in_between_are_kept() -> None:
    model = models.ResidualNet()
    surgery.transform_(model, surgery.erase_relu(), picture())
    with torch.no_grad():
        model.fc.weight.fill_(0.25)
    surgery.undo(model)
    assert model.fc.weight.eq(0.25).all()


# Refusals


@pytest.mark.parametrize("steps", [None, 1, 3])
def test_an_unedited_model_has_nothing_to_undo(steps: int | None) -> None:
    model = models.ResidualNet()
    with assert_untouched(model):
        assert_raises(surgery.NotEdited, lambda: surgery.undo(model, steps), "ResidualNet has 0 edits")


def test_the_original_of_an_edited_copy_has_nothing_to_undo() -> None:
    model = models.ResidualNet()
    surgery.transform(model, surgery.erase_relu(), picture())
    assert_raises(surgery.NotEdited, lambda: surgery.undo(model), "transform returns a copy")


@pytest.mark.parametrize("steps", [2, 0, -1])
def test_as_many_steps_as_there_are(steps: int) -> None:
    model = models.ResidualNet()
    surgery.transform_(model, surgery.erase_relu(), picture())
    with assert_untouched(model):
        assert_raises(surgery.SurgeryError, lambda: surgery.undo(model, steps), str(steps))


def test_a_failed_transform_leaves_no_step() -> None:
    model = models.ResidualNet()
    assert_raises(surgery.UnknownName, lambda: surgery.transform_(model, surgery.erase(site="nothing"), picture()))
    assert surgery.history_of(model) == ()


def test_a_step_of_another_kind_stands_in_the_way() -> None:
    model = models.ResidualNet()
    surgery.transform_(model, surgery.erase_relu(), picture())
    keep_history(model, History([*surgery.history_of(model), Step("structure", {}, None)]))
    with assert_untouched(model):
        assert_raises(surgery.CannotEdit, lambda: surgery.undo(model), "'structure'")


def test_what_undo_brings_back_follows_a_model_that_moved_on() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.PReLU())
    edited, _ = surgery.transform(model, surgery.swap("silu"), torch.rand(2, 3, 4, 4))
    surgery.undo(edited.bfloat16())
    assert {weight.dtype for weight in edited.parameters()} == {torch.bfloat16}
    assert edited(torch.rand(2, 3, 4, 4).bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("steps", [None, 1])
def test_what_somebody_put_in_since_is_not_overwritten(steps: int | None) -> None:
    model = models.BottleneckNet()
    surgery.transform_(model, surgery.swap("gelu", position=1), picture())
    surgery.transform_(model, surgery.erase_relu(), picture())
    model.body[1].act3 = nn.Tanh()
    with assert_untouched(model):
        assert_raises(surgery.CannotEdit, lambda: surgery.undo(model, steps), "body.1.act3", "Tanh")


def test_what_somebody_put_in_elsewhere_does_not_matter() -> None:
    model = models.BottleneckNet()
    surgery.transform_(model, surgery.swap("gelu", position=1), picture())
    surgery.transform_(model, surgery.erase_relu(), picture())
    model.body[0].act1 = nn.Tanh()  # of the first step, which stays
    surgery.undo(model, 1)
    assert_raises(surgery.CannotEdit, lambda: surgery.undo(model), "body.0.act1")


def test_each_part_comes_back_to_where_the_model_around_it_went() -> None:
    model = nn.Sequential(*(nn.Sequential(nn.PReLU(), nn.Conv2d(3, 3, 1)) for _ in range(2)))
    surgery.transform_(model, surgery.swap("silu"), torch.rand(2, 3, 4, 4))
    model[1].to("meta")
    surgery.undo(model)
    assert [str(weight.device) for weight in model.parameters()] == ["cpu", "cpu", "cpu", "meta", "meta", "meta"]
