"""Models by name: the right network, its weights strictly, and one clear sentence for everything else."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import recipes
import surgery
from recipes.data import Pictures, cifar10, normalise
from recipes.models import build, full_name, load_weights, names
from recipes.train import accuracy
from surgery.errors import BadFile, BadValue, SurgeryError, UnknownName, WrongModel

# Counted by hand from the paper: 3 n blocks of two convolutions with their norms, a stem and a linear layer.
CIFAR_PARAMETERS = {20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018, 110: 1_727_962}


@pytest.mark.parametrize("depth", CIFAR_PARAMETERS)
def test_a_cifar_resnet_is_the_one_of_the_paper(depth: int) -> None:
    model = build(f"cifar/resnet{depth}")
    assert sum(parameter.numel() for parameter in model.parameters()) == CIFAR_PARAMETERS[depth]
    assert sum(isinstance(module, nn.ReLU) for module in model.modules()) == depth - 1
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert len(names("cifar")) == len(CIFAR_PARAMETERS)


def test_the_shortcut_subsamples_and_pads_with_zeros() -> None:
    block = build("cifar/resnet20").get_submodule("layer2.0")
    x = torch.rand(1, 16, 8, 8)
    shortcut = block.shortcut(x)  # type: ignore[operator]
    assert shortcut.shape == (1, 32, 4, 4)
    assert torch.equal(shortcut[:, 8:24], x[:, :, ::2, ::2])
    assert not shortcut[:, :8].any() and not shortcut[:, 24:].any()


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


def test_a_bare_name_in_two_catalogues_shows_both() -> None:
    with pytest.raises(BadValue, match="timm/resnet50, torchvision/resnet50"):
        build("resnet50")
    assert full_name("googlenet") == "torchvision/googlenet"
    assert full_name("timm/resnet50") == "timm/resnet50"
    assert full_name("resnet50.a1_in1k") == "timm/resnet50.a1_in1k"


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


def test_weights_from_a_file_are_loaded_bit_for_bit(tmp_path: Path) -> None:
    source = build("cifar/resnet20").eval()
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    for path in (tmp_path / "weights.safetensors", str(tmp_path / "weights.safetensors")):
        loaded = build("cifar/resnet20", pretrained=path).eval()
        x = torch.rand(2, 3, 32, 32)
        assert torch.equal(loaded(x), source(x))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"linear.bias": None}, "linear.bias missing"),
        ({"linear.scale": torch.ones(3)}, "linear.scale unknown"),
        ({"linear.bias": torch.ones(3)}, "linear.bias of another shape"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    model = build("cifar/resnet20")
    weights = {name: value for name, value in (model.state_dict() | change).items() if value is not None}
    save_file(weights, tmp_path / "weights.safetensors")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(WrongModel, match=says):
        load_weights(model, tmp_path / "weights.safetensors")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_files_that_are_not_plain_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="there is no weights file"):
        build("cifar/resnet20", pretrained=tmp_path / "none.safetensors")
    torch.save(build("cifar/resnet20").state_dict(), tmp_path / "weights.pth")
    with pytest.raises(BadFile, match=r"weights\.pth is not a safetensors file"):
        build("cifar/resnet20", pretrained=tmp_path / "weights.pth")
    (tmp_path / "broken.safetensors").write_bytes(b"no header")
    with pytest.raises(BadFile, match="cannot be read as safetensors"):
        build("cifar/resnet20", pretrained=tmp_path / "broken.safetensors")


def test_weights_of_an_edited_model_are_refused(tmp_path: Path) -> None:
    model, _ = surgery.transform(build("cifar/resnet20"), surgery.erase_relu())
    surgery.save(model, tmp_path / "saved")
    copied = shutil.copy(tmp_path / "saved" / "model.safetensors", tmp_path)  # away from its surgery.json
    with pytest.raises(BadFile, match="weights of an edited model"):
        build("cifar/resnet20", pretrained=copied)


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
    assert accuracy(model, some, prepare=normalise) == pytest.approx(expected, abs=0.05)


@pytest.mark.data
@pytest.mark.slow
def test_resnet20_scores_what_it_should(surgery_data: Path, pictures: Pictures) -> None:
    model = build("cifar/resnet20", pretrained=surgery_data / "weights" / "cifar10_resnet20.safetensors")
    assert round(accuracy(model, pictures, prepare=normalise), 4) == 0.9173


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
