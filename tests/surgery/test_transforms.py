"""Transforms: exactly the picked calls change, the rest is bit-identical, and the given model is unchanged."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.nfnet import GammaAct
from torch import Tensor, fx, nn

import surgery
from surgery import transforms
from surgery.plan.rules import Rule
from tests import models
from tests.asserts import (
    assert_bit_equal,
    assert_only_changed,
    assert_raises,
    assert_same_function,
    assert_untouched,
)
from tests.models import picture, randomise
from tests.surgery.transformed import transformed
from tests.zoo.counting import count
from tests.zoo.oracle import output, output_without

STATED = [kind for kind in models.STATED if kind.sites]


# Every stated model, every site


@pytest.mark.slow
@pytest.mark.parametrize("kind", STATED, ids=lambda kind: kind.__name__)
def test_erasing_one_call_agrees_with_bypassing_it(kind: type[models.Stated]) -> None:
    model = randomise(kind().eval())
    sites = [site for site in surgery.find_sites(model, kind.example) if "eval" in site.modes]
    events = count(model, kind.example)
    for site in sites:
        if site.locked:
            continue
        runs = [place for place, other in enumerate(sites) if other.key[:-1] == site.key[:-1]]
        rule = surgery.erase(site=tuple(str(sites[place]) for place in runs), role=("nonlinearity", "gate", "head"))
        edited = transformed(model, rule, kind.example)
        wanted, left = output_without(model, kind.example, set(runs))
        assert_bit_equal(output(edited, kind.example), wanted, what=f"output without {site}")
        assert [other.activation for other in count(edited, kind.example)] == [other.activation for other in left]
        assert len(left) == len(events) - len(runs)
        undone = surgery.undo(edited)
        assert_bit_equal(output(undone, kind.example), output(model, kind.example))


@pytest.mark.slow
def test_the_stated_models_give_many_calls_to_erase() -> None:
    sites = [site for kind in STATED for site in surgery.find_sites(kind(), kind.example)]
    assert sum(1 for site in sites if not site.locked) > 120


@pytest.mark.parametrize("kind", STATED, ids=lambda kind: kind.__name__)
def test_erasing_everything_leaves_no_call(kind: type[models.Stated]) -> None:
    if any(site.locked and site.module is None for site in surgery.find_sites(kind(), kind.example)):
        pytest.skip("a call that cannot be edited")
    model = kind()
    everything = surgery.erase(role=("nonlinearity", "gate", "head"))
    edited = transformed(model, everything, kind.example)
    assert count(edited, kind.example) == []
    assert count(edited, kind.example, training=True) == []
    assert len(surgery.find_sites(edited, kind.example)) == 0


@pytest.mark.slow
@given(
    kind=st.sampled_from([models.ResidualNet, models.InceptionNet, models.PlainNet, models.FunctionalSpellings]),
    data=st.data(),
)
@settings(max_examples=25)
def test_transform_then_undo_is_the_identity(kind: type[models.Stated], data: st.DataObject) -> None:
    torch.manual_seed(0)
    model = randomise(kind())
    sites = surgery.find_sites(model, kind.example)
    names = data.draw(st.lists(st.sampled_from([str(site) for site in sites]), min_size=1, max_size=4, unique=True))
    to = data.draw(
        st.lists(st.sampled_from(["identity", "gelu", "prelu", "relu"]), min_size=len(names), max_size=len(names))
    )
    rules = [surgery.swap(make, site=name) for make, name in zip(to, names, strict=True)]
    edited, report = surgery.transform(model, rules, kind.example)
    assert len(report.after) == len(sites) - to.count("identity")
    surgery.undo(edited)
    assert_same_function(edited, model, kind.example)
    assert {path: type(module) for path, module in edited.named_modules()} == {
        path: type(module) for path, module in model.named_modules()
    }  # fmt: skip


# Against models written by hand


class PlainBlock(models.BasicBlock):
    """The residual block without its last ReLU, by hand."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.downsample(x)
        return out


