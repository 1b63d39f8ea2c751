"""A transformed copy, checked on the way."""

from __future__ import annotations

from typing import Any

from torch import fx, nn

import surgery
from surgery.plan.rules import Rule
from tests.asserts import (
    assert_same_frame,
    assert_untouched,
)
from tests.models import picture


def transformed(model: nn.Module, rule: Rule | list[Rule], example: Any = None) -> nn.Module:
    """The edited copy, after a check that the model is unchanged, and frame and weight names are kept."""
    example = picture() if example is None else example
    with assert_untouched(model):
        edited, report = surgery.transform(model, rule, example)
    names, now = [name for name, _ in model.named_parameters()], [name for name, _ in edited.named_parameters()]
    fresh = [name for name in now if name not in names]
    assert [name for name in report.added if name not in report.removed] == fresh
    assert [name for name in report.removed if name not in report.added] == [n for n in names if n not in now]
    replaced = [model.get_submodule(edit.site.module) for edit in report.plan.edits if edit.site.module]
    bare = not report.removed and not any(list(module.children()) for module in replaced)
    if bare and not isinstance(model, fx.GraphModule):
        assert_same_frame(model, edited)
    if not report.added and not report.removed:
        assert list(edited.state_dict()) == list(model.state_dict())
    return edited
