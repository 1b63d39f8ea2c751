"""A ReLU behind the classifier: where it may be, what it computes, and nothing else changed."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import VisionTransformer, resnet18, squeezenet1_1

import surgery
from recipes import cli
from surgery.activations import RectifiedScores
from surgery.look.site import NO_CALL
from tests import models
from tests.asserts import assert_raises, assert_same_frame, assert_same_function, assert_untouched
from tests.models import picture, randomise
from tests.surgery.small_net import SmallNet


def torchvision_resnet() -> nn.Module:
    return resnet18(num_classes=7)


def timm_resnet() -> nn.Module:
    model: nn.Module = timm.create_model("resnet18", num_classes=7)
    return model


def transformer() -> nn.Module:
    return VisionTransformer(
        image_size=32, patch_size=16, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=12, num_classes=5
    )


ZOO = {torchvision_resnet: "fc", timm_resnet: "fc", transformer: "heads.head", SmallNet: "fc"}
X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module", params=ZOO, ids=lambda build: build.__name__)
def zoo(request: pytest.FixtureRequest) -> Iterator[tuple[nn.Module, str]]:
    """A model in eval mode, with scores that are not all zero, and the path of its classifier."""
    torch.manual_seed(0)
    model = request.param().eval()
    path = ZOO[request.param]
    nn.init.normal_(model.get_submodule(path).weight)  # type: ignore[arg-type]
    yield model, path


def rectified(model: nn.Module, reading: str = "scores", x: Tensor = X) -> tuple[nn.Module, surgery.Report]:
    return surgery.transform(model, surgery.rectify_scores(reading), x)


def shares_of(scores: Tensor) -> Tensor:
    """The logarithms of the probabilities, by hand."""
    positive = scores.clamp_min(0) / scores.clamp_min(0).sum(1, keepdim=True)
    positive = positive.clamp(1e-7, 1 - 1e-7)
    return (positive / positive.sum(1, keepdim=True)).log()


class Ending(models.Stated):
    """A net whose scores leave it in one way or another."""

    def __init__(self, end: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.conv, self.fc, self.end = nn.Conv2d(3, 4, 1), nn.Linear(4, 3), end

    def forward(self, x: Tensor) -> Any:
        features = F.relu(self.conv(x)).mean((2, 3))
        return self.end(self.fc(features), features)


class Convolution(models.Stated):
    """A convolution as classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.adaptive_avg_pool2d(F.relu(self.conv(x)), 1)).flatten(1)


# What it computes


@pytest.mark.slow
def test_the_scores_are_rectified_and_all_else_stays(zoo: tuple[nn.Module, str]) -> None:
    model, path = zoo
    before = surgery.find_sites(model, X)
    edited, report = rectified(model)
    with torch.no_grad():
        scores = model(X)
        assert torch.equal(edited(X), scores.relu())
    assert bool((scores < 0).any())
    assert list(edited.state_dict()) == list(model.state_dict()) and report.added == report.removed == ()
    assert type(edited).__name__ == type(model).__name__
    assert isinstance(edited.get_submodule(path), nn.Linear)
    assert_same_frame(model, edited)
    assert list(report.before) == list(before)
    *others, last = report.after
    assert others == list(before)
    assert (last.owner, last.activation, last.role) == (path, "rectified_scores", "head")


def test_the_shares_are_logarithms_of_shares(zoo: tuple[nn.Module, str]) -> None:
    model, _ = zoo
    edited, _ = rectified(model, "shares")
    with torch.no_grad():
        result, wanted = edited(X), shares_of(model(X))
    assert torch.allclose(result, wanted, atol=1e-5)
    assert torch.allclose(result.exp().sum(1), torch.ones(2), atol=1e-5)


def test_undo_brings_the_class_back(zoo: tuple[nn.Module, str]) -> None:
    model, path = zoo
    edited, _ = rectified(model)
    assert type(edited.get_submodule(path)) is not nn.Linear
    surgery.undo(edited)
    assert type(edited.get_submodule(path)) is nn.Linear
    assert [name for name, _ in edited.named_modules()] == [name for name, _ in model.named_modules()]
    with torch.no_grad():
        assert torch.equal(edited(X), model(X))


