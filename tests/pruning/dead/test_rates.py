"""Dead-neuron rates, against a naive count that keeps all outputs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune

import surgery
from pruning.dead.measure import Measured, measure
from pruning.dead.rates import DeadNeurons, DeadRow, dead_neurons
from pruning.dead.units import dead_units
from pruning.masks.masks import Masks
from recipes.models.cifar_resnet import CifarResNet
from surgery import BadValue, CannotLook, NothingPicked, SurgeryError, WrongModel
from tests import models
from tests.asserts import assert_raises, assert_untouched
from tests.models import picture, randomise
from tests.processes import in_two
from tests.pruning.dead.two_layers import ONES, Two
from tests.surgery.small_net import SmallNet

# The naive count: every output of every relu and gelu is kept; counting comes afterwards.


@contextmanager
def all_outputs(model: nn.Module) -> Iterator[list[tuple[str, Tensor]]]:
    """The results of `F.relu` and `F.gelu`, with the name of the last convolution or linear layer called before."""
    calls: list[tuple[str, Tensor]] = []
    last = [""]
    plain = {name: getattr(F, name) for name in ("relu", "gelu")}

    def kept(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def run(*args: Any, **kwargs: Any) -> Tensor:
            result = function(*args, **kwargs)
            calls.append((last[0], result.clone()))
            return result

        return run

    handles = [
        module.register_forward_hook(lambda *_, name=name: last.__setitem__(0, name))  # type: ignore[misc]
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    try:
        for name, function in plain.items():
            setattr(F, name, kept(function))
        yield calls
    finally:
        for name, function in plain.items():
            setattr(F, name, function)
        for handle in handles:
            handle.remove()


def naive(model: nn.Module, batches: list[Tensor], axis: int, beside: dict[str, str], threshold: float) -> list[Any]:
    """Per call: channels, static, dynamic, silent; elements, static, dynamic and silent ones; share of zeros.

    `beside` names a second layer that feeds the same calls as another.
    """
    runs = []
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    with torch.no_grad():
        for batch in batches:
            with all_outputs(model) as calls:
                model(batch)
            runs.append(calls)
    for module, mode in modes:
        module.training = mode
    counts = []
    for parts in zip(*runs, strict=True):
        layers = [parts[0][0]]
        layers += [beside[layers[0]]] if layers[0] in beside else []
        outputs = torch.cat([output for _, output in parts]).movedim(axis, 1)  # samples, channels, positions
        quiet = (outputs <= threshold).reshape(*outputs.shape[:2], -1)
        silent = [bool(quiet[:, unit].all()) for unit in range(outputs.shape[1])]
        weights = [model.get_submodule(layer).weight for layer in layers]
        static = [all(not bool(weight[unit].any()) for weight in weights) for unit in range(len(silent))]
        every = quiet.all(0)  # channels, positions
        positions = every.shape[1]
        counts.append((
            len(silent), sum(static), sum(s and not p for s, p in zip(silent, static, strict=True)), sum(silent),
            every.numel(), sum(static) * positions,
            sum(int(row.sum()) for row, pruned in zip(every, static, strict=True) if not pruned), int(every.sum()),
            float((outputs <= threshold).double().mean()),
        ))  # fmt: skip
    return counts


def with_inputs(model: nn.Module, batches: Any) -> Measured:
    return measure(model, batches, 0.0, "nonlinearity", inputs_of=["fc.weight"])


def counted(row: DeadRow) -> tuple[Any, ...]:
    return (
        row.channels, row.static, row.dynamic, row.silent, row.elements, row.static_elements, row.dynamic_elements,
        row.silent_elements, row.zeros,
    )  # fmt: skip


def damaged(model: nn.Module, seed: int = 0) -> nn.Module:
    """Some filters of every third layer are cut, and some biases so low that their units are never active."""
    generator = torch.Generator().manual_seed(seed)
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    with torch.no_grad():
        for layer in layers[::3]:
            cut = torch.rand(len(layer.weight), generator=generator) < 0.15
            layer.weight[cut] = 0
        for shifted in [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)] or layers[1:-1]:
            assert isinstance(shifted.bias, Tensor)
            shifted.bias += torch.randn(shifted.bias.shape, generator=generator) * 0.3
            shifted.bias[torch.rand(len(shifted.bias), generator=generator) < 0.1] -= 60
    return model


def images(*sizes: int, side: int = 32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(size, 3, side, side, generator=generator) for size in sizes]


def assert_counted(found: DeadNeurons, wanted: list[Any]) -> None:
    assert len(found.rows) == len(wanted)
    for row, count in zip(found.rows, wanted, strict=True):
        assert counted(row) == pytest.approx(count), row.site
    channels = sum(count[0] for count in wanted)
    assert found.static_share == pytest.approx(sum(count[1] for count in wanted) / channels)
    assert found.dynamic_share == pytest.approx(sum(count[2] for count in wanted) / channels)
    assert found.silent_share == pytest.approx(sum(count[3] for count in wanted) / channels)
    elements = sum(count[4] for count in wanted)
    assert found.dynamic_element_share == pytest.approx(sum(count[6] for count in wanted) / elements)


RESNET18 = {f"layer{k}.0.downsample.0": f"layer{k}.0.conv2" for k in (2, 3, 4)}


@pytest.mark.parametrize(
    ("build", "axis", "beside", "calls"),
    [
        pytest.param(lambda: CifarResNet(20), 1, {}, 19, id="resnet20"),
        pytest.param(lambda: torchvision.models.resnet18(num_classes=10), 1, RESNET18, 17, id="resnet18"),
        pytest.param(
            lambda: timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=10), -1, {}, 12, id="vit_tiny"
        ),
        pytest.param(
            lambda: torchvision.models.googlenet(num_classes=10, init_weights=False), 1, {}, 57, id="googlenet",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda: torchvision.models.vgg16_bn(num_classes=10, init_weights=False), 1, {}, 15, id="vgg16_bn",
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_figures_are_those_of_a_naive_count(
    build: Callable[[], nn.Module], axis: int, beside: dict[str, str], calls: int
) -> None:
    model = damaged(build())
    batches = images(3, 2)
    threshold = 0.0
    with assert_untouched(model):
        found = dead_neurons(model, batches, Masks.of(model), threshold=threshold)
    wanted = naive(model, batches, axis, beside, threshold)
    assert len(found.rows) == calls
    assert_counted(found, wanted)
    assert found.static_share > 0 and found.dynamic_share > 0 and found.samples == 5
    assert found.silent_share < found.static_share + found.dynamic_share  # a norm or a bias makes static ones speak


# By hand


@pytest.mark.parametrize("activation", [torch.relu, torch.relu_, F.gelu, F.silu, lambda x: F.leaky_relu(x, 0.1)],
                         ids=["relu", "relu_", "gelu", "silu", "leaky_relu"])  # fmt: skip
def test_a_net_worked_by_hand(activation: Callable[[Tensor], Tensor]) -> None:
    model = Two(activation)
    found = dead_neurons(model, ONES, Masks.of(model))
    first, second = found.rows
    # Unit 0 speaks, 1 is silent and has a weight, 2 has none and speaks by its bias, 3 has none and is silent.
    assert (first.channels, first.static, first.dynamic, first.silent) == (4, 2, 1, 2)
    assert (first.elements, first.static_elements, first.dynamic_elements, first.silent_elements) == (16, 8, 4, 8)
    assert (second.channels, second.static, second.dynamic, second.silent) == (2, 0, 1, 1)
    assert (second.elements, second.dynamic_elements) == (2, 1)
    assert first.zeros == pytest.approx((2 * 3 * 4 + 3) / 48)  # of unit 0 three zeros
    assert (first.outputs, second.outputs, found.samples) == (48, 6, 3)
    assert (found.static_share, found.dynamic_share, found.silent_share) == (2 / 6, 2 / 6, 3 / 6)
    assert (found.elements, found.dynamic_element_share) == (18, 5 / 18)
    assert found.zeros == pytest.approx((27 + 3) / 54)
    assert not found.unreached


def test_an_element_is_silent_where_its_channel_is_not() -> None:
    first, _ = dead_neurons(Two(), ONES[1:], Masks.of(Two())).rows
    assert (first.dynamic, first.dynamic_elements, first.silent_elements) == (1, 3 + 4, 3 + 4 + 4)


def test_a_unit_must_exceed_the_threshold() -> None:
    model = Two()
    assert [row.silent for row in dead_neurons(model, ONES, threshold=1.0).rows] == [4, 2]
    assert [row.silent for row in dead_neurons(model, ONES, threshold=0.99).rows] == [2, 1]
    assert [row.silent for row in dead_neurons(model, ONES, threshold=-0.1).rows] == [0, 0]
    assert [row.silent for row in dead_neurons(Two(torch.sigmoid), ONES).rows] == [0]  # the last is a head
    assert [row.silent for row in dead_neurons(Two(torch.sigmoid), ONES, role="head").rows] == [0]


def test_masks_say_what_is_static() -> None:
    model = Two()
    full = Masks.full(model)
    assert [row.static for row in dead_neurons(model, ONES, full).rows] == [0, 0]
    assert [row.dynamic for row in dead_neurons(model, ONES, full).rows] == [2, 1]
    cut = Masks({"conv.weight": torch.tensor([True, False, True, True]).view(4, 1, 1, 1)})
    assert [(row.static, row.dynamic) for row in dead_neurons(model, ONES, cut).rows] == [(1, 1), (0, 1)]
    assert dead_neurons(model, ONES, dict(cut)) == dead_neurons(model, ONES, cut)
    assert torch.equal(dead_units(model, ONES, dict(cut))["conv.weight"], dead_units(model, ONES, cut)["conv.weight"])
    for counts in (dead_neurons, dead_units):
        for wrong, words in (
            ({"conv.weight": torch.ones(4, 1, 1, 1)}, ("conv.weight", "not boolean")),
            ([cut["conv.weight"]], ("by name", "list")),
        ):
            assert_raises(BadValue, lambda m=counts, w=wrong: m(model, ONES, w), *words)  # type: ignore[misc]


def test_masks_of_a_host_say_what_is_static() -> None:
    model = Two()
    prune.custom_from_mask(model.conv, "weight", torch.tensor([0.0, 0, 1, 1]).view(4, 1, 1, 1))
    names = list(model.state_dict())
    first, second = dead_neurons(model, ONES).rows
    assert (first.static, first.dynamic, first.silent) == (2, 1, 3)
    assert (second.static, second.dynamic) == (0, 2)
    assert list(model.state_dict()) == names and "conv.weight_orig" in names
    model(ONES[0]).sum().backward()  # the hook computes a weight with a gradient again
    assert model.conv.weight_orig.grad is not None  # type: ignore[union-attr]


def test_a_convolution_that_begins_at_zero_is_not_dead() -> None:
    model = models.ResidualNet()
    with torch.no_grad():
        model.layer1[0].conv2.weight.zero_()  # type: ignore[index, union-attr, operator]
    assert dead_neurons(model, [picture()]).static_share == 0


def test_a_unit_behind_a_shortcut_is_static_and_speaks() -> None:
    model = models.ResidualNet()
    with torch.no_grad():
        model.layer1[0].conv2.weight.zero_()  # type: ignore[index, union-attr, operator]
    rows = dead_neurons(model, [picture()], Masks.of(model)).rows
    row = next(row for row in rows if row.site == "layer1.0.relu 2/2")
    assert row.static == row.channels and row.silent < row.channels and row.dynamic == 0


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolutions_have_their_units_on_the_second_axis(groups: int) -> None:
    model = nn.Sequential(nn.ConvTranspose2d(4, 4, 2, groups=groups), nn.ReLU())
    with torch.no_grad():
        weight = model[0].weight
        assert isinstance(weight, Tensor)
        unit = 3  # of four; with two groups, the second of the second
        if groups == 1:
            weight[:, unit] = 0
        else:
            weight[2:, 1] = 0
        model[0].bias.fill_(-9)  # type: ignore[union-attr, operator]
        model[0].bias[unit] = 1  # type: ignore[index, operator]
    x, masks = torch.rand(2, 4, 3, 3), Masks.of(model)
    (row,) = dead_neurons(model, [x], masks).rows
    assert (row.static, row.dynamic, row.silent) == (1, 3, 3)
    assert dead_units(model, [x], masks)["0.weight"].tolist() == [True, True, True, False]


def test_behind_a_concat_no_unit_is_static() -> None:
    model = models.DenseNet()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.zero_()
    rows = dead_neurons(model, [picture()], Masks.of(model)).rows
    widths = {module.weight.shape[0] for module in model.modules() if isinstance(module, nn.Conv2d)}
    assert any(row.static == 0 and row.channels not in widths for row in rows)


# Ways to call


def test_every_call_of_a_shared_module_is_counted_alone() -> None:
    model = models.TwiceUsed()
    with torch.no_grad():
        model.conv1.bias[:] = -9  # type: ignore[operator]
    first, second = dead_neurons(model, [picture()]).rows
    assert (first.site, first.channels, first.dynamic) == ("act 1/2", 4, 4)
    assert (second.site, second.channels) == ("act 2/2", 5)


def test_functions_in_and_out_of_place_are_counted() -> None:
    rows = dead_neurons(models.FunctionalSpellings(), [picture()]).rows
    assert [row.activation for row in rows] == ["relu"] * 5 + ["relu6", "sigmoid"]


def test_erased_calls_leave_the_denominator() -> None:
    model = models.ResidualNet()
    before = dead_neurons(model, [picture()])
    edited, _ = surgery.transform(model, surgery.erase_relu(location="last"), picture())
    after = dead_neurons(edited, [picture()])
    kept = {str(site) for site in surgery.find_sites(edited, picture())}
    assert 0 < len(after.rows) < len(before.rows) and {row.site for row in after.rows} == kept
    assert after.channels == before.channels - sum(
        site.channels for site in surgery.find_sites(model, picture())
    ) + sum(site.channels for site in surgery.find_sites(edited, picture()))


def test_tokens_have_their_channels_last() -> None:
    model = models.TinyVit()
    example = models.TinyVit.example
    sites = [site for site in surgery.find_sites(model, example) if site.role == "nonlinearity"]
    rows = dead_neurons(model, [example]).rows
    assert [row.channels for row in rows] == [site.shape[-1] for site in sites]
    assert [row.elements for row in rows] == [site.shape[-1] * site.shape[-2] for site in sites]


def test_other_positions_in_other_batches_leave_channels() -> None:
    first, second = dead_neurons(Two(), [ONES[0], torch.ones(1, 1, 3, 3)], Masks.of(Two())).rows
    assert (first.channels, first.dynamic, first.outputs) == (4, 1, 32 + 36)
    assert first.elements is None and first.dynamic_elements is None
    assert (second.elements, second.dynamic_elements) == (2, 1)


def test_samples_that_are_folded_away_have_no_elements() -> None:
    class Folded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.fc(x.flatten(0, 1))).unflatten(0, x.shape[:2])

    (row,) = dead_neurons(Folded(), [torch.randn(2, 5, 3), torch.randn(1, 5, 3)]).rows
    assert row.channels == 4 and row.elements is None


def test_what_is_no_number_is_refused_at_the_first_such_call() -> None:
    model = Two()
    with torch.no_grad():
        model.conv.bias[1] = torch.nan  # type: ignore[index]
    for counts in (dead_neurons, dead_units):
        with assert_untouched(model):
            assert_raises(BadValue, lambda m=counts: m(model, ONES), "relu 1/2", "NaN", "1 of its 4")  # type: ignore[misc]
    late = [*ONES, torch.full((1, 1, 2, 2), torch.nan), *ONES]
    assert_raises(BadValue, lambda: dead_neurons(Two(), late), "relu 1/2", "NaN")
    with torch.no_grad():
        model.conv.bias[1] = torch.inf  # type: ignore[index]
        model.fc.weight[:, 1] = 0.5
    assert [row.silent for row in dead_neurons(model, ONES).rows] == [1, 0]


class Sequence(nn.Module):
    """Five tokens of three numbers, (N, T, 3), processed time first."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.fc(x.transpose(0, 1))).transpose(0, 1)


