"""Looking: every activation call of a model, with all its facts, and without side effects."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

import surgery
from surgery import SurgeryError
from surgery.look.site import Sites, matches
from tests import models
from tests.asserts import assert_untouched, call
from tests.zoo.counting import count

SET_FACTS = {"fed_by", "feeds", "weights"}  # their order means nothing


def assert_sites(found: Sites, stated: tuple[models.Facts, ...]) -> None:
    """Every stated fact of every site, in order of execution; all differences are shown together."""
    lines = [f"{site.owner}.{site.target} {site.activation}" for site in found]
    wanted = [f"{facts['owner']}.{facts['target']} {facts['activation']}" for facts in stated]
    assert lines == wanted
    wrong = [
        f"{site}: {name} is {getattr(site, name)!r}, stated {value!r}"
        for site, facts in zip(found, stated, strict=True)
        for name, value in facts.items()
        if not _same(name, getattr(site, name), value)
    ]
    assert not wrong, "\n" + "\n".join(wrong)


def _same(name: str, found: Any, stated: Any) -> bool:
    return sorted(found) == sorted(stated) if name in SET_FACTS else bool(found == stated)


# The models that state their sites


@pytest.mark.parametrize("kind", models.STATED, ids=lambda kind: kind.__name__)
def test_finds_the_sites_a_model_states(kind: type[models.Stated]) -> None:
    assert_sites(surgery.find_sites(kind(), kind.example), kind.sites)


@pytest.mark.parametrize("kind", models.STATED, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_agrees_with_an_independent_count(kind: type[models.Stated], mode: str) -> None:
    events = count(kind(), kind.example, training=mode == "train")
    found = [site for site in surgery.find_sites(kind(), kind.example) if mode in site.modes]
    assert [(site.activation, site.shape) for site in found] == [(event.activation, event.shape) for event in events]


@pytest.mark.parametrize("kind", models.STATED, ids=lambda kind: kind.__name__)
def test_leaves_no_trace(kind: type[models.Stated]) -> None:
    model = kind()
    first, *_ = model.parameters()
    first.grad = torch.ones_like(first)
    list(model.parameters())[-1].requires_grad_(False)
    next(reversed(list(model.modules()))).train(False)
    with assert_untouched(model):
        surgery.find_sites(model, kind.example)


@pytest.mark.parametrize("kind", models.STATED, ids=lambda kind: kind.__name__)
def test_the_model_works_as_before(kind: type[models.Stated]) -> None:
    model = kind().eval()
    before = call(model, kind.example.clone())
    surgery.find_sites(model, kind.example)
    after = call(model, kind.example.clone())
    assert torch.equal(before, after) if isinstance(before, Tensor) else len(before) == len(after)


@pytest.mark.parametrize("kind", models.STATED, ids=lambda kind: kind.__name__)
def test_names_are_unique_and_the_same_for_a_fresh_model(kind: type[models.Stated]) -> None:
    sites, again = surgery.find_sites(kind(), kind.example), surgery.find_sites(kind(), kind.example)
    assert len({site.key for site in sites}) == len(sites)
    assert len({str(site) for site in sites}) == len(sites)
    assert tuple(sites) == tuple(again)
    json.loads(sites.to_json())
    assert len(str(sites).splitlines()) >= len(sites) + 2


def test_the_example_is_not_written_to() -> None:
    example = models.picture()
    surgery.find_sites(models.Overwritten(), example)
    assert torch.equal(example, models.picture())


def test_a_graph_module_is_looked_at_too() -> None:
    model = models.graph_model()
    with assert_untouched(model):
        assert_sites(surgery.find_sites(model, models.TwiceUsed.example), models.GRAPH_SITES)


def test_looks_in_every_mood_of_the_process() -> None:
    for mood in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mood():
            assert_sites(surgery.find_sites(models.TwiceUsed(), models.TwiceUsed.example), models.TwiceUsed.sites)


def test_a_hook_of_the_user_sees_no_call_that_is_not_his() -> None:
    seen: list[Any] = []
    model = models.TwiceUsed()
    model.act.register_forward_hook(lambda module, args, output: seen.append(output))
    surgery.find_sites(model, models.TwiceUsed.example)
    assert not seen


def test_device_and_dtype_are_those_of_the_model() -> None:
    real = surgery.find_sites(models.TwiceUsed(), models.TwiceUsed.example)
    assert {site.device for site in real} == {"cpu"}
    assert {site.dtype.removeprefix("torch.") for site in real} == {"float32"}
    half = surgery.find_sites(models.HalfPrecision(), models.HalfPrecision.example)
    assert {site.dtype.removeprefix("torch.") for site in half} == {"float16"}
    with torch.device("meta"):
        unreal = models.TwiceUsed()
    sites = surgery.find_sites(unreal, models.TwiceUsed.example.to("meta"))
    assert_sites(sites, models.TwiceUsed.sites)
    assert {site.device for site in sites} == {"meta"}


# Models that cannot be looked at


def test_a_model_that_raises_says_so_and_is_untouched() -> None:
    model = models.Raises()
    with assert_untouched(model), pytest.raises(SurgeryError, match="own complaint"):
        surgery.find_sites(model, models.Raises.example)


def test_a_model_that_raises_in_one_mode_is_seen_in_the_other() -> None:
    model, alone = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU()), torch.rand(1, 3)
    with assert_untouched(model):
        sites = surgery.find_sites(model, alone)
    assert [site.modes for site in sites] == [("eval",)]
    [(mode, reason)] = sites.unseen
    assert mode == "train" and "more than 1 value" in reason
    assert "not seen in train mode" in str(sites)


@pytest.mark.slow
def test_a_detector_without_targets_is_seen_in_eval_mode() -> None:
    kwargs = {"min_size": 64, "max_size": 64, "rpn_post_nms_top_n_test": 10, "box_detections_per_img": 2}
    build = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn
    model = build(weights=None, weights_backbone=None, **kwargs).eval()
    example = ([torch.rand(3, 64, 64)],)
    with assert_untouched(model):
        sites = surgery.find_sites(model, example)
    assert len(sites) == len(count(model, example))
    assert [mode for mode, _ in sites.unseen] == ["train"]


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile], ids=["DataParallel", "compile"])
def test_a_wrapped_model_is_refused(wrap: Any) -> None:
    model = models.TwiceUsed()
    with pytest.raises(SurgeryError) as caught:
        surgery.find_sites(wrap(model), models.TwiceUsed.example)
    assert "hint" in str(caught.value)


def test_a_model_in_ddp_is_refused(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(models.TwiceUsed())
        with pytest.raises(SurgeryError, match="module"):
            surgery.find_sites(wrapped, models.TwiceUsed.example)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore")  # torch announces the end of TorchScript
@pytest.mark.parametrize("how", ["script", "trace"])
def test_a_scripted_or_traced_model_is_refused(how: str) -> None:
    plain = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    scripted = torch.jit.script(plain) if how == "script" else torch.jit.trace(plain, models.picture())
    with pytest.raises(SurgeryError) as caught:
        surgery.find_sites(scripted, models.picture())
    assert "hint" in str(caught.value)


@pytest.mark.filterwarnings("ignore")
def test_a_scripted_part_hides_its_calls_and_is_refused_by_name() -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()))
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), scripted)
    with pytest.raises(SurgeryError, match="2"):
        surgery.find_sites(model, models.picture())


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(SurgeryError):
        surgery.find_sites(torch.relu, models.picture())  # type: ignore[arg-type]


# Examples


class Pair(nn.Module):
    """Takes two arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 4, 1), nn.ReLU()

    def forward(self, x: Tensor, shift: Tensor) -> Tensor:
        return self.act(self.conv(x) + shift)


