"""Plan: a search is gone on with only if it is the same, and a database that cannot be opened says so."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from recipes.activation_search.plan import _with_driver
from surgery.errors import BadFile, SurgeryError, WrongModel
from tests.asserts import assert_raises
from tests.recipes.activation_search.oracle import planned


def test_a_search_is_resumed_only_if_it_is_the_same(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    with plan.opened() as study:
        plan.begin(study, resume=False)
        plan.begin(study, resume=True)
        assert_raises(BadFile, lambda: plan.begin(study, resume=False), "There is a search named 'test'", "--resume")
        other = replace(plan, seeds=2, trainer=replace(plan.trainer, learn=True))
        assert_raises(WrongModel, lambda: other.begin(study, resume=True), "learn = False, seeds = 1")
        replace(plan, trials=3, trainer=replace(plan.trainer, device="cuda")).begin(study, resume=True)


def test_a_plan_travels_without_its_images(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    plan = planned(tmp_path)
    assert plan.trainer.opened.name == "digits"
    assert len(pickle.dumps(plan.fresh())) < 5000 and plan.fresh() == plan


def test_a_database_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    for url in (f"sqlite:///{tmp_path}/no/folder/study.db", "postgresql://nobody@localhost:1/none", "nonsense"):
        plan = planned(tmp_path, url=url)
        assert_raises(SurgeryError, lambda plan=plan: plan.opened().__enter__(), "cannot be used", "sqlite:///FILE")


def test_addresses_get_the_driver_that_the_extra_installs() -> None:
    pytest.importorskip("psycopg")
    assert _with_driver("postgresql://me@here/it") == _with_driver("postgres://me@here/it")
    assert _with_driver("postgresql://me@here/it") == "postgresql+psycopg://me@here/it"
    assert _with_driver("postgresql+asyncpg://me@here/it") == "postgresql+asyncpg://me@here/it"