@pytest.mark.slow
def test_copies_and_pickles_are_rectified_too(zoo: tuple[nn.Module, str]) -> None:
    edited, _ = rectified(zoo[0], "shares")
    with torch.no_grad():
        for copied in (copy.deepcopy(edited), pickle.loads(pickle.dumps(edited))):
            assert torch.equal(copied(X), edited(X))


def test_a_convolution_can_be_the_classifier() -> None:
    model = Convolution()
    for reading in ("scores", "shares"):
        edited, report = rectified(model, reading, picture())
        wanted = model(picture()).relu() if reading == "scores" else shares_of(model(picture()))
        assert torch.allclose(edited(picture()), wanted, atol=1e-5)
        assert isinstance(edited.last, nn.Conv2d) and report.plan.edits[0].site.channel_axis == 1
    assert type(surgery.undo(edited).last) is nn.Conv2d


@pytest.mark.parametrize(
    "end",
    [lambda scores, _: scores.reshape(-1, 3, 1), lambda scores, _: {"scores": scores}, lambda scores, _: [scores]],
    ids=["reshaped", "dict", "list"],
)
def test_scores_may_be_wrapped_and_reshaped(end: Callable[[Tensor, Tensor], Any]) -> None:
    model = Ending(end)
    edited, _ = rectified(model, x=picture())
    before, after = (network(picture()) for network in (model, edited))
    for got, other in zip(before, after, strict=True):
        got, other = (before[got], after[other]) if isinstance(got, str) else (got, other)
        assert torch.equal(got.relu(), other)


def test_it_learns() -> None:
    edited, _ = rectified(randomise(SmallNet()), "shares", picture())
    loss = F.cross_entropy(edited(picture()), torch.tensor([0, 2]))
    loss.backward()
    assert loss.item() > 0
    assert all(param.grad is not None and bool(param.grad.isfinite().all()) for param in edited.parameters())