@pytest.mark.parametrize("length", [1, 2, 3, 5])
@pytest.mark.parametrize("sizes", [[1], [2], [3], [5], [5, 5], [2, 5], [4, 2, 1]], ids=str)
def test_time_first_has_no_elements_whatever_the_sizes(length: int, sizes: list[int]) -> None:
    (row,) = dead_neurons(Sequence(), [torch.randn(size, length, 3) for size in sizes]).rows
    assert (row.channels, row.outputs) == (4, sum(sizes) * length * 4)
    assert row.elements is None


@pytest.mark.parametrize("sizes", [[1], [2], [3], [1, 2, 3], [2, 2]], ids=str)
def test_one_number_a_sample_is_one_channel_whatever_the_sizes(sizes: list[int]) -> None:
    model = nn.Sequential(nn.Conv1d(1, 1, 3), nn.Flatten(0), nn.ReLU())
    (row,) = dead_neurons(model, [torch.randn(size, 1, 3) for size in sizes]).rows
    assert (row.channels, row.elements, row.outputs) == (1, 1, sum(sizes))


@pytest.mark.parametrize("sizes", [[1], [2], [3], [2, 3], [3, 2]], ids=str)
def test_a_row_that_is_not_of_samples_is_one_of_channels(sizes: list[int]) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.scale = nn.Linear(3, 2), nn.Parameter(torch.tensor([1.0, -1.0]))

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x) * torch.relu(self.scale)

    found = dead_neurons(Scaled(), [torch.randn(size, 3) for size in sizes], role="weight")
    assert [(row.channels, row.silent, row.elements) for row in found.rows] == [(2, 1, None)]


