"""Steps as data: plans survive a file, and fingerprints distinguish models."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

import surgery
from surgery.errors import BadFile, BadValue, WrongModel
from surgery.history.plan_data import check_steps, fingerprint, plan_from_data, plan_to_data, replay_of
from tests.asserts import assert_raises
from tests.models import STATED, ListLoop, ResidualNet, Stated, TwiceUsed, picture


@pytest.mark.parametrize("kind", STATED, ids=lambda kind: kind.__name__)
def test_a_plan_goes_through_text_and_back(kind: type[Stated]) -> None:
    sites = surgery.find_sites(kind(), kind.example)
    rule = surgery.swap("leaky_relu", negative_slope=0.3, role=("nonlinearity", "gate", "head"), fade=True)
    plan = surgery.make_plan(sites, rule)
    data = json.loads(json.dumps(plan_to_data(plan)))
    again = plan_from_data(data, surgery.find_sites(kind(), kind.example))
    assert [(edit.site.key, *edit.same) for edit in again.edits] == [(edit.site.key, *edit.same) for edit in plan.edits]
    assert len(again.edits) == len(sites) > 0
    assert data["rules"] == [str(rule)]


def test_sites_have_keys_of_their_own() -> None:
    for kind in STATED:
        keys = [site.key for site in surgery.find_sites(kind(), kind.example)]
        assert len(set(keys)) == len(keys), kind.__name__


def test_a_plan_for_other_calls_is_refused() -> None:
    data = plan_to_data(surgery.make_plan(surgery.find_sites(ResidualNet(), picture()), surgery.erase_relu()))
    assert_raises(
        WrongModel, lambda: plan_from_data(data, surgery.find_sites(TwiceUsed(), picture())), "no call", "layer1.0"
    )
    data["edits"][0]["was"] = "gelu"
    found = surgery.find_sites(ResidualNet(), picture())
    assert_raises(WrongModel, lambda: plan_from_data(data, found), "gelu at layer1.0", "relu there")


def of(model: nn.Module) -> str:
    return fingerprint(model, surgery.find_sites(model, picture()))


def test_a_fingerprint_tells_models_apart() -> None:
    other = ResidualNet()
    other.fc = nn.Linear(6, 4)
    swapped = ResidualNet()
    swapped.relu = nn.SiLU()
    edited, _ = surgery.transform(ResidualNet(), surgery.erase_relu(), picture())
    models = [ResidualNet(), TwiceUsed(), ListLoop(), other, swapped, edited]
    assert len({of(model) for model in models}) == len(models)


def test_a_fingerprint_sees_no_numbers_no_mode_and_no_precision() -> None:
    known = of(ResidualNet())
    assert of(ResidualNet()) == known
    assert of(ResidualNet().eval()) == known
    assert of(ResidualNet().requires_grad_(False)) == known
    model = ResidualNet().bfloat16()
    assert fingerprint(model, surgery.find_sites(model, picture().bfloat16())) == known
    assert fingerprint(model, surgery.find_sites(model, torch.rand(3, 3, 16, 16).bfloat16())) == known


def test_undoing_brings_the_fingerprint_back() -> None:
    model = ResidualNet()
    known = of(model)
    surgery.transform_(model, surgery.swap("prelu"), picture())
    assert of(model) != known
    assert of(surgery.undo(model)) == known


def test_a_kind_of_step_nobody_knows_names_its_package() -> None:
    assert_raises(BadFile, lambda: replay_of("prune", "pruning"), "'prune'", "surgery", "import pruning")
    assert_raises(BadFile, lambda: replay_of("prune", ""), "the package that wrote it")


def test_a_kind_of_step_can_be_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surgery.history.plan_data, "_replays", dict(surgery.history.plan_data._replays))

    def replay(model: nn.Module, step: dict[str, Any]) -> None:
        raise AssertionError("not called here")

    surgery.register_step("prune", replay)
    surgery.register_step("prune", replay)
    assert replay_of("prune", "pruning") is replay


def test_a_kind_of_step_keeps_its_replay() -> None:
    before = replay_of("surgery", "")
    assert_raises(
        BadValue, lambda: surgery.register_step("surgery", lambda model, step: None), "'surgery'", "already registered"
    )
    assert replay_of("surgery", "") is before


def test_steps_of_another_shape_are_named() -> None:
    edit: dict[str, Any] = {"site": ["", "forward", "self.act", 1, None, 1], "turn": 1, "was": "relu"}
    edit |= {"make": "silu", "params": {}, "fade": False, "start": "same"}
    data: dict[str, Any] = {"example": {"args": []}, "rules": [], "asked": [], "edits": [edit]}
    step: dict[str, Any] = {"kind": "surgery", "fingerprint": None, "data": data}
    check_steps([step, {"kind": "other", "fingerprint": "0", "data": {"anything": 1}}])
    check_steps([])
    for wrong, words in (
        (3, "3 for step 1"),
        (step | {"kind": 3}, "'kind'"),
        ({"kind": "surgery", "fingerprint": None}, "'data'"),
        (step | {"data": data | {"edits": [[]]}}, "an edit of step 1"),
        (step | {"data": data | {"edits": [edit | {"fade": 1}]}}, "'fade'"),
        (step | {"data": data | {"edits": [edit | {"site": edit["site"][:4]}]}}, "a site of step 1"),
    ):
        assert_raises(BadFile, lambda wrong=wrong: check_steps([wrong]), words)


def test_a_plan_as_data_says_what_took_effect_was_asked_for() -> None:
    rules = [surgery.erase_relu(expect=2), surgery.swap("silu", activation="gelu", optional=True)]
    data = plan_to_data(surgery.make_plan(surgery.find_sites(ResidualNet(), ResidualNet.example), rules))
    assert data["rules"] == [str(rule) for rule in rules]
    assert data["asked"] == [str(surgery.erase_relu())]


def test_more_steps_than_anybody_makes_are_refused() -> None:
    step = {"kind": "other", "fingerprint": None, "data": {}}
    check_steps([step] * 256)
    assert_raises(BadFile, lambda: check_steps([step] * 257), "257 steps", "at most 256")


def test_a_step_that_edits_nothing_is_refused() -> None:
    data: dict[str, Any] = {"example": {"args": []}, "rules": [], "asked": [], "edits": []}
    assert_raises(
        BadFile, lambda: check_steps([{"kind": "surgery", "fingerprint": None, "data": data}]), "edits nothing"
    )


def test_what_is_wrong_in_a_file_is_shown_in_short() -> None:
    error = assert_raises(BadFile, lambda: check_steps([{"kind": ["x" * 10**5]}]))
    assert len(str(error)) < 400
