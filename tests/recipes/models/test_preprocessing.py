"""Images are preprocessed as in the training of the model, according to timm and torchvision, by every feed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from timm.models import get_pretrained_cfg
from torch import Tensor, nn
from torchvision import models

import recipes
import surgery
from recipes.cli import main
from recipes.data import Preprocessing, open_data
from recipes.data.preprocessing import LARGEST_SIDE
from recipes.format.settings import Finetune
from recipes.models.preprocessing import preprocessing_of
from recipes.runs.outcome import Outcome
from recipes.train.finetune import accuracy
from surgery.errors import BadFile, BadValue, UnknownName
from tests.asserts import assert_raises

HALF = (0.5, 0.5, 0.5)
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Two classes of large images that are not square."""
    draws = numpy.random.default_rng(0)
    for part in ("train", "test"):
        for label in ("ant", "bee"):
            (tmp_path / part / label).mkdir(parents=True)
            for number in range(2):
                pixels = draws.integers(0, 255, (30, 26, 3), dtype=numpy.uint8)
                picture = Image.fromarray(pixels).resize((260, 300), Image.Resampling.BICUBIC)
                picture.save(tmp_path / part / label / f"{number}.png")
    return tmp_path


def images_of(data: Any) -> Tensor:
    return torch.cat([images for images, _ in data.testing()])


def by_timm(config: Any, place: Path) -> Tensor:
    """The test images after timm's own transform."""
    transform = create_transform(**resolve_data_config({}, pretrained_cfg=config.to_dict()))
    paths = sorted((place / "test").rglob("*.png"))
    return torch.stack([transform(Image.open(path).convert("RGB")) for path in paths])  # type: ignore[misc]


# What these models ask for: mean, interpolation, share, how it is cut out, pixels of a side.
ASKED = {
    "vit_tiny_patch16_224.augreg_in21k_ft_in1k": (HALF, "bicubic", 0.9, "center", 224),
    "mixer_b16_224.goog_in21k_ft_in1k": (HALF, "bicubic", 0.875, "center", 224),
    "inception_v3.tf_in1k": (HALF, "bicubic", 0.875, "center", 299),
    "tf_efficientnet_lite0.in1k": (HALF, "bicubic", 0.875, "center", 224),
    "resnet50.tv_in1k": (IMAGENET[0], "bilinear", 0.875, "center", 224),
    "convnextv2_nano.fcmae_ft_in22k_in1k_384": (IMAGENET[0], "bicubic", 1.0, "squash", 384),
    "resnet50_clip.openai": ((0.48145466, 0.4578275, 0.40821073), "bicubic", 0.9, "center", 224),
}  # fmt: skip


@pytest.mark.parametrize("name", ASKED)
def test_large_pictures_are_those_of_timm(name: str, large: Path) -> None:
    asked = preprocessing_of(f"timm/{name}")
    assert asked is not None
    assert (asked.mean, asked.interpolation, asked.crop_pct, asked.crop_mode, asked.size) == ASKED[name]
    data = open_data(str(large), preprocessing=asked, workers=0)
    assert data.preprocessing == asked and torch.equal(images_of(data), by_timm(get_pretrained_cfg(name), large))


def test_every_model_of_timm_and_torchvision_is_read() -> None:
    """Against timm's own result; torchvision resizes to whole pixels, which the fractions must reproduce."""
    names = timm.list_models()
    for name in names:
        config, found = get_pretrained_cfg(name), preprocessing_of(f"timm/{name}")
        if config is None:
            assert found is None
            continue
        assert found is not None
        wanted = resolve_data_config({}, pretrained_cfg=config.to_dict())
        assert found.facts() == {
            **{key: list(wanted[key]) for key in ("mean", "std")}, "size": wanted["input_size"][-1],
            **{key: wanted[key] for key in ("interpolation", "crop_pct", "crop_mode")},
        }  # fmt: skip
    assert len(names) > 1000
    read = 0
    for name in models.list_models(models):
        found, weights = preprocessing_of(f"torchvision/{name}"), models.get_model_weights(name)
        transforms = weights.DEFAULT.transforms()
        assert found is not None and (found.mean, found.std) == (tuple(transforms.mean), tuple(transforms.std))
        assert (found.size, int(found.size / found.crop_pct)) == (transforms.crop_size[0], transforms.resize_size[0])
        assert found.interpolation == transforms.interpolation.value
        read += 1
    assert read >= 80


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "vit_b_16", "inception_v3", "swin_t"])
def test_large_pictures_are_nearly_those_of_torchvision(name: str, large: Path) -> None:
    """It resizes tensors, timm PIL images: they round differently."""
    data = open_data(str(large), preprocessing=preprocessing_of(f"torchvision/{name}"), workers=0)
    transform = models.get_model_weights(name).DEFAULT.transforms()
    paths = sorted((large / "test").rglob("*.png"))
    theirs = torch.stack([transform(Image.open(path).convert("RGB")) for path in paths])
    assert (images_of(data) - theirs).abs().mean() < 0.01