@pytest.mark.parametrize(
    "example",
    [(models.picture(), torch.ones(1)), {"shift": torch.ones(1), "x": models.picture()}],
    ids=["tuple", "dict"],
)
def test_a_tuple_is_positional_and_a_dict_keywords(example: Any) -> None:
    [site] = surgery.find_sites(Pair(), example)
    assert site.shape == (2, 4, 8, 8)


def _same_size(channels: int = 3) -> nn.Sequential:
    """A model whose first site sees the picture's size."""
    layers = [nn.Conv2d(channels, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)]
    return nn.Sequential(*layers)


def test_the_default_example_is_two_pictures_of_224() -> None:
    [site] = surgery.find_sites(_same_size())
    assert site.shape == (2, 4, 224, 224)


def test_the_default_example_has_the_channels_of_the_first_convolution() -> None:
    [site] = surgery.find_sites(_same_size(channels=5))
    assert site.shape == (2, 4, 224, 224)


def test_the_default_size_is_the_one_of_the_configuration() -> None:
    model = _same_size()
    model.pretrained_cfg = {"input_size": (3, 40, 48)}
    [site] = surgery.find_sites(model)
    assert site.shape == (2, 4, 40, 48)


@pytest.mark.slow
def test_the_default_size_follows_timm_and_torchvision() -> None:
    with torch.device("meta"):
        small_vit = timm.create_model("test_vit", img_size=64)  # its pretrained_cfg still says 160
        gray = timm.create_model("test_resnet", in_chans=1)
        inception = torchvision.models.inception_v3(weights=None, init_weights=False)
        sized = torchvision.models.vit_b_16(weights=None, image_size=32)
    assert surgery.find_sites(small_vit)[0].shape[:2] == (2, 17)
    assert len(surgery.find_sites(gray)) == len(count(gray, torch.rand(2, 1, 160, 160, device="meta")))
    stem = surgery.find_sites(inception)[0]
    assert stem.shape == (2, 32, 149, 149)
    assert surgery.find_sites(sized)[0].shape == (2, 5, 3072)


