"""Names of models: what each refers to, and what is refused."""

from pathlib import Path
from typing import Any

import pytest

import recipes
import surgery
from recipes.models.build import build
from recipes.models.names import ModelName, family_of, full_name, resolve
from surgery.errors import BadFile, BadValue, UnknownName
from tests.asserts import assert_raises


def test_a_name_that_was_looked_up_is_not_looked_up_again() -> None:
    named = resolve("cifar/resnet20")
    assert named == ModelName("cifar/resnet20") and resolve(named) is named
    assert (named.catalogue, named.short) == ("cifar", "resnet20")


def test_a_bare_name_in_two_catalogues_shows_both() -> None:
    with pytest.raises(BadValue, match="timm/resnet50, torchvision/resnet50"):
        build("resnet50")
    assert full_name("googlenet") == "torchvision/googlenet"
    assert full_name("timm/resnet50") == "timm/resnet50"
    assert full_name("resnet50.a1_in1k") == "timm/resnet50.a1_in1k"


def test_models_of_one_family_share_the_code_that_builds_them() -> None:
    assert family_of("timm/resnet50") == family_of("timm/resnet18.a1_in1k") == family_of("timm/seresnet50")
    assert family_of("torchvision/vgg11") == family_of("torchvision/vgg19_bn") != family_of("timm/vgg11")
    assert family_of("cifar/resnet20") == family_of("cifar/resnet18") != family_of("cifar/vgg16_bn")
    assert family_of("timm/mobilenetv3_small_100") != family_of("timm/mobilenetv2_100")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("timm/resnet5O", "timm/resnet50"),
        ("torchvision/resnet19", "torchvision/resnet18"),
        ("cifar/resnet21", "cifar/resnet20"),
        ("squeezenet1_2", "torchvision/squeezenet1_1"),
        ("keras/resnet50", "timm, torchvision, cifar"),
        ("resnet50.a1_in1", "resnet50.a1_in1k"),
        ("timm/test_byobnet.nobody", "r160_in1k"),
    ],
)
def test_an_unknown_name_gets_the_nearest(name: str, says: str) -> None:
    with pytest.raises(UnknownName) as caught:
        build(name)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("hf-hub:somebody/net", {}),
        ("./other", {}),
        ("resnet20", {}),
        ("torchvision/resnet18", {"weights": "DEFAULT"}),
        ("timm/resnet18", {"checkpoint_path": "x.pth"}),
    ],
)
def test_a_saved_folder_leads_nowhere_else(name: str, kwargs: dict[str, Any], tmp_path: Path) -> None:
    surgery.save(build("cifar/resnet20"), tmp_path, name=name, kwargs=kwargs)
    for verb in (resolve, build, recipes.load_model):
        assert_raises(BadFile, lambda verb=verb: verb(tmp_path))
