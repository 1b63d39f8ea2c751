"""Models by name: the right network, strictly its weights, and a clear one-line error otherwise."""

import json
import os
import pickle
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

import recipes
import surgery
from recipes.data import Pictures, cifar10
from recipes.data.feed import ImageTransform, MemoryBatches
from recipes.models.build import NewHead, build, input_size
from recipes.models.names import ModelName, resolve, saved_folder
from recipes.train.finetune import accuracy
from surgery.errors import BadFile, BadValue, SurgeryError, UnknownName, WrongModel
from tests.asserts import assert_raises
from tests.recipes.models.same import same


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("timm/test_resnet", "ResNet"),
        ("torchvision/squeezenet1_1", "SqueezeNet"),
        ("torchvision/googlenet", "GoogLeNet"),
        ("torchvision/lraspp_mobilenet_v3_large", "LRASPP"),
        ("test_resnet", "ResNet"),
        ("googlenet", "GoogLeNet"),
        ("resnet20", "CifarResNet"),
    ],
)
def test_a_name_builds_its_model_without_a_download(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a download was tried")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    with torch.device("meta"):
        assert type(build(name)).__name__ == kind


def test_keywords_reach_the_builder() -> None:
    assert build("timm/test_resnet", num_classes=3, in_chans=1)(torch.rand(2, 1, 32, 32)).shape == (2, 3)
    assert build("torchvision/squeezenet1_1", num_classes=3)(torch.rand(1, 3, 64, 64)).shape == (1, 3)
    assert build("cifar/resnet20", num_classes=3, in_chans=1)(torch.rand(2, 1, 32, 32)).shape == (2, 3)


def test_published_weights_that_do_not_exist_are_refused() -> None:
    with pytest.raises(BadValue, match="no published weights"):
        build("cifar/resnet20", pretrained=True)
    with pytest.raises(BadValue, match="publishes no weights for botnet50ts_256"):
        build("timm/botnet50ts_256", pretrained=True)


def test_a_failed_download_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no route to host\nand more")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    with pytest.raises(SurgeryError, match=r"weights of torchvision/squeezenet1_1 could not be fetched") as caught:
        build("torchvision/squeezenet1_1", pretrained=True)
    assert "no route to host" in str(caught.value) and "and more" not in str(caught.value)


@pytest.fixture(scope="module")
def pictures(surgery_data: Path) -> Pictures:
    pictures = cifar10(surgery_data / "data" / "cifar10", shards=()).test
    assert pictures is not None
    return pictures


@pytest.mark.data
@pytest.mark.parametrize(("depth", "expected"), [(20, 0.9173), (32, 0.9263), (44, 0.9310), (56, 0.9339)])
def test_the_shared_weights_load(depth: int, expected: float, surgery_data: Path, pictures: Pictures) -> None:
    model = build(f"cifar/resnet{depth}", pretrained=surgery_data / "weights" / f"cifar10_resnet{depth}.safetensors")
    some = pictures.shuffled().first(300)
    assert accuracy(model, MemoryBatches(some, ImageTransform(32), 250)) == pytest.approx(expected, abs=0.05)


@pytest.mark.data
@pytest.mark.slow
def test_resnet20_scores_what_it_should(surgery_data: Path, pictures: Pictures) -> None:
    model = build("cifar/resnet20", pretrained=surgery_data / "weights" / "cifar10_resnet20.safetensors")
    assert round(accuracy(model, MemoryBatches(pictures, ImageTransform(32), 250)), 4) == 0.9173


def test_a_saved_folder_that_names_its_model_is_all_it_takes(tmp_path: Path) -> None:
    model, _ = surgery.transform(build("cifar/resnet20", num_classes=4), surgery.erase_relu(share=0.5))
    surgery.save(model.eval(), tmp_path, name="cifar/resnet20", kwargs={"num_classes": 4})
    again = recipes.load_model(tmp_path).eval()
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(again(images), model(images))
    assert len(surgery.find_sites(again)) == len(surgery.find_sites(model))


def test_a_saved_folder_without_a_name_asks_for_the_model(tmp_path: Path) -> None:
    model, _ = surgery.transform(build("cifar/resnet20"), surgery.erase_relu())
    surgery.save(model, tmp_path)
    with pytest.raises(BadFile, match=r"surgery\.load\(folder, model="):
        recipes.load_model(tmp_path)


def test_a_folder_with_an_edit_in_it_does_not_condemn_plain_weights(tmp_path: Path) -> None:
    plain = build("cifar/resnet20")
    save_file(plain.state_dict(), tmp_path / "plain.safetensors")
    (tmp_path / "surgery.json").write_text("{}")
    loaded = build("cifar/resnet20", pretrained=tmp_path / "plain.safetensors")
    assert torch.equal(loaded.get_parameter("linear.weight"), plain.get_parameter("linear.weight"))


# -- published weights, from the caches of the libraries ---------------------------------------------------------------


@pytest.fixture
def torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts a file where torchvision caches downloaded weights."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a download was tried")

    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)

    def keep(short: str, weights: Any) -> None:
        folder = tmp_path / "hub" / "checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        url = torchvision.models.get_model_weights(short).DEFAULT.url
        torch.save(weights, folder / url.rpartition("/")[2])

    return keep


