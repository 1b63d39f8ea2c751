"""Proofs that are counted."""

from __future__ import annotations

import functools

from torch import nn

import surgery
from surgery.plan.rules import Rule
from tests.asserts import assert_raises, assert_untouched
from tests.models import picture


def refused(model: nn.Module, rule: Rule, *words: str, error: type[surgery.SurgeryError] = surgery.NotProved) -> None:
    for verb in (surgery.transform, surgery.transform_):
        with assert_untouched(model):
            assert_raises(error, functools.partial(verb, model, rule, picture()), *words)
    assert surgery.history_of(model) == ()


def blocks(*made: nn.Module) -> nn.Module:
    return nn.Sequential(*made)