def test_a_model_of_one_batch_size_is_measured_without_elements() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.fc(x.reshape(5, 3)))

    (row,) = dead_neurons(Fixed(), [torch.randn(5, 3)]).rows
    assert (row.channels, row.outputs, row.elements) == (4, 20, None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions(dtype: torch.dtype) -> None:
    found = dead_neurons(Two().to(dtype), [tensor.to(dtype) for tensor in ONES])
    assert [row.silent for row in found.rows] == [2, 1]


# Batches


@pytest.mark.slow
@settings(max_examples=12)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=6))
def test_any_batches_give_the_figures_of_one(sizes: list[int]) -> None:
    model = damaged(randomise(models.ResidualNet()))
    whole = torch.randn(sum(sizes), 3, 8, 8, generator=torch.Generator().manual_seed(2))
    at_once, streamed = dead_neurons(model, [whole]), dead_neurons(model, iter(whole.split(sizes)))
    assert at_once.samples == streamed.samples == sum(sizes)
    for row, other in zip(at_once.rows, streamed.rows, strict=True):
        assert counted(row) == counted(other)
    assert at_once == streamed


def test_pairs_and_dicts_are_batches() -> None:
    model = Two()
    labels = torch.tensor([0, 1])
    wanted = dead_neurons(model, ONES[:1])
    assert dead_neurons(model, [(ONES[0], labels)]) == wanted
    assert dead_neurons(model, [{"image": ONES[0], "label": labels}]) == wanted