@pytest.fixture
def timm_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """The model whose weights are in the cache of huggingface_hub as those of timm/test_resnet; without a network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    model = timm.create_model("test_resnet")
    place = tmp_path / ("models--" + timm.models.get_pretrained_cfg("test_resnet").hf_hub_id.replace("/", "--"))
    for folder in ("refs", f"snapshots/{'0' * 40}"):
        (place / folder).mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    save_file(model.state_dict(), place / "snapshots" / ("0" * 40) / "model.safetensors")
    return model


def test_torchvision_loads_its_weights(torch_home: Callable[..., None]) -> None:
    source = torchvision.models.squeezenet1_1()
    torch_home("squeezenet1_1", source.state_dict())
    assert same(build("torchvision/squeezenet1_1", pretrained=True), source)
    assert same(build("torchvision/squeezenet1_1", pretrained=True, num_classes=1000), source)


def test_timm_loads_its_weights(timm_weights: nn.Module) -> None:
    assert same(build("timm/test_resnet", pretrained=True), timm_weights)
    assert same(build("timm/test_resnet.r160_in1k", pretrained=True, num_classes=1000), timm_weights)


def test_timm_without_a_cache_or_a_network_is_one_sentence(timm_weights: nn.Module) -> None:
    assert_raises(SurgeryError, lambda: build("timm/test_vit", pretrained=True), "weights of timm/test_vit could not")


def test_other_classes_get_a_new_head_in_torchvision(torch_home: Callable[..., None]) -> None:
    source = torchvision.models.squeezenet1_1()
    torch_home("squeezenet1_1", source.state_dict())
    with pytest.warns(NewHead, match=r"torchvision/squeezenet1_1 is new: 3 classes, where the weights have 1000"):
        model = build("torchvision/squeezenet1_1", pretrained=True, num_classes=3)
    assert same(model, source, but=("classifier.1.weight", "classifier.1.bias"))
    assert model(torch.rand(1, 3, 64, 64)).shape == (1, 3)


def test_a_new_head_keeps_what_comes_with_the_weights(torch_home: Callable[..., None]) -> None:
    source = torchvision.models.googlenet(init_weights=False)
    torch_home("googlenet", source.state_dict())
    with pytest.warns(NewHead):
        model = build("torchvision/googlenet", pretrained=True, num_classes=3)
    published = torchvision.models.googlenet(weights="DEFAULT")
    assert model.transform_input is published.transform_input is True and model.aux_logits is published.aux_logits
    assert same(model, published, but=("fc.weight", "fc.bias"))


def test_other_classes_get_a_new_head_in_timm(timm_weights: nn.Module) -> None:
    with pytest.warns(NewHead, match="timm/test_resnet is new: 3 classes, where the weights have 1000"):
        model = build("timm/test_resnet", pretrained=True, num_classes=3)
    assert same(model, timm_weights, but=("fc.weight", "fc.bias"))
    assert build("timm/test_resnet", pretrained=True, num_classes=0)(torch.rand(2, 3, 32, 32)).ndim == 2  # no warning


@pytest.mark.parametrize("name", ["cifar/resnet20", "timm/test_vit", "torchvision/squeezenet1_1"])
def test_other_classes_get_a_new_head_beside_a_file(name: str, tmp_path: Path) -> None:
    source = build(name, num_classes=7)
    save_file(source.state_dict(), file := tmp_path / "weights.safetensors")
    with pytest.warns(NewHead, match=f"{name} is new: 3 classes, where the weights have 7"):
        model = build(name, pretrained=file, num_classes=3)
    head = [key for key, tensor in source.state_dict().items() if len(tensor.shape) and tensor.shape[0] == 7]
    assert len(head) == 2 and same(model, source, but=tuple(head))
    assert_raises(WrongModel, lambda: build(name, pretrained=file), head[0])  # nobody asked for other classes
    assert same(build(name, pretrained=file, num_classes=7), source)


@pytest.mark.parametrize(
    "change",
    [
        {"linear.weight": torch.ones(7, 32)},
        {"linear.bias": torch.ones(8)},
        {"linear.bias": torch.ones(())},
        {"linear.bias": torch.ones(3)},
        {"conv1.weight": torch.ones(7, 3, 3, 3)},
        {"more": torch.ones(3)},
        {"bn1.bias": None},
    ],
)
def test_a_file_that_differs_in_more_than_its_head_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    weights = build("cifar/resnet20", num_classes=7).state_dict() | change
    file = tmp_path / "weights.safetensors"
    save_file({name: value for name, value in weights.items() if value is not None}, file)
    assert_raises(WrongModel, lambda: build("cifar/resnet20", pretrained=file, num_classes=3), "not those of this")


class Code:
    """Runs when it is unpickled."""

    def __reduce__(self) -> Any:
        return exec, ("raise AssertionError('foreign code ran')",)


def test_nothing_but_tensors_is_unpickled(torch_home: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError):
        pickle.loads(pickle.dumps(Code()))
    torch_home("squeezenet1_1", {"classifier.1.bias": Code()})
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    before = dict(os.environ)
    assert_raises(BadFile, lambda: build("torchvision/squeezenet1_1", pretrained=True), "more than weights")
    assert dict(os.environ) == before


# -- saved folders by name ---------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, nn.Module]:
    model, _ = surgery.transform(build("cifar/resnet20", num_classes=4), surgery.erase_relu(share=0.5))
    surgery.save(model.eval(), tmp_path / "out", name="cifar/resnet20", kwargs={"num_classes": 4})
    return tmp_path / "out", model


@pytest.mark.slow
def test_a_saved_folder_is_a_name(saved: tuple[Path, nn.Module]) -> None:
    folder, model = saved
    images = torch.rand(2, 3, 32, 32)
    for name in (folder, str(folder)):
        assert resolve(name) == ModelName("cifar/resnet20", folder, {"num_classes": 4})
        assert torch.equal(build(name, num_classes=4).eval()(images), model(images))
    assert saved_folder("cifar/resnet20") is None and saved_folder("nothing") is None


def test_a_model_without_edits_is_a_name_too(tmp_path: Path) -> None:
    model = build("timm/test_vit", num_classes=3).eval()
    surgery.save(model, tmp_path, name="timm/test_vit", kwargs={"num_classes": 3})
    images = torch.rand(2, 3, 160, 160)
    assert torch.equal(build(tmp_path).eval()(images), model(images))
    plain = build("timm/test_vit", pretrained=tmp_path / "model.safetensors", num_classes=3).eval()
    assert torch.equal(plain(images), model(images))


def test_a_saved_folder_stays_as_it_is(saved: tuple[Path, nn.Module], tmp_path: Path) -> None:
    folder, _ = saved
    assert_raises(BadValue, lambda: build(folder, in_chans=1), "in_chans", "num_classes=4")
    assert_raises(BadValue, lambda: build(folder, pretrained=tmp_path / "a.safetensors"), "pretrained")


@pytest.mark.slow
@pytest.mark.parametrize("given", [True, False], ids=["classes given", "default classes"])
def test_a_saved_folder_gets_a_new_classifier_for_other_classes(given: bool, tmp_path: Path) -> None:
    kwargs = {"num_classes": 4} if given else {}
    model, _ = surgery.transform(build("cifar/resnet20", **kwargs), surgery.swap("prelu", block="*1*"))
    surgery.save(model, tmp_path, name="cifar/resnet20", kwargs=kwargs)
    with pytest.warns(NewHead, match=f"5 classes, where the weights have {4 if given else 10}"):
        other = build(tmp_path, num_classes=5)
    assert other.linear.weight.shape == (5, 64)  # type: ignore[union-attr]
    weights, kept = other.state_dict(), model.state_dict()
    assert weights.keys() == kept.keys()
    assert all(torch.equal(weights[name], kept[name]) for name in kept if not name.startswith("linear."))
    assert [str(site) for site in surgery.find_sites(other)] == [str(site) for site in surgery.find_sites(model)]
    surgery.save(other, tmp_path / "other", name="cifar/resnet20", kwargs={"num_classes": 5})
    again = recipes.load_model(tmp_path / "other").eval()
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(again(images), other.eval()(images))


def test_the_same_classes_need_no_argument(tmp_path: Path) -> None:
    surgery.save(build("cifar/resnet20"), tmp_path, name="cifar/resnet20")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert build(tmp_path, num_classes=10)(torch.rand(2, 3, 32, 32)).shape == (2, 10)


def test_what_is_a_model_and_a_folder_shows_both(
    saved: tuple[Path, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = saved
    shutil.copytree(folder, folder / "resnet20")
    shutil.copytree(folder, folder / "cifar" / "resnet20")
    monkeypatch.chdir(folder)
    assert_raises(BadValue, lambda: build("resnet20"), "a model and a folder", "./resnet20")
    assert resolve("./resnet20").kwargs == {"num_classes": 4}
    assert build("cifar/resnet20")(torch.rand(2, 3, 32, 32)).shape == (2, 10)  # the catalogue's
    assert_raises(UnknownName, lambda: resolve("runs/none"), "no folder runs/none written by surgery.save")
    assert_raises(BadFile, lambda: resolve(Path("runs")), "not a folder")


def test_a_damaged_folder_is_named(saved: tuple[Path, nn.Module]) -> None:
    folder, _ = saved
    data = json.loads((folder / "surgery.json").read_text())
    (folder / "surgery.json").write_text(json.dumps(data | {"model": {"name": "timm/resnet18", "kwargs": {}}}))
    assert_raises(BadFile, lambda: resolve(str(folder)), "do not belong together")


# -- sizes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("timm/vit_tiny_patch16_224", 224),
        ("timm/mixer_s32_224", 224),
        ("timm/test_vit", None),  # adapts its positions
        ("timm/test_resnet", None),
        ("torchvision/vit_b_32", 224),
        ("torchvision/maxvit_t", 224),
        ("torchvision/squeezenet1_1", None),
        ("cifar/resnet20", None),
    ],
)
def test_some_models_insist_on_a_size(name: str, size: int | None) -> None:
    assert input_size(name) == size


def test_a_model_insists_on_the_size_it_was_built_for(tmp_path: Path) -> None:
    model = build("timm/vit_tiny_patch16_224", img_size=32, depth=1)
    assert input_size(model) == 32
    assert input_size(build("timm/vit_tiny_patch16_224", dynamic_img_size=True, depth=1)) is None
    assert input_size(nn.Linear(2, 2)) is None
    surgery.save(model, tmp_path, name="timm/vit_tiny_patch16_224", kwargs={"img_size": 32, "depth": 1})
    assert input_size(tmp_path) == 32