class Twofold(nn.Linear):
    """A linear layer with two definitions of its forward, of which the second runs."""

    def forward(self, input: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return F.linear(input, self.weight)
        return F.linear(input, self.weight, self.bias)


class Inherited(nn.Linear):
    """One that leaves the sums to its parent."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input)


class Padded(nn.Conv2d):
    """A convolution that goes its own way to its sums."""

    def forward(self, input: Tensor) -> Tensor:
        return padded(input, self.weight, self.bias)


def padded(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.conv2d(F.pad(x, (1, 1, 1, 1)), weight, bias)


@pytest.mark.parametrize("kind", [Twofold, Inherited, timm.layers.Linear], ids=lambda kind: kind.__module__[:5])
def test_a_linear_layer_of_another_class_can_be_the_classifier(kind: type[nn.Linear], tmp_path: Path) -> None:
    model = Ending(lambda scores, _: scores)
    model.fc = kind(4, 3)
    edited, _ = rectified(model, x=picture())
    assert torch.equal(edited(picture()), model(picture()).relu()) and isinstance(edited.fc, kind)
    surgery.save(edited, tmp_path)
    fresh = Ending(lambda scores, _: scores)
    fresh.fc = kind(4, 3)
    assert_same_function(surgery.load(tmp_path, fresh), edited, picture())
    assert type(surgery.undo(edited).fc) is kind


def test_a_convolution_of_another_class_can_be_the_classifier() -> None:
    model = Convolution()
    model.last = Padded(4, 5, 3)
    edited, _ = rectified(model, x=picture())
    assert torch.equal(edited(picture()), model(picture()).relu())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "ghostnet_100"])
def test_classifiers_of_timm_that_script_another_way(name: str) -> None:
    model = timm.create_model(name, num_classes=5).eval()
    nn.init.normal_(model.classifier.weight)
    edited, report = rectified(model)
    with torch.no_grad():
        scores = model(X)
        assert bool((scores < 0).any()) and torch.equal(edited(X), scores.relu())
    assert report.after[-1].activation == "rectified_scores"


# Where it may not stand


class Lambda(nn.Linear):
    """A linear layer whose forward is not a readable method."""

    forward = lambda self, input: F.linear(input, self.weight, self.bias)  # noqa: E731


class Apart(nn.Linear):
    """One that wants more than its input."""

    def forward(self, input: Tensor, more: Tensor) -> Tensor:
        return F.linear(input + more, self.weight, self.bias)


class Handed(Ending):
    """A network that passes two arguments to its classifier."""

    def forward(self, x: Tensor) -> Any:
        features = F.relu(self.conv(x)).mean((2, 3))
        return self.fc(features, features)


@pytest.mark.parametrize(("net", "kind"), [(Ending, Lambda), (Handed, Apart)])
def test_a_classifier_whose_call_cannot_be_found_is_refused_by_name(net: type[Ending], kind: type[nn.Linear]) -> None:
    model = net(lambda scores, _: scores)
    model.fc = kind(4, 3)
    with assert_untouched(model):
        assert_raises(surgery.CannotEdit, lambda: rectified(model, x=picture()), "fc", kind.__name__, "the output")


@pytest.mark.parametrize(
    "build",
    [
        squeezenet1_1,
        lambda: Ending(lambda scores, _: scores.softmax(1)),
        lambda: Ending(lambda scores, features: (scores, features)),
        lambda: Ending(lambda scores, _: scores * -2),
        lambda: Ending(lambda scores, _: (scores * -2).reshape(-1, 3)),
        lambda: Ending(lambda _, features: features),
        models.ConvNext,
    ],
    ids=["squeezenet", "softmax", "several", "scaled", "scaled and reshaped", "features", "sum"],
)
def test_what_returns_something_else_is_refused(build: Callable[[], nn.Module]) -> None:
    model = build().eval()
    with assert_untouched(model):
        assert_raises(
            surgery.NothingPicked, lambda: rectified(model), type(model).__name__, "one linear layer or convolution",
            "rectify_scores(reading='scores')", "RectifiedScores",
        )  # fmt: skip
    edited, report = surgery.transform(model, surgery.rectify_scores(optional=True), X)
    assert report.plan.edits == () and surgery.history_of(edited) == ()
    assert surgery.find_sites(model, X).scores is None


def test_twice_is_refused() -> None:
    edited, _ = rectified(SmallNet(), x=picture())
    assert_raises(surgery.CannotEdit, lambda: rectified(edited, x=picture()), "applied", "rectify_scores")
    assert_raises(surgery.NothingPicked, lambda: rectified(edited, "shares", picture()), "SmallNet")


def test_there_are_two_readings() -> None:
    assert_raises(surgery.BadValue, lambda: surgery.rectify_scores("logits"), "`reading`", "'logits'", "shares")


def test_a_count_that_is_expected() -> None:
    surgery.transform(SmallNet(), surgery.rectify_scores(expect=1), picture())
    assert_raises(
        surgery.CountChanged,
        lambda: surgery.transform(Ending(lambda s, _: s.softmax(1)), surgery.rectify_scores(expect=1), picture()),
        "expects 1",
    )
    surgery.transform(Ending(lambda s, _: s.softmax(1)), surgery.rectify_scores(expect=0), picture())


# Together with the rest


def test_with_other_rules_in_one_call() -> None:
    model = randomise(SmallNet()).eval()
    rules = [surgery.swap("prelu"), surgery.rectify_scores()]
    edited, report = surgery.transform(model, rules, picture())
    with torch.no_grad():
        assert torch.allclose(edited(picture()), model(picture()).relu(), atol=1e-6)
    assert [site.activation for site in report.after] == ["prelu"] * 5 + ["rectified_scores"]
    later = surgery.transform(edited, surgery.swap("gelu"), picture())[0]
    assert [site.activation for site in surgery.find_sites(later, picture())] == ["gelu"] * 5 + ["rectified_scores"]
    surgery.undo(later)
    assert_same_function(later, model, picture())


def test_erasing_everything_else_leaves_it() -> None:
    edited, report = surgery.transform(SmallNet(), [surgery.erase(), surgery.rectify_scores()], picture())
    assert [site.activation for site in report.after] == ["rectified_scores"]
    assert bool((edited(picture()) >= 0).all())


def test_a_swap_of_everything_leaves_the_scores_alone() -> None:
    sites = surgery.find_sites(SmallNet(), picture())
    assert sites.scores is not None and sites.scores.activation == NO_CALL and sites.scores not in list(sites)
    assert sites.places == (*sites, sites.scores, *sites.blocks)
    plan = surgery.make_plan(sites, surgery.swap("gelu"))
    assert [edit.site for edit in plan.edits] == list(sites)


@pytest.mark.slow
@pytest.mark.parametrize("reading", ["scores", "shares"])
def test_it_is_saved_and_loaded(reading: str, tmp_path: Path) -> None:
    edited, _ = surgery.transform(SmallNet(), [surgery.rectify_scores(reading), surgery.swap("pwlu")], picture())
    surgery.save(edited, tmp_path)
    loaded = surgery.load(tmp_path, SmallNet())
    assert_same_function(loaded, edited, picture())
    (behind,) = [module for module in loaded.modules() if isinstance(module, RectifiedScores)]
    assert behind.reading == reading


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("reading", ["scores", "shares"])
@pytest.mark.usefixtures("fresh_compiler")
def test_it_compiles_whole(reading: str) -> None:
    edited, _ = rectified(SmallNet().eval(), reading, picture())
    compiled = torch.compile(edited, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        assert torch.allclose(compiled(picture()), edited(picture()), atol=1e-6)


def test_on_a_meta_model() -> None:
    with torch.device("meta"):
        model = SmallNet()
    edited, report = surgery.transform(model, surgery.rectify_scores(), picture())
    assert [site.activation for site in report.after][-1] == "rectified_scores"
    assert {param.device.type for param in edited.parameters()} == {"meta"}


# What is printed


def test_what_is_printed() -> None:
    rule = surgery.rectify_scores("shares")
    assert str(rule) == "rectify_scores(reading='shares')"
    assert eval(str(rule), {"rectify_scores": surgery.rectify_scores}) == rule
    sites = surgery.find_sites(SmallNet(), picture())
    plan = surgery.make_plan(sites, [surgery.swap("gelu", position=1), rule])
    assert str(plan).splitlines() == [
        "2 of 5 activation calls of SmallNet will be edited",
        "  site               block     before      after",
        "  blocks.0.relu 1/2  blocks.0  relu    ->  gelu",
        "  blocks.1.relu 1/2  blocks.1  relu    ->  gelu",
        "  fc.scores          -         -       ->  rectified_scores",
        "  kept: 3 (not position=1, role='nonlinearity')",
    ]
    report = surgery.transform(SmallNet(), rule, picture())[1]
    assert str(report).splitlines() == [
        "rectified_scores added behind the classifier; 5 calls kept",
        "  site       block  before      after",
        "  fc.scores  -      -       ->  rectified_scores",
        "  kept: 5 (not asked for)",
        "  parameters unchanged",
    ]


@pytest.mark.slow
def test_the_command_line_knows_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["transform", "timm/resnet18", "--shape", "2,3,32,32", "--rule", "rectify_scores:reading=shares"]
    assert cli.main([*words, "--save", str(tmp_path)]) == 0
    assert "rectified_scores added behind the classifier" in capsys.readouterr().out
    assert json.loads((tmp_path / "surgery.json").read_text())["steps"][0]["data"]["edits"][0]["params"] == {
        "reading": "shares"
    }
    assert cli.main([*words, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["calls_after"] == report["calls_before"] + 1
    assert [edit["is"] for edit in report["edits"]] == ["rectified_scores"]
