"""He initialisation: the gain of every function, the fan of every layer, and nothing else changed."""

from __future__ import annotations

import copy
import math

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from surgery.activations.functions.prelu import FReLU, PReLU
from surgery.activations.functions.rectified_scores import RectifiedScores
from surgery.activations.functions.smelu import SmeLU
from surgery.errors import BadValue, CannotLook
from surgery.schedule.weight_initialization import fan_of, gain, initialize
from tests.asserts import assert_raises, assert_untouched
from tests.surgery.small_net import SmallNet


def deviations(model: nn.Module) -> dict[str, float]:
    """Root mean square of each weight with more than one axis, times the root of its inputs: its gain."""
    return {
        path: float(module.weight.detach().double().square().mean().sqrt() * math.sqrt(fan_of(module, "in")))
        for path, module in model.named_modules()
        if hasattr(module, "in_features") or hasattr(module, "in_channels")
    }


def assert_gains(model: nn.Module, expected: dict[str, float], tolerance: float = 0.06) -> None:
    found = deviations(model)
    assert found.keys() == expected.keys()
    wrong = {path: value for path, value in found.items() if abs(value / expected[path] - 1) > tolerance}
    assert not wrong, f"{wrong} against {expected}"


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (nn.ReLU(inplace=True), 1.4142),
        (F.relu, 1.4142),
        (nn.PReLU(), 1.3720),
        (PReLU(3), 1.3720),
        (nn.LeakyReLU(1.0), 1.0),
        (nn.Identity(), 1.0),
        (SmeLU(beta=0.5), 1.4096),
        (SmeLU(beta=1.0), 1.3803),
        (SmeLU(beta=2.0), 1.2240),
        (nn.GELU(), 1.5335),
        (nn.SiLU(), 1.6765),
        (nn.Tanh(), 1.5925),
        (nn.ReLU().half(), 1.4142),
    ],
    ids=lambda case: getattr(case, "__name__", None) or str(case),  # the same on every run
)
def test_gains(function: nn.Module, expected: float) -> None:
    channels = getattr(function, "num_parameters", 1)
    assert round(gain(function, channels), 4) == expected


def test_a_gain_is_that_of_all_channels() -> None:
    slopes = torch.tensor([0.0, 0.5, 1.0, 2.0])
    module = FReLU(4, axis=-1)
    with torch.no_grad():
        module.negative.copy_(slopes)
    # E[f^2] is (p^2 + n^2) / 2 in each channel.
    expected = 1 / math.sqrt(((1 + slopes.square()) / 2).mean())
    assert math.isclose(gain(module, 4, axis=-1, dims=4), expected, rel_tol=1e-9)
    assert module.negative.dtype == torch.float32, "the module itself was converted"


@pytest.mark.parametrize("function", [lambda x: 0 * x, lambda x: x / 0, lambda x: x @ x])
def test_no_gain(function: nn.Module) -> None:
    assert_raises(BadValue, lambda: gain(function, 3), "activation")


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, padding=1),
        nn.Conv2d(4, 6, (3, 1), groups=2),
        nn.Conv2d(4, 4, 3, groups=4),
        nn.Conv1d(4, 6, 4, stride=2),
        nn.Conv2d(4, 6, 1, stride=2),
        nn.Conv3d(2, 3, 2, stride=(1, 2, 1)),
        nn.ConvTranspose1d(4, 6, 4, stride=2),
        nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2),
        nn.ConvTranspose2d(4, 6, 3),
        nn.ConvTranspose2d(4, 2, 3, stride=2),
        nn.Linear(4, 6),
    ],
    ids=str,
)
def test_fans_are_counted_connections(layer: nn.Module) -> None:
    # All weights 1: an output adds up as many ones as it has inputs, the gradient of an input as it has outputs.
    layer = copy.deepcopy(layer).requires_grad_(False)
    nn.init.ones_(layer.weight)
    nn.init.zeros_(layer.bias)
    space = layer.weight.dim() - 2
    inputs = torch.ones(1, 4 if space != 3 else 2, *[24 if space < 3 else 12] * space, requires_grad=True)
    outputs = layer(inputs)
    middle = outputs[(..., *[slice(8, 16) if space < 3 else slice(2, 6)] * max(0, space))]
    outputs.sum().backward()
    assert inputs.grad is not None
    inner = inputs.grad[(..., *[slice(8, 16) if space < 3 else slice(4, 8)] * max(0, space))]
    assert math.isclose(fan_of(layer, "in"), middle.detach().mean().item(), rel_tol=1e-6)
    assert math.isclose(fan_of(layer, "out"), inner.mean().item(), rel_tol=1e-6)