def test_training_uses_the_colours_of_the_model(large: Path) -> None:
    asked = preprocessing_of("timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k")
    options = Finetune(batch_size=4, hflip=0.0)
    fed, plain = (
        next(open_data(str(large), preprocessing=look, workers=0).training(options, seed=3).epoch(0))[0]
        for look in (asked, None)
    )
    mean, deviation = (torch.tensor(channels).view(1, 3, 1, 1) for channels in IMAGENET)
    assert torch.allclose(fed * 0.5 + 0.5, plain * deviation + mean, atol=1e-5), "the same crops, in other colours"


def test_small_pictures_are_fed_whole_in_the_colours_of_the_model(tmp_path: Path) -> None:
    draws = numpy.random.default_rng(0)
    for part in ("train", "test"):
        (tmp_path / part / "ant").mkdir(parents=True)
        Image.fromarray(draws.integers(0, 255, (32, 32, 3), dtype=numpy.uint8)).save(tmp_path / part / "ant" / "0.png")
    asked = preprocessing_of("timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k")
    data = open_data(str(tmp_path), size=224, preprocessing=asked)
    assert data.preprocessing == Preprocessing(size=224, mean=HALF, std=HALF, interpolation="bicubic", crop_pct=1.0)
    picture = Image.open(tmp_path / "test" / "ant" / "0.png").resize((224, 224), Image.Resampling.BICUBIC)
    wanted = torch.from_numpy(numpy.array(picture)).permute(2, 0, 1) / 255.0 * 2 - 1
    far = images_of(data)[0] - wanted
    # PIL rounds to whole numbers, and cuts off, after the rows and again after the columns.
    assert far.abs().median() < 0.01 and (far.abs() > 0.03).float().mean() < 0.01
    trained = next(data.training(Finetune(batch_size=1, crop=0, hflip=0.0)).epoch(0))[0]
    assert trained.min() >= -1 and trained.max() <= 1 and trained.min() < -0.95


def test_the_digits_are_normalised_for_a_model_that_asks_for_it() -> None:
    own = images_of(open_data("digits", val_num_samples=20))
    asked = preprocessing_of("timm/resnet18.a1_in1k")
    fed = images_of(open_data("digits", preprocessing=asked, val_num_samples=20))
    mean, deviation = (torch.tensor(channels).view(1, 3, 1, 1) for channels in IMAGENET)
    assert own.min() == 0 and own.max() <= 1 and torch.allclose(fed * deviation + mean, _resized(own), atol=1e-3)


def _resized(own: Tensor) -> Tensor:
    """Digits are resized bilinearly by default, and bicubically for a model that expects that."""
    small = images_of(open_data("digits", size=8, val_num_samples=20))
    fed: Tensor = nn.functional.interpolate(small, size=own.shape[-2:], mode="bicubic", antialias=True)
    return fed.clamp(0, 1)


@pytest.mark.parametrize("name", ["cifar/resnet20", "cifar/vgg16_bn"])
def test_our_own_networks_are_fed_as_before(name: str) -> None:
    assert preprocessing_of(name) is None
    digits = open_data("digits", val_num_samples=2)
    assert digits.preprocessing == Preprocessing(size=32, mean=(0.0,) * 3, std=(1.0,) * 3, crop_pct=1.0)


def test_an_edited_model_still_knows() -> None:
    model = timm.create_model("test_vit.r160_in1k", pretrained=False)
    edited, _ = surgery.transform(model, surgery.swap("prelu"))
    asked = preprocessing_of("timm/test_vit.r160_in1k")
    assert asked is not None and preprocessing_of(edited) == asked == preprocessing_of(model)
    assert preprocessing_of(nn.Linear(2, 2)) is None


@pytest.mark.parametrize(
    ("key", "word", "known"), [("interpolation", "lanczos", "bicubic"), ("crop_mode", "corner", "squash")]
)
def test_a_model_that_asks_for_other_pictures_than_are_made_here_is_refused(key: str, word: str, known: str) -> None:
    model = timm.create_model("test_vit.r160_in1k", pretrained=False, pretrained_cfg_overlay={key: word})
    assert_raises(BadValue, lambda: preprocessing_of(model), f"{key}={word!r}", known)


