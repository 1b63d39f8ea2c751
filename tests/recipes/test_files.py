"""Every ready-made recipe is well formed, documented, and picks what it states."""

from __future__ import annotations

from functools import cache

import pytest
from torch import nn

import surgery
from recipes.check.check import check, sites_of, without_weights
from recipes.format.library import load, names, text_of
from recipes.format.recipe import Recipe
from recipes.format.settings import Finetune
from recipes.models.names import full_name
from surgery.look.site import Sites

load_once, sites_once = cache(load), cache(sites_of)

# The quickest models of each family to look at: every recipe names one of them.
SMALL = {
    "cifar/resnet20", "torchvision/vgg11", "timm/vit_tiny_patch16_224", "torchvision/densenet121",
    "torchvision/googlenet", "torchvision/mobilenet_v2", "timm/efficientnet_b0", "torchvision/convnext_tiny",
    "torchvision/swin_t", "torchvision/regnet_x_400mf", "timm/mixer_s16_224",
    "timm/mobilenetv3_small_100",
}  # fmt: skip

FAMILIES = {
    "resnet": "torchvision/resnet18 torchvision/resnet34 torchvision/resnet50 torchvision/resnet101 "
    "torchvision/resnet152 torchvision/resnext50_32x4d torchvision/wide_resnet50_2 timm/resnet50 timm/resnet50d "
    "timm/resnetv2_50 timm/seresnet50 cifar/resnet20 cifar/resnet56 cifar/resnet110",
    "vgg": " ".join(f"{zoo}/vgg{depth}{bn}" for zoo in ("torchvision", "timm") for depth in (11, 13, 16, 19)
                    for bn in ("", "_bn")) + " cifar/vgg16_bn",
    "vit": "torchvision/vit_b_16 timm/vit_tiny_patch16_224 timm/vit_small_patch16_224 timm/vit_base_patch16_224 "
    "timm/deit_tiny_patch16_224 timm/deit_small_patch16_224 timm/deit_base_patch16_224",
}  # fmt: skip
LEARNED = ("frelu", "gsmelu", "npwlu", "prelu", "pwlu", "smelu", "swish")


def test_the_shelf_is_full() -> None:
    wanted = {f"{family}-swap-{to}" for family in ("resnet", "vgg", "vit") for to in LEARNED}
    wanted |= {f"resnet-{kind}" for kind in ("erase-last", "erase-half", "erase-fade", "ap", "prune", "erase-ap")}
    wanted |= {"vgg-erase-pairs", "vgg-ap", "vgg-erase-ap", "vit-ap", "vit-swap-pwlu-ap", "vit-swap-relu"}
    assert wanted <= set(names())
    families = {name.split("-")[0] for name in names()}
    assert families >= {"densenet", "inception", "mobilenet", "efficientnet", "convnext", "swin", "regnet", "mixer"}


@pytest.mark.parametrize("name", names())
def test_a_recipe_says_what_it_does(name: str) -> None:
    recipe, text = load_once(name), text_of(name)
    head = [line for line in text.partition("\nformat = 1\n")[0].splitlines() if line]
    assert all(line.startswith("#") and len(line) <= 120 for line in head)
    assert recipe.about.endswith(".") and recipe.source and recipe.models
    assert " ".join(line.removeprefix("#").strip() for line in head).startswith(recipe.about)
    (command,) = [line for line in head if line.startswith(f"#   surgery run {name} --model ")]
    assert command.split("--model ")[1].split()[0] in recipe.models
    assert any(line.startswith("# It will not ") for line in head)
    assert recipe.finetune is not None and (recipe.rules or recipe.pruning)


@pytest.mark.parametrize("name", names())
def test_a_recipe_names_models_and_counts_for_each(name: str) -> None:
    recipe = load_once(name)
    assert [full_name(model) for model in recipe.models] == list(recipe.models)
    assert len(set(recipe.models)) == len(recipe.models)
    assert set(FAMILIES.get(name.split("-")[0], "").split()) <= set(recipe.models)
    assert [set(expected) for expected in recipe.expects] == [set(recipe.models)] * len(recipe.rules)
    assert all(count > 0 for expected in recipe.expects for count in expected.values())


@pytest.mark.parametrize("name", names())
def test_a_recipe_picks_what_it_says_on_a_small_model(name: str) -> None:
    small = min(SMALL & set(load_once(name).models))
    assert_holds(load_once(name), small, sites_once(small))


@pytest.mark.slow
def test_every_recipe_picks_what_it_says_on_every_model_it_names() -> None:
    swept = 0
    for model in sorted({model for name in names() for model in load_once(name).models}):
        sites = sites_of(model)  # once for all recipes; not kept, there are many
        for name in names():
            if model in load_once(name).models:
                assert_holds(load_once(name), model, sites)
                swept += 1
    assert swept == sum(len(load_once(name).models) for name in names()) >= 550


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in names() if load_once(name).rules])
def test_a_recipe_transforms_the_first_model_it_names(name: str) -> None:
    recipe = load_once(name)
    _, report = surgery.transform(without_weights(recipe.models[0]), recipe)
    assert len(report.plan.edits) == sum(expected[recipe.models[0]] for expected in recipe.expects)
    assert report.plan.left_out == recipe.left_out


def assert_holds(recipe: Recipe, model: str, sites: Sites) -> None:
    done = check(recipe, model, sites)
    assert done.holds, str(done)
    for pick, expected in zip(done.picked, recipe.expects, strict=True):
        assert len(pick.sites) == expected[model]


@pytest.mark.parametrize("name", [name for name in names() if (load_once(name).finetune or Finetune()).recalibrate])
def test_statistics_are_estimated_only_where_every_model_keeps_some(name: str) -> None:
    small = min(SMALL & set(load_once(name).models))
    assert any(isinstance(module, nn.BatchNorm2d) for module in without_weights(small).modules())
    assert not name.startswith("vgg")  # half of them have no norm


@pytest.mark.parametrize("name", [name for name in names() if (load_once(name).finetune or Finetune()).fit_affine])
def test_lines_are_fitted_where_some_are_put_in(name: str) -> None:
    assert any(rule.make == "affine" for rule in load_once(name).rules)