class Configured(nn.Module):
    """A model with a configuration, as transformers' have one."""

    def __init__(self, config: Any, channels: int = 3) -> None:
        super().__init__()
        self.config = config
        self.conv, self.act = nn.Conv2d(channels, 4, 1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))


@pytest.mark.parametrize(
    ("config", "size"),
    [
        (SimpleNamespace(image_size=32, num_channels=3), (32, 32)),
        (SimpleNamespace(image_size=(32, 48)), (32, 48)),
        ({"image_size": [32, 48], "num_channels": 3}, (32, 48)),
        (SimpleNamespace(vision_config=SimpleNamespace(image_size=64, num_channels=3)), (64, 64)),
        (SimpleNamespace(image_size=None, num_channels="many"), (224, 224)),
        (SimpleNamespace(image_size={"height": 32}), (224, 224)),
        ("a name", (224, 224)),
        (None, (224, 224)),
    ],
)
def test_the_default_size_follows_the_configuration_of_transformers(config: Any, size: tuple[int, int]) -> None:
    [site] = surgery.find_sites(Configured(config))
    assert site.shape == (2, 4, *size)


def test_an_example_that_does_not_fit_is_refused_with_its_shape() -> None:
    model, wrong = models.TwiceUsed(), torch.rand(2, 7, 8, 8)
    with assert_untouched(model), pytest.raises(SurgeryError, match="channels"):
        surgery.find_sites(model, wrong)


# Known counts of real models


def meta(build: Any, *args: Any, **kwargs: Any) -> nn.Module:
    """A model on the meta device."""
    with torch.device("meta"):
        model: nn.Module = build(*args, **kwargs)
    return model


def sites_of(name: str) -> Sites:
    zoo, short = name.split("/")
    if zoo == "timm":
        return surgery.find_sites(meta(timm.create_model, short))
    kwargs = {"init_weights": False} if short in ("googlenet", "inception_v3") else {}
    build = torchvision.models.get_model
    return surgery.find_sites(build(short, weights=None) if "regnet" in short else meta(build, short, **kwargs))