def run(output: Path, model: str, **more: Any) -> Outcome:
    recipe = recipes.Recipe("swap", (surgery.swap("prelu"),))
    return recipes.run(
        recipe, model, "digits", output, train_num_samples=40, val_num_samples=20, say=lambda _: None, **more
    )  # fmt: skip


@pytest.mark.slow
def test_a_run_records_what_it_fed_and_its_folder_goes_on_with_it(tmp_path: Path) -> None:
    first = run(tmp_path / "one", "timm/test_resnet.r160_in1k", img_size=32, preprocessing={"mean": (0.1, 0.2, 0.3)})
    asked = preprocessing_of("timm/test_resnet.r160_in1k")
    assert asked is not None
    wanted = asked.changed({"size": 32, "mean": (0.1, 0.2, 0.3), "crop_pct": 1.0, "crop_mode": "center"})
    assert (
        first.preprocessing
        == wanted.facts()
        == json.loads((tmp_path / "one" / "result.json").read_text())["preprocessing"]
    )
    card = (tmp_path / "one" / "README.md").read_text()
    assert "## Input" in card and "32 x 32 pixels" in card and "mean (0.1, 0.2, 0.3)" in card
    assert (
        preprocessing_of(tmp_path / "one") == wanted and preprocessing_of(recipes.load_model(tmp_path / "one")) == asked
    )
    recipe = recipes.Recipe("again", (), finetune=Finetune(epochs=0))
    again = recipes.run(
        recipe, str(tmp_path / "one"), "digits", tmp_path / "two", val_num_samples=20, say=lambda _: None
    )
    assert again.preprocessing == wanted.facts() and again.before.accuracy == first.after.accuracy


def test_a_size_in_a_table_is_heeded_and_that_of_a_model_is_for_large_pictures(large: Path) -> None:
    for size in (16, 8):
        data = open_data("digits", preprocessing={"size": size}, val_num_samples=2)
        assert data.size == size and images_of(data).shape == (2, 3, size, size)
    assert open_data("digits", preprocessing=Preprocessing(size=16)).size == 32
    assert open_data("digits", size=12, preprocessing={"size": 12}).size == 12
    assert_raises(
        BadValue, lambda: open_data("digits", size=12, preprocessing={"size": 16}), "two different", "12", "16"
    )
    assert_raises(BadValue, lambda: open_data("digits", preprocessing={"size": 0}), "size must be at least 1")
    for asked in ({"size": 64}, Preprocessing(size=64)):
        data = open_data(str(large), preprocessing=asked, workers=0)  # type: ignore[arg-type]
        assert data.size == 64 and images_of(data).shape == (4, 3, 64, 64)


def test_small_pictures_from_files_heed_a_size_in_a_table(tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / part / "ant").mkdir(parents=True)
        Image.fromarray(numpy.zeros((8, 8, 3), dtype=numpy.uint8)).save(tmp_path / part / "ant" / "0.png")
    asked: tuple[Any, ...] = ({"size": 12}, Preprocessing(), {})
    assert [open_data(str(tmp_path), preprocessing=given).size for given in asked] == [12, 8, 8]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "asked", "size"),
    [
        ("timm/vit_tiny_patch16_224", {"size": 32}, 32),  # it takes one size only, and is made for this one
        ("cifar/resnet20", {"size": 16}, 16),
        ("cifar/resnet20", {}, 32),
        ("cifar/resnet20", Preprocessing(mean=HALF), 32),
        ("timm/test_resnet.r160_in1k", Preprocessing(mean=HALF), 32),
    ],
    ids=str,
)
def test_a_run_heeds_a_size_and_takes_a_whole_preprocessing(
    model: str, asked: Preprocessing | dict[str, Any], size: int, tmp_path: Path
) -> None:
    outcome = run(tmp_path / "out", model, preprocessing=asked)
    assert outcome.preprocessing["size"] == size
    said = json.loads((tmp_path / "out" / "run.json").read_text())
    if isinstance(asked, Preprocessing):
        assert outcome.preprocessing == Preprocessing(size=size, mean=HALF, crop_pct=1.0).facts()
        assert said["preprocessing"] == asked.facts()
    else:
        assert said.get("preprocessing", {}) == asked
    assert run(tmp_path / "out", model, preprocessing=asked, resume=True) == outcome