class Mixed(nn.Module):
    """Every way in which an activation follows a layer, wide enough for the variance of the weights to be measured."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 5)
        self.norm = nn.BatchNorm2d(64)
        self.depthwise = nn.Conv2d(64, 64, 7, groups=64)
        self.prelu = nn.PReLU(64, init=0.5)
        self.left, self.right = nn.Conv2d(64, 64, 1), nn.Conv2d(64, 64, 1)
        self.squeeze, self.excite = nn.Linear(64, 64), nn.Linear(64, 64)
        self.shared = nn.Linear(64, 64)
        self.bare = nn.Linear(64, 64)
        self.up = nn.ConvTranspose1d(1, 64, 8, stride=4)
        self.gelu = nn.GELU()
        self.fc = nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = self.prelu(self.depthwise(x))
        x = F.leaky_relu(self.left(x) + self.right(x), 0.3)
        x = x.mean((2, 3))
        x = x * torch.sigmoid(self.excite(F.silu(self.squeeze(x))))
        x = self.shared(F.elu(self.shared(x)))  # feeds an ELU first, then a GELU
        x = self.gelu(self.up(self.gelu(x).unsqueeze(1)).mean(2))
        return self.fc(self.bare(x))


EXAMPLE = torch.empty(2, 3, 16, 16, device="meta")
GAINS = {
    "stem": math.sqrt(2),
    "depthwise": math.sqrt(2 / 1.25),
    "left": math.sqrt(2 / 1.09),
    "right": math.sqrt(2 / 1.09),
    "squeeze": 1.6765,
    "excite": 1.0,
    "shared": 1.2449,  # of ELU: 1 / sqrt(1/2 + E[(exp(z) - 1)^2, z < 0])
    "bare": 1.0,
    "up": 1.5335,
    "fc": 1.0,
}


def test_each_layer_has_the_gain_of_what_it_feeds() -> None:
    model = Mixed()
    assert initialize(model, EXAMPLE) is model
    assert_gains(model, GAINS)


def test_of_several_activations_the_first_counts() -> None:
    class Ahead(nn.Module):
        """As in pre-activation networks: the sum in front of the second activation includes the first layer."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(128, 128), nn.Linear(128, 128)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return F.silu(self.second(F.relu(x)) + x)

    model = Ahead()
    initialize(model)
    assert_gains(model, {"first": math.sqrt(2), "second": 1.6765}, 0.03)


def test_fan_out() -> None:
    model = Mixed()
    initialize(model, EXAMPLE, fan="out")
    expected = {
        path: gain * math.sqrt(fan_of(layer, "in") / fan_of(layer, "out"))
        for path, gain in GAINS.items()
        if (layer := model.get_submodule(path))
    }
    assert not math.isclose(expected["stem"], GAINS["stem"], rel_tol=0.5), "a fan that could be mistaken"
    assert_gains(model, expected)


def test_biases_norms_and_statistics() -> None:
    model = Mixed()
    for param in model.parameters():
        nn.init.normal_(param)
    slopes = model.prelu.weight.detach().clone()
    model(torch.randn(2, 3, 16, 16))
    initialize(model, EXAMPLE)
    biases = {name: param for name, param in model.named_parameters() if name.endswith("bias")}
    assert len(biases) == 11
    assert not any(bias.any() for bias in biases.values())
    assert torch.equal(model.norm.weight, torch.ones(64))
    assert torch.equal(model.norm.running_mean, torch.zeros(64))
    assert torch.equal(model.norm.running_var, torch.ones(64))
    assert model.norm.num_batches_tracked == 0
    assert torch.equal(model.prelu.weight, slopes), "parameters of activations are left alone"


def test_a_norm_that_begins_at_zero_still_does() -> None:
    model = torchvision.models.resnet18(zero_init_residual=True)
    for name, param in model.named_parameters():
        if "bn1" in name or "bias" in name:
            nn.init.normal_(param)
    initialize(model, torch.empty(2, 3, 64, 64, device="meta"))
    weights = {name: param for name, param in model.named_parameters() if "bn" in name or "downsample.1" in name}
    zero = [name for name, tensor in weights.items() if name.endswith("weight") and not tensor.any()]
    assert zero == [f"layer{k}.{n}.bn2.weight" for k in range(1, 5) for n in range(2)]
    ones = [value for name, value in weights.items() if name.endswith("weight") and name not in zero]
    assert len(ones) == 12
    assert all((tensor == 1).all() for tensor in ones)
    assert not any(tensor.any() for name, tensor in weights.items() if name.endswith("bias"))
    # In front of an add a ReLU follows, so it counts; the classifier has none.
    found = deviations(model)
    assert abs(found.pop("fc") - 1) < 0.02
    assert all(abs(value / math.sqrt(2) - 1) < 0.03 for value in found.values())


