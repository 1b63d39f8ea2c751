"""Drafts of recipes: they list every site, and are valid as they are."""

from __future__ import annotations

import pytest
from torch import nn

import surgery
from recipes.check.check import check, sites_of
from recipes.check.draft import draft
from recipes.format.parse import parse
from recipes.models import build as models
from surgery.errors import NothingPicked, UnknownName
from tests.asserts import assert_raises


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "rule", "count"),
    [
        ("cifar/resnet20", surgery.erase_relu(), 9),
        ("timm/test_vit", surgery.swap("pwlu", activation="gelu"), 6),
        ("torchvision/mobilenet_v2", surgery.swap("prelu", activation="relu6"), 35),
    ],
)
def test_a_draft_is_a_recipe_that_works(name: str, rule: surgery.Rule, count: int) -> None:
    text = draft(name)
    recipe = parse(text)
    assert recipe.rules == (rule,) and recipe.models == (name,) and recipe.expects == ({name: count},)
    sites = sites_of(name)
    assert check(recipe, name, sites).holds
    lines = text.splitlines()
    listed = [line.removeprefix("#     ") for line in lines if line.startswith("#     ")]
    assert [line.split("  ")[0] for line in listed] == [
        str(s) for _, s in sorted(enumerate(sites), key=by_block(sites))
    ]


def by_block(sites: surgery.Sites):  # type: ignore[no-untyped-def]
    """Blocks in the order of their first sites, and sites in order of execution."""
    order = list(dict.fromkeys(site.block for site in sites))
    return lambda pair: (order.index(pair[1].block), pair[0])


def test_a_draft_becomes_another_recipe_by_removing_number_signs() -> None:
    text = draft("cifar/resnet20")
    head, _, rest = text.partition("# [[rule]]")
    active = "\n".join(line.removeprefix("# ") for line in ("# [[rule]]" + rest).splitlines())
    recipe = parse(head + active)
    assert recipe.rules[1] == surgery.swap("silu", site="act1", remaining=True)
    assert recipe.pruning is not None and recipe.pruning.ap_share == 0.02
    assert recipe.finetune is not None and check(recipe, "cifar/resnet20").holds


def test_a_model_without_activations_has_no_draft(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "build", lambda name: nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten()))
    assert_raises(NothingPicked, lambda: draft("cifar/resnet20"), "no activation that a rule could change")
    assert_raises(UnknownName, lambda: draft("cifar/resnet21"), "cifar/resnet20")