def distributed_net() -> nn.Module:
    torch.manual_seed(0)
    model = SmallNet()
    with torch.no_grad():
        model.stem.bias[0] = -9  # type: ignore[index]
    return model


def distributed_images() -> Tensor:
    return torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(3))


def measure_a_part(rank: int, folder: Path) -> None:
    model, images = distributed_net(), distributed_images()
    mine = [images[:2], images[2:3]] if rank == 0 else [images[3:]]
    (folder / f"{rank}.json").write_text(dead_neurons(model, mine).to_json())
    torch.save(measure(model, mine, 0.0, "nonlinearity", ["fc.weight"]).inputs, folder / f"{rank}.pt")
    assert_raises(
        BadValue, lambda: dead_neurons(model, [] if rank == 0 else mine), "No batches" if rank == 0 else "Process 0"
    )


def test_two_processes_give_the_figures_of_one(tmp_path: Path) -> None:
    in_two(measure_a_part, tmp_path)
    model, images = distributed_net(), distributed_images()
    wanted = json.loads(dead_neurons(model, [images]).to_json())
    assert wanted["totals"]["dynamic_share"] > 0
    for rank in (0, 1):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == wanted
        means = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(means, measure(model, [images], 0.0, "nonlinearity", ["fc.weight"]).inputs)