def test_attention_is_drawn_as_torch_does_and_the_rest_left_alone() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.place = nn.Parameter(torch.randn(1, 5, 32))
            self.words = nn.Embedding(10, 32)
            self.layer = nn.TransformerEncoderLayer(32, 4, 128, activation="gelu", batch_first=True)
            self.other = nn.MultiheadAttention(32, 4, kdim=16, vdim=8, batch_first=True)

        def forward(self, words: Tensor) -> Tensor:
            x = self.layer(self.words(words) + self.place)
            return self.other(x, x[..., :16], x[..., :8])[0]

    model = Tokens()
    nn.init.ones_(model.layer.self_attn.in_proj_bias)
    kept = {name: param.detach().clone() for name, param in model.named_parameters()}
    initialize(model, torch.zeros(2, 5, dtype=torch.long))
    assert not model.layer.self_attn.in_proj_bias.any()
    for name in ("place", "words.weight"):
        assert torch.equal(model.get_parameter(name), kept[name])
    drawn = {
        "layer.self_attn.in_proj_weight": (96, 32), "other.q_proj_weight": (32, 32), "other.k_proj_weight": (32, 16),
        "other.v_proj_weight": (32, 8),
    }  # fmt: skip
    for name, (rows, columns) in drawn.items():
        weight, bound = model.get_parameter(name), math.sqrt(6 / (rows + columns))
        assert not torch.equal(weight, kept[name])
        assert 0.9 * bound < weight.abs().max() <= bound
    expected = {"layer.self_attn.out_proj": 1.0, "layer.linear1": 1.5335, "layer.linear2": 1.0, "other.out_proj": 1.0}
    assert_gains(model, expected)


def test_modules_around_an_activation() -> None:
    model = nn.Sequential(
        nn.Linear(8, 256), PReLU(256, 0.5, axis=-1), nn.Linear(256, 256), nn.Hardtanh(-2, 2), nn.Linear(256, 256),
        RectifiedScores("shares"),
    )  # fmt: skip
    for sort in (model[0], model[2]):
        sort.register_forward_hook(lambda *args: pytest.fail("a hook of the user ran"))
    model[1].register_forward_hook(lambda *args: pytest.fail("a hook of the user ran"))
    initialize(model, torch.empty(2, 8, device="meta"))
    hardtanh = 1.0439  # 1 / sqrt(E[min(z^2, 4)])
    assert_gains(model, {"0": math.sqrt(2 / 1.25), "2": hardtanh, "4": 1.0})


class Maximum(nn.Module):
    """A user-defined activation with a layer in it: max(x, convolution of x)."""

    surgery_activation = "maximum"

    def __init__(self) -> None:
        super().__init__()
        self.window = nn.Conv2d(64, 64, 1, groups=64)

    def forward(self, x: Tensor) -> Tensor:
        return torch.maximum(x, self.window(x))


def test_a_layer_inside_an_activation_is_the_activations_own() -> None:
    model = nn.Sequential(nn.Conv2d(8, 64, 3), Maximum())
    nn.init.constant_(model[1].window.weight, 0.5)
    nn.init.zeros_(model[1].window.bias)
    initialize(model, torch.empty(2, 8, 8, 8, device="meta"))
    assert (model[1].window.weight == 0.5).all()
    weight = model[0].weight.detach()
    # max(x, x / 2) is a PReLU of slope 0.5.
    assert abs(weight.square().mean().sqrt() * math.sqrt(72) / math.sqrt(2 / 1.25) - 1) < 0.03


def test_a_tied_weight_is_drawn_once() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    model[2].weight = model[0].weight
    once = copy.deepcopy(model)
    initialize(model, generator=torch.Generator().manual_seed(1))
    assert_gains(model, {"0": math.sqrt(2), "2": math.sqrt(2)})
    drawn = torch.randn(64, 64, generator=torch.Generator().manual_seed(1)) * (gain(F.relu) / 8)
    assert torch.allclose(model[0].weight, drawn)
    assert once[2].weight is once[0].weight


def test_one_seed_one_model() -> None:
    models = [initialize(SmallNet(), generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    first, again, other = (dict(model.named_parameters()) for model in models)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["fc.weight"], other["fc.weight"])
    half = SmallNet().half()
    torch.manual_seed(1)
    model = initialize(half, torch.empty(2, 3, 8, 8, dtype=torch.half))
    assert all(torch.equal(value, first[name].half()) for name, value in model.named_parameters())


def test_a_timm_model() -> None:
    model = timm.create_model("resnet10t", num_classes=4, act_layer="silu")
    initialize(model, torch.empty(2, 3, 64, 64, device="meta"))
    found = deviations(model)
    assert abs(found.pop("fc") - 1) < 0.06
    assert len(found) == 14
    assert all(abs(value / 1.6765 - 1) < 0.06 for value in found.values())


def test_refusals_leave_the_model_as_it_was() -> None:
    model = SmallNet()
    with assert_untouched(model):
        assert_raises(BadValue, lambda: initialize(model, fan="mean"), "fan='mean'", "'out'")
        assert_raises(CannotLook, lambda: initialize(model, torch.zeros(1, 7, 8, 8)), "example")
    masked = SmallNet()
    torch.nn.utils.parametrizations.weight_norm(masked.blocks[1].conv2)
    with assert_untouched(masked):
        assert_raises(BadValue, lambda: initialize(masked), "blocks.1.conv2", "parametrisation")
    with torch.device("meta"):
        empty = SmallNet()
    assert_raises(BadValue, lambda: initialize(empty), "meta", "to_empty")


def test_an_activation_without_gain_is_refused_before_anything_is_written() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), FReLU(4, 0.0, 0.0), nn.Linear(4, 4))
    with assert_untouched(model):
        assert_raises(BadValue, lambda: initialize(model), "no gain")