@pytest.mark.parametrize(
    ("name", "in_eval", "in_train"),
    [
        ("torchvision/resnet18", 17, 17),
        ("torchvision/resnet50", 49, 49),
        ("torchvision/googlenet", 57, 61),
        ("torchvision/inception_v3", 94, 96),
        ("torchvision/densenet121", 121, 121),
        ("torchvision/mobilenet_v2", 35, 35),
        ("torchvision/vgg16_bn", 15, 15),
        ("torchvision/vit_b_16", 12, 12),
        ("timm/resnet18", 17, 17),
        ("timm/resnet50", 49, 49),
    ],
)
def test_known_counts(name: str, in_eval: int, in_train: int) -> None:
    sites = sites_of(name)
    assert len(sites.where(modes="eval")) == in_eval
    assert len(sites.where(modes="train")) == in_train
    assert not sites.unseen


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "facts", "expected"),
    [
        ("torchvision/resnet18", {"fed_by": "add"}, 8),
        ("torchvision/resnet50", {"fed_by": "add"}, 16),
        ("torchvision/resnext50_32x4d", {"fed_by": "add"}, 16),
        ("torchvision/regnet_x_400mf", {"fed_by": "add"}, 22),
        ("torchvision/googlenet", {"feeds": "concat", "modes": "eval"}, 36),
        ("torchvision/inception_v3", {"feeds": "concat", "modes": "eval"}, 44),
        ("torchvision/squeezenet1_1", {"feeds": "concat"}, 16),
        ("torchvision/shufflenet_v2_x1_0", {"feeds": "concat"}, 19),
        ("torchvision/mobilenet_v2", {"fed_by": "add"}, 0),
        ("torchvision/mobilenet_v2", {"feeds": "concat"}, 0),
        ("torchvision/mobilenet_v2", {"activation": "relu6"}, 35),
        ("torchvision/vgg16_bn", {"fed_by": "linear"}, 2),
        ("torchvision/vit_b_16", {"activation": "gelu", "channel_axis": 2, "channels": 3072}, 12),
        ("torchvision/convnext_tiny", {"activation": "gelu", "channel_axis": 3}, 18),
        ("torchvision/densenet121", {"module": None}, 1) ,
        ("timm/resnet50", {"fed_by": "add"}, 16),
        ("timm/seresnet50", {"activation": "relu"}, 65),
        ("timm/seresnet50", {"activation": "relu", "role": "gate"}, 16),
        ("timm/seresnet50", {"activation": "relu", "role": "nonlinearity"}, 49),
        ("timm/seresnet50", {"activation": "sigmoid", "role": "gate"}, 16),
        ("torchvision/mobilenet_v3_small", {"activation": "hardsigmoid", "role": "gate"}, 9),
        ("torchvision/mobilenet_v3_small", {"activation": "relu", "role": "gate"}, 9),
        ("timm/vit_tiny_patch16_224", {"block": "blocks.*.mlp", "activation": "gelu"}, 12),
        ("timm/densenet121", {"activation": "relu"}, 121),
        ("timm/swinv2_tiny_window8_256", {"activation": "sigmoid", "module": None}, 12),
    ],
)  # fmt: skip
def test_known_facts(name: str, facts: dict[str, Any], expected: int) -> None:
    sites = sites_of(name)
    assert sum(all(matches(value, getattr(site, key)) for key, value in facts.items()) for site in sites) == expected


def test_the_shared_relu_of_resnet50_is_listed_call_by_call() -> None:
    sites = sites_of("torchvision/resnet50")
    assert len({site.module for site in sites}) == 17
    block = sites.by_block()["layer3.2"]
    assert [str(site) for site in block] == [f"layer3.2.relu {turn}/3" for turn in (1, 2, 3)]
    assert [(site.position, site.positions) for site in block] == [(1, 3), (2, 3), (3, 3)]
    assert [site.fed_by for site in block] == [("norm",), ("norm",), ("add",)]
    assert [site.channels for site in block] == [256, 256, 1024]
    assert block[0].weights == ("layer3.2.conv1.weight",)
    assert len(sites.by_block()) == 16
    assert str(sites[0]) == "relu" and sites[0].block is None


def test_where_works_on_a_real_model() -> None:
    sites = sites_of("timm/seresnet50")
    last = sites.where(block="layer3.*", role="nonlinearity", fed_by="add")
    assert [str(site) for site in last] == [f"layer3.{n}.act3" for n in range(6)]
    assert json.loads(last.to_json())[0]["owner"] == "layer3.0"


# Memory


@pytest.mark.slow
def test_a_model_of_a_gigabyte_is_looked_at_with_little_more_memory() -> None:
    script = """
        import resource, torch, surgery
        from torch import nn

        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

        surgery.find_sites(nn.Sequential(nn.Linear(8, 8), nn.ReLU()), torch.rand(2, 8))
        with torch.device("meta"):
            layers = [layer for _ in range(16) for layer in (nn.Linear(4096, 4096), nn.ReLU())]
        model = nn.Sequential(*layers).to_empty(device="cpu")
        for parameter in model.parameters():
            nn.init.constant_(parameter, 0.01)
        before = peak()
        sites = surgery.find_sites(model, torch.rand(2, 4096))
        print(len(sites), before, peak() - before)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(surgery.__file__).parents[1])
    count_, before, more = done.stdout.split()
    assert int(count_) == 16
    assert float(before) > 1000, "the model does not fill the gigabyte it should"
    assert float(more) < 50


def test_a_model_that_needs_its_hooks_is_told_that_they_are_left_out() -> None:
    model = models.TwiceUsed()
    model.register_forward_pre_hook(lambda module, args: (args[0].unflatten(1, (3, -1)),))
    with pytest.raises(SurgeryError, match="must run without them"):
        surgery.find_sites(model, torch.rand(2, 3))
