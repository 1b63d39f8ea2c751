"""Writing recipes: what is written is read back, and what a file cannot hold is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import surgery
from recipes.format.options import Option, options_of
from recipes.format.parse import parse, to_toml
from recipes.format.recipe import Recipe
from recipes.format.settings import Choice, Finetune, Pruning
from surgery.errors import BadFile, BadValue
from tests.asserts import assert_raises


def test_what_a_file_cannot_hold_is_refused() -> None:
    both = Recipe("mine", (surgery.erase_relu(expect=3),), expects=({"timm/a": 3},))
    assert_raises(BadValue, lambda: to_toml(both), "either a number of sites")
    assert_raises(BadFile, lambda: to_toml(Recipe("mine", (), about="\x1b", pruning=Pruning())), "readable")
    assert_raises(BadFile, lambda: to_toml(Recipe("mine", ()), {}), "nothing to do")


texts = st.text(st.characters(exclude_categories=("Cc", "Cf", "Cs")), max_size=12)


places = st.one_of(st.sampled_from(["first", "middle", "last"]), st.integers(1, 9), st.integers(-9, -1))


shares = st.floats(0, 1)


fades = st.one_of(st.booleans(), st.tuples(st.floats(0, 0.4), st.floats(0.5, 1)))


patterns = st.one_of(
    texts.filter(lambda text: not text.startswith("re:")),
    st.just(r"re:layer[34]\..*"),
    st.lists(st.one_of(st.sampled_from(["layer1.*", 'a"b\\c', "ü"]), st.none()), min_size=1, max_size=3).map(tuple),
    st.none(),
)


counts = st.dictionaries(st.sampled_from(["timm/resnet50", "cifar/resnet20", "torchvision/vgg 11"]), st.integers(0, 99))


def settings_of(kind: type) -> st.SearchStrategy[Any]:
    """Every dataclass of options."""
    return st.fixed_dictionaries(
        {}, optional={name: value_of(setting) for name, setting in options_of(kind).items()}
    ).map(lambda given: kind(**given))


def value_of(setting: Option) -> st.SearchStrategy[Any]:
    least, most = setting.least or 0, setting.most
    kinds: dict[type, st.SearchStrategy[Any]] = {
        bool: st.booleans(),
        int: st.integers(int(least), 10**6 if most is None else int(most)),
        float: st.floats(least, 1e6 if most is None else most),
        str: st.sampled_from(setting.choices or ("",)),
    }
    return st.none() | kinds[setting.kind] if setting.empty else kinds[setting.kind]


common = {"optional": st.booleans(), "remaining": st.booleans()}


rules = st.one_of(
    st.fixed_dictionaries(
        common,
        optional={
            "location": places, "share": shares, "fade": fades, "stem": st.booleans(), "keep_final": st.booleans(),
            "order": st.sampled_from(["spread", "front", "back"]), "preactivation": st.sampled_from(["first", "last"]),
            "vgg_odd": st.sampled_from(["keep", "erase"]), "stand_in": st.sampled_from(["identity", "affine"]),
            "activation": st.sampled_from(["relu", "relu*", ("relu", "silu")]),
        },
    ).map(lambda given: surgery.erase_relu(**given)),
    st.fixed_dictionaries(
        {"to": st.sampled_from(["pwlu", "silu", "prelu"]), **common},
        optional={
            "block": patterns, "site": st.sampled_from(["a.relu 2/2", ("a", "b*")]),
            "role": st.sampled_from(["gate", "nonlinearity"]),
            "position": st.one_of(st.none(), st.integers(0, 9)), "inplace": st.booleans(), "fade": fades,
            "start": st.sampled_from(["same", "own"]),
        },
    ).map(lambda given: surgery.swap(**given)),
    st.fixed_dictionaries(common, optional={"init": st.floats(0.0, 0.9)}).map(lambda g: surgery.swap("prelu", **g)),
    st.fixed_dictionaries(common, optional={"block": patterns}).map(lambda given: surgery.erase(**given)),
    st.fixed_dictionaries(common).map(lambda given: surgery.rectify_scores("shares", **given)),
    st.fixed_dictionaries({"block": st.sampled_from(["a.b", ("a", "b.*")]), **common}).map(
        lambda given: surgery.drop(**given)
    ),
    st.fixed_dictionaries(common, optional={"block": st.sampled_from(["a.b", ("a", "b.*")])}).map(
        lambda given: surgery.move_padding(**given)
    ),
)  # fmt: skip


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    listed = tuple(draw(st.lists(rules, max_size=3)))
    expects = tuple(draw(counts) for _ in listed)
    pruning = draw(st.none() | settings_of(Pruning))
    finetune = draw(settings_of(Finetune) if not listed and pruning is None else st.none() | settings_of(Finetune))
    models = tuple(draw(st.lists(st.sampled_from(["timm/a", "cifar/b"]), max_size=2)))
    return Recipe(
        "mine", listed, draw(texts), draw(texts), models, expects if any(expects) else (), pruning, finetune,
        choice=draw(st.none() | settings_of(Choice)),
    )  # fmt: skip


@pytest.mark.slow
@settings(max_examples=40)
@given(recipes())
def test_what_is_written_is_read_back(recipe: Recipe) -> None:
    assert parse(to_toml(recipe), "mine") == recipe