def test_a_run_refuses_what_is_no_preprocessing_before_anything_is_written(tmp_path: Path) -> None:
    cases: list[tuple[type[Exception], dict[str, Any], str]] = [
        (BadValue, {"preprocessing": {"mean": torch.zeros(3)}}, "mean must be three finite numbers"),
        (BadValue, {"preprocessing": 0.5}, "a table of settings"),
        (UnknownName, {"preprocessing": {"sizes": 16}}, "size"),
        (BadValue, {"preprocessing": {"size": 16}, "img_size": 32}, "two different sizes"),
        (BadValue, {"img_size": 0}, "size must be at least 1"),
    ]
    for error, options, says in cases:
        assert_raises(error, lambda o=options: run(tmp_path / "out", "cifar/resnet20", **o), says)
        assert not (tmp_path / "out").exists()


def test_flags_win_over_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["finetune", "timm/test_resnet.r160_in1k", "--data", "digits", "--epochs", "0", "--json",
                 "--val-num-samples", "9", "--output"]  # fmt: skip
    assert main([*arguments, str(tmp_path / "out"), "--mean", "0", "0.5", "1", "--interpolation", "bilinear"]) == 0
    recorded = json.loads(capsys.readouterr().out)["preprocessing"]
    asked = preprocessing_of("timm/test_resnet.r160_in1k")
    assert asked is not None
    assert (recorded["mean"], recorded["std"], recorded["interpolation"]) == (
        [0.0, 0.5, 1.0],
        list(asked.std),
        "bilinear",
    )
    assert main([*arguments, str(tmp_path / "other"), "--std", "0", "1", "1"]) == 2
    assert "surgery: std must be three finite numbers, one per channel, above 0" in capsys.readouterr().err


def test_what_is_no_preprocessing_is_refused() -> None:
    for bad, says in [
        ({"size": 0}, "size"), ({"size": LARGEST_SIDE + 1}, "4096"), ({"mean": (1.0, 2.0)}, "mean must be three"),
        ({"std": (1.0, 1.0, 0.0)}, "above 0"), ({"crop_pct": 0.0}, "crop_pct"), ({"crop_mode": "middle"}, "squash"),
        ({"interpolation": "random"}, "bicubic"), ({"mean": (float("nan"),) * 3}, "finite"),
    ]:  # fmt: skip
        assert_raises(BadValue, lambda bad=bad: Preprocessing(**bad), says)  # type: ignore[misc, arg-type]
    assert_raises(UnknownName, lambda: open_data("digits", preprocessing={"crop": 1.0}), "'crop'", "crop_pct")


def test_a_result_with_another_preprocessing_is_refused() -> None:
    measured = {"accuracy": 0.5, "parameters": 1, "living": None, "flops": 1, "dead_dynamic": None, "dead_static": None,
                "images_s": 1.0}  # fmt: skip
    plain = {"format": 1, "model": "m", "recipe": "r", "data": "d", "before": measured, "after": measured, "erased": 0,
             "swapped": 0, "added": 0, "seconds": 0.0, "versions": {}}  # fmt: skip
    assert Outcome.from_json(json.dumps(plain)).preprocessing == {}, "written before it was recorded"
    for bad in ({"size": 10**9}, {"unknown": 1}, [1]):
        text = json.dumps(plain | {"preprocessing": bad})
        assert_raises(BadFile, lambda text=text: Outcome.from_json(text), "not the outcome")  # type: ignore[misc]


@pytest.mark.data
@pytest.mark.slow
def test_real_pictures_through_a_real_network(surgery_data: Path, tmp_path: Path) -> None:
    """EfficientNet-Lite0 on images of every fourth ImageNet class; with the default mean and std it is much worse."""
    from recipes.data.dataset import Data, Decoding
    from recipes.data.image_files import PictureFile
    from recipes.data.loader import Files
    from recipes.data.tar import _members

    tar = surgery_data / "data" / "imagenet1k" / "val.tar"
    weights = surgery_data / "weights" / "tf_efficientnet_lite0.safetensors"
    if not tar.is_file() or not weights.is_file():
        pytest.skip("the pictures or the weights are not there")
    # One picture a class, named by its WordNet id; classes are counted in the order of the ids.
    files = [PictureFile(name, Path(name).stem, tar, start, size) for name, start, size in _members(tar)]
    classes = tuple(sorted(file.label for file in files))
    asked = preprocessing_of("timm/tf_efficientnet_lite0")
    assert len(classes) == 1000 and asked is not None
    model = recipes.build("timm/tf_efficientnet_lite0", pretrained=weights)
    right = {}
    for name, entry in (("own", asked), ("usual", Preprocessing())):
        pictures = Files(files[::4], classes)
        data = Data("imagenet", classes, entry, Decoding(pictures, pictures, entry, 0))
        right[name] = accuracy(model, data.testing(50))
    assert right["own"] == pytest.approx(0.868, abs=0.006)  # 0.873 on all of them
    assert 0.06 < right["own"] - right["usual"] < 0.13