# What is left behind


def test_nothing_is_left_behind() -> None:
    model = models.Stateful().train()
    x = picture()
    random_before = torch.get_rng_state()
    calls, mean = model.calls.clone(), model.bn.running_mean.clone()  # type: ignore[union-attr, operator]
    dead_neurons(model, [x])
    assert torch.equal(model.calls, calls) and torch.equal(model.bn.running_mean, mean)  # type: ignore[union-attr, arg-type]
    assert torch.equal(torch.get_rng_state(), random_before)
    assert model.training and all(module.training for module in model.modules())
    assert vars(x) == {}


def test_mixed_modes_and_images_stay_as_they_are() -> None:
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4).eval(), nn.ReLU())
    x = picture() - 0.5
    kept = x.clone()
    with assert_untouched(model):
        dead_neurons(model, [x])
        dead_units(model, [x])
        measure(model, [x], 0.0, "nonlinearity", ["1.weight"])
    assert torch.equal(x, kept)


def test_nothing_is_left_behind_after_exceptions() -> None:
    model = Two()

    def broken() -> Iterator[Tensor]:
        yield ONES[0]
        raise OSError("the disc is gone")

    with assert_untouched(model):
        for counts in (dead_neurons, dead_units, with_inputs):
            with pytest.raises(OSError):
                counts(model, broken())
            assert_raises(BadValue, lambda counts=counts: counts(model, [ONES[0], torch.ones(1, 2, 2, 2)]), "Batch 2")  # type: ignore[misc]