class PlainBottleneck(models.Bottleneck):
    """The bottleneck without its last ReLU, by hand."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.bn1(self.conv1(x)))
        y = self.act2(self.bn2(self.conv2(y)))
        return self.bn3(self.conv3(y)) + x


class PlainBranch(models.ConvRelu):
    """Convolution and norm, by hand."""

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class PlainPreAct(models.PreActBlock):
    """The pre-activation block without the ReLU before its last convolution, by hand."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(F.relu(self.bn1(x)))
        out = self.conv2(self.bn2(out))
        return out + x


class PlainDense(models.DenseLayer):
    """The dense layer without its second ReLU, by hand."""

    def forward(self, x: Tensor) -> Tensor:
        new = self.conv1(self.relu1(self.norm1(x)))
        return torch.cat([x, self.conv2(self.norm2(new))], 1)


def by_hand(model: nn.Module, kind: type[nn.Module], *paths: str) -> nn.Module:
    """A copy whose modules at these paths have another class."""
    made = copy.deepcopy(model)
    for path in paths:
        made.get_submodule(path).__class__ = kind
    return made


@pytest.mark.parametrize(
    ("kind", "rule", "hand", "paths"),
    [
        (models.ResidualNet, surgery.erase_relu(), PlainBlock, ("layer1.0", "layer1.1")),
        (models.ResidualNet, surgery.erase_relu(keep_final=True), PlainBlock, ("layer1.0",)),
        (models.BottleneckNet, surgery.erase_relu(), PlainBottleneck, ("body.0", "body.1")),
        (models.BottleneckNet, surgery.erase_relu(share=0.5, order="back"), PlainBottleneck, ("body.1",)),
        (models.InceptionNet, surgery.erase_relu(), PlainBranch,
         ("mixed.direct", "mixed.wide", "mixed.left", "mixed.right", "mixed.pooled")),
        (models.PreActNet, surgery.erase_relu(), PlainPreAct, ("body.0", "body.1")),
        (models.DenseNet, surgery.erase_relu(), PlainDense, ("layers.0", "layers.1")),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)  # fmt: skip
def test_erasing_equals_the_model_written_by_hand(
    kind: type[models.Stated], rule: Rule, hand: type[nn.Module], paths: tuple[str, ...]
) -> None:
    model = randomise(kind())
    assert_same_function(transformed(model, rule), by_hand(model, hand, *paths), kind.example)


class GammaNet(nn.Module):
    """As in dm_nfnet: the activation is scaled in place, and a shortcut reads its input."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.conv, self.act, self.last = (
            nn.Conv2d(3, 4, 1),
            GammaAct("relu", gamma=1.5, inplace=inplace),
            nn.Conv2d(4, 4, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.last(self.act(x)) + x


class GammaByHand(GammaNet):
    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.last(x.clone().mul_(1.5)) + x


def test_the_identity_of_a_call_out_of_place_is_a_copy() -> None:
    model = GammaNet(inplace=False)
    (site,) = surgery.find_sites(model, picture())
    assert not site.overwrites
    edited = transformed(model, surgery.erase())
    assert_same_function(edited, by_hand(model, GammaByHand, ""), picture())


def test_the_identity_of_a_call_in_place_is_its_input() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            y = x * 1
            return self.act(y), y  # type: ignore[return-value]

    first, second = transformed(InPlace(), surgery.erase())(picture())
    assert first is second


# What is kept


def test_a_copy_keeps_class_methods_modes_flags_and_hooks() -> None:
    model = models.ResidualNet().half().train()
    model.layer1[0].eval()
    model.conv1.requires_grad_(False)
    model.note = "kept"  # type: ignore[assignment]
    calls: list[str] = []
    model.layer1[1].register_forward_hook(lambda module, args, out: calls.append("block"))
    model.layer1[1].relu.register_forward_hook(lambda module, args, out: calls.append("relu"))
    edited = transformed(model, surgery.erase_relu(), picture().half())
    assert type(edited) is models.ResidualNet
    assert isinstance(edited.layer1[1], models.BasicBlock)
    assert type(edited.layer1[1]).__name__ == "BasicBlock"
    assert edited.note == "kept"
    assert not edited.layer1[0].training
    assert edited.layer1[0].get_submodule("relu_1").training is False
    assert not calls
    edited.float().eval()(picture())
    assert calls == ["relu", "block"]


def test_a_replaced_module_hands_on_its_hooks() -> None:
    model = models.BottleneckNet()
    calls: list[str] = []
    model.body[1].act3.register_forward_hook(lambda module, args, out: calls.append(type(module).__name__))
    edited = transformed(model, surgery.swap("gelu", site="body.1.act3"))
    assert not calls
    edited(picture())
    assert calls == ["GELU"]
    surgery.undo(edited)(picture())
    assert calls == ["GELU", "ReLU"]


def test_new_parameters_are_named_and_reported_and_learn() -> None:
    model = models.ResidualNet()
    edited, report = surgery.transform(model, surgery.swap("prelu", block="*", position=2), picture())
    assert report.added == ("layer1.0.relu_1.weight", "layer1.1.relu_1.weight")
    edited(picture()).sum().backward()
    for name in report.added:
        slope = edited.get_parameter(name)
        assert slope.requires_grad
        assert slope.grad is not None
        assert slope.grad.abs().sum() > 0


def test_a_model_on_meta_can_be_transformed() -> None:
    with torch.device("meta"):
        model = models.ResidualNet()
    edited, report = surgery.transform(model, surgery.erase_relu(), picture())
    assert len(report.after) == 3
    assert all(param.device.type == "meta" for param in edited.parameters())
    loaded = edited.to_empty(device="cpu")
    loaded.load_state_dict(models.ResidualNet().state_dict())
    assert len(count(loaded, picture())) == 3


def test_outside_the_edits_the_sites_are_as_before() -> None:
    model = models.ResidualNet()
    edited, report = surgery.transform(model, surgery.erase_relu(), picture())
    assert_only_changed(report.before, report.after, [edit.site for edit in report.plan.edits])
    assert [str(site.key) for site in surgery.find_sites(edited, picture())] == [str(s.key) for s in report.after]


def test_in_place_gives_the_report_and_edits_the_model_itself() -> None:
    model = randomise(models.ResidualNet())
    copied = copy.deepcopy(model)
    report = surgery.transform_(model, surgery.erase_relu(), picture())
    assert len(report.after) == 3
    assert_same_function(model, transformed(copied, surgery.erase_relu()), picture())
    assert_same_function(surgery.undo(model), copied, picture())


# Swapping


class EveryPlace(nn.Module):
    """A plain module, a shared module and a function."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (nn.Conv2d(4, 4, 1) for _ in range(3))
        self.slot, self.shared = nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.shared(self.conv2(self.slot(self.conv1(x))))
        return self.shared(self.conv3(F.relu(x - 0.1)))


class EveryPlaceByHand(EveryPlace):
    def forward(self, x: Tensor) -> Tensor:
        x = self.shared(self.conv2(self.one(self.conv1(x))))  # type: ignore[operator]
        return self.two(self.conv3(self.three(x - 0.1)))  # type: ignore[operator]


@pytest.mark.parametrize("name", sorted({*surgery.activations.names()} - {"rectified_scores"}))
def test_every_function_goes_into_every_place(name: str) -> None:
    model, example = EveryPlace(), torch.randn(2, 4, 5, 5)
    sites = ["slot", "shared 2/2", "relu"]
    edited = transformed(model, [surgery.swap(name, site=site, start="own") for site in sites], example)
    hand = copy.deepcopy(model)
    hand.__class__ = EveryPlaceByHand
    for child in ("one", "two", "three"):
        hand.add_module(child, surgery.activations.build(name, 4))
    assert torch.equal(edited(example), hand(example))
    found = [site.activation for site in surgery.find_sites(edited, example)]
    wanted = ["relu"] if name in ("identity", "affine") else [name, "relu", name, name]
    assert found == wanted
    assert_same_function(surgery.undo(edited), model, example)


@pytest.mark.parametrize(
    ("rule", "attribute", "value"),
    [
        (surgery.swap("leaky_relu", negative_slope=0.3), "negative_slope", 0.3),
        (surgery.swap("elu", params={"alpha": 0.5}), "alpha", 0.5),
        (surgery.swap("softplus", beta=2.0, threshold=5.0), "beta", 2.0),
    ],
    ids=str,
)
def test_parameters_go_to_the_builder(rule: Rule, attribute: str, value: float) -> None:
    edited = transformed(models.BottleneckNet(), rule)
    assert {getattr(module, attribute) for module in edited.modules() if hasattr(module, attribute)} == {value}


def test_gates_are_left_alone_unless_asked_for() -> None:
    model = models.SqueezeExciteNet()
    sites = surgery.find_sites(model, model.example)
    gates = [site for site in sites if site.role == "gate"]
    assert gates
    left = surgery.find_sites(transformed(model, surgery.swap("silu"), model.example), model.example)
    assert [site.activation for site in left if site.role == "gate"] == [site.activation for site in gates]
    asked = transformed(model, surgery.swap("hardsigmoid", role="gate", activation="sigmoid"), model.example)
    assert "sigmoid" not in {site.activation for site in surgery.find_sites(asked, model.example)}


def test_the_same_function_over_again_changes_nothing() -> None:
    model = randomise(models.ResidualNet())
    assert_same_function(transformed(model, surgery.swap("relu")), model, picture())


# Again and again


def test_a_second_transform_counts_positions_anew() -> None:
    model = models.BottleneckNet()
    once = transformed(model, surgery.erase_relu())
    twice = transformed(once, surgery.swap("gelu", position=2))
    assert type(twice.body[0].act2) is nn.GELU
    assert type(twice.body[0].act1) is nn.ReLU
    again = transformed(once, surgery.erase_relu(-2))
    assert [str(site) for site in surgery.find_sites(again, picture())] == ["body.0.act2", "body.1.act2"]


@pytest.mark.parametrize("kind", [models.ResidualNet, models.BottleneckNet, models.InceptionNet, models.FireNet])
def test_the_same_recipe_again_is_refused(kind: type[models.Stated]) -> None:
    edited = transformed(kind(), surgery.erase_relu())
    for verb in (surgery.transform, surgery.transform_):
        with assert_untouched(edited):
            assert_raises(
                surgery.CannotEdit, functools.partial(verb, edited, surgery.erase_relu(), picture()), "already"
            )


def test_edits_of_one_owner_in_two_transforms_merge() -> None:
    model = randomise(models.ResidualNet())
    rules = [surgery.erase(site="layer1.0.relu 2/2"), surgery.swap("gelu", site="layer1.0.relu 1/2")]
    once = transformed(model, rules)
    steps = transformed(transformed(model, rules[0]), surgery.swap("gelu", site="layer1.0.relu"))
    assert type(steps.layer1[0]).__mro__[1] is models.BasicBlock
    assert_same_function(once, steps, picture())


def test_an_edited_call_can_be_edited_again() -> None:
    model = randomise(models.ThriceInPlace())
    first = transformed(model, surgery.swap("gelu", site="act 2/3"), model.example)
    names = [str(site) for site in surgery.find_sites(first, model.example)]
    assert [site.activation for site in surgery.find_sites(first, model.example)] == ["relu", "gelu", "relu"]
    second = transformed(first, surgery.swap("silu", site=names[1]), model.example)
    third = transformed(second, surgery.erase(site=names[1]), model.example)
    assert_same_function(third, transformed(model, surgery.erase(site="act 2/3"), model.example), model.example)
    for earlier in (second, first, model):
        assert_same_function(surgery.undo(third, 1), earlier, model.example)


def test_equal_edits_share_one_class() -> None:
    edited = transformed(models.ResidualNet(), surgery.erase_relu())
    assert type(edited.layer1[0]) is type(edited.layer1[1]) is not models.BasicBlock


# Shared and aliased


def test_a_block_under_two_names_is_told_apart() -> None:
    model = randomise(models.AliasBlocks()).eval()
    edited = transformed(model, surgery.erase(site="mlp3.act"), model.example)
    assert list(edited.state_dict()) == list(model.state_dict())
    assert edited.mlp3 is not edited.mlp2
    assert edited.mlp3.fc1 is edited.mlp2.fc1
    assert edited.mlp3.fc1.weight is edited.mlp2.fc1.weight
    assert_bit_equal([edited(model.example)], output_without(model, model.example, {2})[0])
    copied = copy.deepcopy(edited)
    assert copied.mlp3.fc1 is copied.mlp2.fc1
    surgery.undo(edited)
    assert edited.mlp3 is edited.mlp2
    assert_same_function(edited, model, model.example)


def test_both_names_of_a_block_can_be_edited() -> None:
    model = models.AliasBlocks()
    edited = transformed(model, surgery.swap("silu", owner=("mlp2", "mlp3")), model.example)
    assert [site.activation for site in surgery.find_sites(edited, model.example)] == ["gelu", "silu", "silu"]


def test_a_block_shared_around_a_functional_call_is_told_apart() -> None:
    class Aliases(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = models.ConvRelu(3, 3)
            self.two = self.one

        def forward(self, x: Tensor) -> Tensor:
            return self.two(self.one(x))

    model = randomise(Aliases()).eval()
    edited = transformed(model, surgery.erase(owner="one"))
    assert_bit_equal([edited(picture())], output_without(model, picture(), {0})[0])
    assert edited.one.conv is edited.two.conv
    assert list(edited.state_dict()) == list(model.state_dict())


def test_all_runs_of_a_shared_head() -> None:
    model = models.HeadOnLevels()
    edited = transformed(model, surgery.swap("gelu", site="head.act"))
    assert [site.activation for site in surgery.find_sites(edited, picture())] == ["gelu"] * 3


# Loops


class Repeated(nn.Module):
    """The same calls, a number of times that may change."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.conv, self.act, self.times = nn.Conv2d(3, 3, 1), nn.ReLU(), times

    def forward(self, x: Tensor, without: int = 0) -> Tensor:
        for _ in range(self.times):
            x = self.act(self.conv(x))
        return x


class RepeatedByHand(Repeated):
    """Without the ReLU of the second pass."""

    def forward(self, x: Tensor, without: int = 0) -> Tensor:
        for k in range(self.times):
            x = self.conv(x) if k == 1 else self.act(self.conv(x))
        return x


def test_a_pass_of_a_loop_is_edited_alone_however_long_it_runs_later() -> None:
    model = Repeated(3)
    edited = transformed(model, surgery.erase(iteration=2))
    for times in (3, 6, 1, 0):
        model.times = edited.times = times
        assert_same_function(edited, by_hand(model, RepeatedByHand, ""), picture())


def test_passes_of_a_comprehension_and_of_a_while_loop() -> None:
    for kind in (models.SharedInComprehension, models.WhileLoop):
        model = randomise(kind()).eval()
        for place, site in enumerate(surgery.find_sites(model, picture())):
            edited = transformed(model, surgery.erase(site=str(site)))
            assert_bit_equal([edited(picture())], output_without(model, picture(), {place})[0], what=str(site))


# torch's encoder layer


@pytest.mark.parametrize("activation", [F.relu, F.gelu, nn.ReLU(), nn.GELU()], ids=["relu", "gelu", "ReLU", "GELU"])
@pytest.mark.parametrize("make", ["identity", "silu"])
def test_an_encoder_layer_edited_takes_effect_on_its_fast_path(activation: Any, make: str) -> None:
    example = torch.rand(2, 5, 8)
    layer = nn.TransformerEncoderLayer(8, 2, 16, activation=activation, batch_first=True)
    wanted = copy.deepcopy(layer)
    wanted.activation = surgery.activations.build(make)
    wanted.activation_relu_or_gelu = 0
    edited = transformed(layer, surgery.swap(make), example).eval()
    with torch.no_grad():
        assert_bit_equal([edited(example)], [wanted.eval()(example)])
        assert not torch.allclose(edited(example), layer.eval()(example))
    surgery.undo(edited)
    assert edited.activation_relu_or_gelu == layer.activation_relu_or_gelu
    with torch.no_grad():
        assert_bit_equal([edited(example)], [layer(example)])


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_an_encoder_of_several_layers(activation: str) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, activation=activation, batch_first=True)
    model, example = nn.TransformerEncoder(layer, 2), torch.rand(2, 5, 8)
    edited = transformed(model, surgery.erase(owner="layers.1"), example).eval()
    by_hand = copy.deepcopy(model).eval()
    by_hand.layers[1].activation, by_hand.layers[1].activation_relu_or_gelu = nn.Identity(), 0
    with torch.no_grad():
        assert_bit_equal([edited(example)], [by_hand(example)])


@pytest.mark.slow
@pytest.mark.parametrize("activation", [F.gelu, nn.ReLU()], ids=["function", "module"])
@pytest.mark.parametrize("owner", ["layers.0", "layers.1", "*"])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_an_encoder_takes_padded_batches_after_an_edit(activation: Any, owner: str, tmp_path: Path) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, activation=activation, dropout=0.0, batch_first=True)
    model = nn.Sequential(nn.TransformerEncoder(layer, 2)).eval()
    rows, padding = torch.rand(3, 5, 8), torch.tensor([[False, False, False, True, True]] * 3)
    edited = transformed(model, surgery.swap("prelu", owner=f"0.{owner}"), rows).eval()
    surgery.save(edited, tmp_path / "edited")
    loaded = surgery.load(tmp_path / "edited", model=copy.deepcopy(model)).eval()
    slow = edited[0](rows, src_key_padding_mask=padding)
    for copied in (edited, loaded, copy.deepcopy(edited)):
        with torch.no_grad():
            fast = copied[0](rows, src_key_padding_mask=padding)
        assert torch.allclose(fast[:, :3], slow[:, :3], atol=1e-6)
    surgery.undo(edited)
    assert edited[0].use_nested_tensor is True
    with torch.no_grad():
        padded = (network[0](rows, src_key_padding_mask=padding) for network in (edited, model))
        assert_bit_equal([next(padded)], [next(padded)])


# Graphs


@pytest.mark.parametrize(
    ("rule", "activations"),
    [
        (surgery.erase(site="act 2/2"), ["relu"]),
        (surgery.erase(site="act 1/2"), ["relu"]),
        (surgery.erase(), []),
        (surgery.swap("prelu"), ["prelu", "prelu"]),
        (surgery.swap("gelu", site="act 1/2"), ["gelu", "relu"]),
    ],
    ids=str,
)
def test_a_graph_is_edited_in_its_graph(rule: Rule, activations: list[str]) -> None:
    graph, plain = models.graph_model().eval(), models.TwiceUsed().eval()
    plain.load_state_dict(graph.state_dict())
    code = graph.code
    edited = transformed(graph, rule)
    assert isinstance(edited, fx.GraphModule)
    assert graph.code == code
    edited.graph.lint()
    assert [site.activation for site in surgery.find_sites(edited, picture())] == activations
    assert_bit_equal([edited(picture())], [surgery.transform(plain, rule, picture())[0](picture())])
    copied = copy.deepcopy(edited)
    for network in (edited, copied):
        surgery.undo(network)
        assert network.code == code
        assert set(vars(network)) == set(vars(graph))
        assert network.meta == graph.meta
        assert_same_function(network, graph, picture())


@pytest.mark.slow
def test_functions_and_methods_of_a_graph() -> None:
    model = randomise(fx.symbolic_trace(models.FunctionalSpellings())).eval()
    sites = surgery.find_sites(model, picture())
    assert len(sites) == 7
    for place, site in enumerate(sites):
        edited = transformed(model, surgery.erase(site=str(site)))
        assert_bit_equal(output(edited, picture()), output_without(model, picture(), {place})[0], what=str(site))


def test_a_graph_inside_a_model() -> None:
    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.back, self.act = models.graph_model(), nn.Conv2d(5, 3, 1), nn.ReLU()
            self.second = self.first

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.second(self.back(self.first(x))))

    model = randomise(Nested()).eval()
    edited = transformed(model, surgery.erase(site="second.act 2/2"))
    assert_bit_equal(output(edited, picture()), output_without(model, picture(), {3})[0])
    assert edited.first.conv1 is edited.second.conv1
    assert edited.first.code == model.first.code != edited.second.code
    both = transformed(edited, surgery.swap("gelu", site="first.act 1/2"))
    assert_same_function(surgery.undo(both, 1), edited, picture())
    surgery.undo(both)
    assert both.first is both.second
    assert_same_function(both, model, picture())


def test_a_graph_transformed_twice_goes_back_step_by_step() -> None:
    model = randomise(models.graph_model())
    once = transformed(model, surgery.swap("gelu", site="act 1/2"))
    twice = transformed(once, surgery.erase(activation="relu"))
    assert len(surgery.history_of(twice)) == 2
    assert_same_function(surgery.undo(twice, 1), once, picture())
    assert_same_function(surgery.undo(twice), model, picture())


# When something fails on the way


@pytest.mark.parametrize("kind", [models.ResidualNet, models.PreActNet, models.AliasBlocks, models.Encoder])
@pytest.mark.parametrize("broken", ["find_sites", "check_outcome", "prove_effect"])
def test_a_failure_on_the_way_leaves_the_model_as_it_was(
    kind: type[models.Stated], broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = kind()
    rule = surgery.swap("prelu", site=str(surgery.find_sites(model, kind.example)[-1]))
    plan = surgery.make_plan(surgery.find_sites(model, kind.example), rule)

    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(transforms, broken, fail)
    with assert_untouched(model), pytest.raises(KeyboardInterrupt):
        surgery.apply_plan(model, plan)
    assert surgery.history_of(model) == ()


def test_a_builder_that_fails_leaves_the_model_as_it_was() -> None:
    built: list[int] = []

    def build() -> nn.Module:
        built.append(1)
        if len(built) > 2:
            raise ValueError("no more")
        return nn.ReLU()

    surgery.activations.register("rare", build)
    model = models.ResidualNet()
    with assert_untouched(model), pytest.raises(ValueError, match="no more"):
        surgery.transform_(model, surgery.swap("rare"), picture())


def test_a_function_of_the_wrong_shape_leaves_the_model_as_it_was() -> None:
    surgery.activations.register("half", lambda: nn.MaxPool2d(2))
    model = models.BottleneckNet()
    for verb in (surgery.transform, surgery.transform_):
        with assert_untouched(model):
            assert_raises(surgery.SurgeryError, functools.partial(verb, model, surgery.swap("half"), picture()))


@pytest.mark.parametrize(("alias", "name"), [("swish1", "silu"), ("none", "identity"), ("relu2", "squared_relu")])
def test_a_function_under_another_name(alias: str, name: str) -> None:
    edited, report = surgery.transform(models.BottleneckNet(), surgery.swap(alias), picture())
    assert {edit.make for edit in report.plan.edits} == {name}
    straight, _ = surgery.transform(models.BottleneckNet(), surgery.swap(name), picture())
    assert [type(module) for module in edited.modules()] == [type(module) for module in straight.modules()]


def test_rules_are_refused_one_by_one_however_they_are_counted() -> None:
    model = models.BottleneckNet()
    surgery.transform_(model, [surgery.erase_relu(), surgery.swap("gelu", position=1)], picture())
    for again in (
        surgery.erase_relu(), surgery.erase_relu(expect=2), surgery.erase_relu(optional=True),
        surgery.erase_relu(remaining=True), [surgery.swap("elu", activation="gelu"), surgery.erase_relu()],
    ):  # fmt: skip
        with assert_untouched(model):
            assert_raises(
                surgery.CannotEdit, lambda again=again: surgery.transform_(model, again, picture()), "erase_relu("
            )


def test_a_rule_that_changed_nothing_may_come_again() -> None:
    model = models.BottleneckNet()
    later = surgery.swap("elu", activation="gelu", optional=True)
    surgery.transform_(model, [surgery.swap("gelu", position=1, activation="relu"), later], picture())
    surgery.transform_(model, later, picture())
    assert isinstance(model.body[0].act1, nn.ELU)


# What cannot be edited is left alone


class Counting(nn.Module):
    """Takes another branch if it has a child named `relu_1`: its second call cannot be separated, its first one can."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(4, 4, 1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv(x)) + 0.5
        return self.relu(x * 2.0 if hasattr(self, "relu_1") else x)


class Unwatched(nn.Module):
    """Calls its activation only if it has hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(x) if self.relu._forward_pre_hooks else x.clamp(min=0.0)


class Computed(nn.Module):
    """A PReLU whose weight is computed from another: replacing it would lose that."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.PReLU(4)
        nn.utils.parametrize.register_parametrization(self.act, "weight", nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x)


class Difficult(nn.Module):
    """One block of each kind that refuses, and an activation on rows."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.counting, self.unwatched, self.computed = (
            nn.Conv2d(3, 4, 1),
            Counting(),
            Unwatched(),
            Computed(),
        )
        self.fc, self.act = nn.Linear(4, 4), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.computed(self.unwatched(self.counting(self.stem(x))))
        return self.act(self.fc(x.mean((2, 3))))


def test_what_cannot_be_edited_is_left_alone_and_reported() -> None:
    model = Difficult()
    with assert_untouched(model):
        assert_raises(surgery.SurgeryError, lambda: surgery.transform(model, surgery.swap("silu"), picture()))
        edited, report = surgery.transform(model, surgery.swap("silu"), picture(), skip_uneditable=True)
    assert [str(edit.site) for edit in report.plan.edits] == ["counting.relu 1/2", "act"]
    assert [site.activation for site in report.after] == ["silu", "relu", "relu", "prelu", "silu"]
    reasons = {str(site): reason for site, reason in report.plan.kept}
    assert list(reasons) == ["counting.relu 2/2", "unwatched.relu", "computed.act"]
    assert all(reason.startswith("cannot be edited: ") for reason in reasons.values())
    assert "other outputs in eval mode" in reasons["counting.relu 2/2"]
    assert "without hooks" in reasons["unwatched.relu"]
    assert "computed.act has a parametrization" in reasons["computed.act"]
    for reason in reasons.values():
        assert f"kept: 1 ({reason})" in str(report)
    assert_same_function(surgery.undo(edited), model, picture())


def test_a_function_goes_where_it_fits() -> None:
    surgery.activations.register("pictures", lambda: nn.InstanceNorm2d(4))
    report = surgery.transform_(Difficult(), surgery.swap("pictures"), picture(), skip_uneditable=True)
    assert [str(edit.site) for edit in report.plan.edits] == ["counting.relu 1/2"]


def test_a_share_is_counted_on_all_sites_whatever_can_be_edited() -> None:
    model = nn.Sequential(*(models.blocks.BasicBlock(4, 4) for _ in range(4)))
    model[3].forward = model[3].forward  # a method of its own: not rewritten
    example = torch.rand(2, 4, 8, 8)
    report = surgery.transform_(model, surgery.erase_relu(share=0.5, order="back"), example, skip_uneditable=True)
    assert [edit.site.owner for edit in report.plan.edits] == ["2"]


def test_a_rule_whose_sites_all_refuse_picks_nothing() -> None:
    model = Difficult()
    rules = [surgery.swap("silu", site="act"), surgery.swap("silu", site="computed.act")]
    with assert_untouched(model):
        assert_raises(
            surgery.NothingPicked,
            lambda: surgery.transform_(model, rules, picture(), skip_uneditable=True),
            "None of the sites that rule 2 picks can be edited", "computed.act has a parametrization",
        )  # fmt: skip
    rules[1] = surgery.swap("silu", site="computed.act", optional=True)
    report = surgery.transform_(model, rules, picture(), skip_uneditable=True)
    assert [str(edit.site) for edit in report.plan.edits] == ["act"]


def test_a_model_of_which_parts_were_left_alone_is_saved_and_loaded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Difficult()
    edited, _ = surgery.transform(model, surgery.swap("silu"), picture(), skip_uneditable=True)
    surgery.save(edited, tmp_path)
    assert_same_function(surgery.load(tmp_path, Difficult()), edited, picture())