# What is printed and written


def test_it_prints_as_a_table() -> None:
    text = str(dead_neurons(Two(), ONES, Masks.of(Two())))
    assert "relu 1/2" in text and "6 channels of Two in eval mode: 33.33% dynamically, 33.33% statically dead" in text
    assert "silent: never above 0 on 3 samples" in text


def test_a_notebook_shows_the_table_and_a_prompt_the_totals() -> None:
    found = dead_neurons(Two(), ONES, Masks.of(Two()))
    page = found._repr_html_()
    assert page.count("<tr>") == 1 + len(found.rows) and "<th>dead elements (dynamic)</th>" in page
    assert "<td>relu 1/2</td>" in page and "<br>as a drawing: surgery.draw(model, " in page
    assert f"{str(found).splitlines()[-1]}<br>" in page
    assert repr(found).startswith("<DeadNeurons: 6 channels of Two in eval mode: 33.33% dynamically, ")


def test_it_writes_itself_as_json() -> None:
    found = dead_neurons(Two(), ONES, Masks.of(Two()))
    read = json.loads(found.to_json())
    assert read["samples"] == 3 and read["totals"]["dynamic_share"] == found.dynamic_share
    assert [row["dynamic"] for row in read["rows"]] == [1, 1]


def test_without_matplotlib_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    found = dead_neurons(Two(), ONES)
    assert_raises(SurgeryError, lambda: found.plot(tmp_path / "rates.png"), "matplotlib", "activation-surgery[plot]")


def test_it_draws_itself(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    dead_neurons(Two(), ONES).plot(tmp_path / "rates.png")
    assert (tmp_path / "rates.png").read_bytes().startswith(b"\x89PNG")


# Bad input


def test_bad_input_is_refused_by_name() -> None:
    model, bare, empty = Two(), nn.Linear(2, 2), Two().to("meta")
    with assert_untouched(model):
        assert_raises(BadValue, lambda: dead_neurons(model, []), "No batches")
        assert_raises(BadValue, lambda: dead_neurons(model, [torch.ones(0, 1, 2, 2)]), "Batch 1 is empty")
        assert_raises(BadValue, lambda: dead_neurons(model, ONES[0]), "not several batches", "[images]")
        assert_raises(BadValue, lambda: dead_neurons(model, None), "not several batches")  # type: ignore[arg-type]
        assert_raises(BadValue, lambda: dead_neurons(model, ["picture"]), "no images")
        for counts in (dead_neurons, dead_units, with_inputs):
            for wrong in (torch.ones(2, 3, 2, 2), torch.ones(2, 1, 2, 2, dtype=torch.long)):
                assert_raises(BadValue, lambda m=counts, w=wrong: m(model, [w]), "Batch 1 fails in Two")  # type: ignore[misc]
            late = [ONES[0], ONES[0].to("meta")]
            assert_raises(BadValue, lambda m=counts, b=late: m(model, b), "Batch 2", "meta")  # type: ignore[misc]
        assert_raises(BadValue, lambda: dead_neurons(model, [ONES[0], torch.ones(2, 3, 2, 2)]), "Batch 2", "Two")
        assert_raises(BadValue, lambda: dead_neurons(model, ONES, threshold=float("nan")), "threshold=nan")
        assert_raises(BadValue, lambda: dead_neurons(model, ONES, role="gates"), "role='gates'")
        assert_raises(NothingPicked, lambda: dead_neurons(model, ONES, role="gate"), "no activation call")
        assert_raises(NothingPicked, lambda: dead_neurons(bare, [torch.ones(1, 2)]), "no activation call")
        other = Masks({"conv.weight": torch.ones(5, 1, 1, 1, dtype=torch.bool)})
        assert_raises(WrongModel, lambda: dead_neurons(model, ONES, other), "conv.weight")
        assert_raises(WrongModel, lambda: dead_units(model, ONES, other), "conv.weight")
        assert_raises(CannotLook, lambda: dead_neurons(nn.DataParallel(model), ONES), "model.module")
        assert_raises(BadValue, lambda: dead_neurons(empty, ONES), "meta")
