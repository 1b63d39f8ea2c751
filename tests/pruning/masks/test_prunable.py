"""Prunable weights: those whose zeros are zero weights, by the names of the layers that use them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.ao.pruning
import torchvision
from timm.layers import Conv2dSame
from timm.layers import Linear as TimmLinear
from timm.layers.std_conv import ScaledStdConv2d, ScaledStdConv2dSame, StdConv2d, StdConv2dSame
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from pruning.masks.masks import Masks
from pruning.masks.prunable import owner_of, prunable, weights_of
from surgery.errors import BadValue, CannotLook, NothingPicked
from tests.asserts import assert_raises, assert_untouched


class Attention(nn.Module):
    """An attention layer of torch whose three inputs have different widths."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.attention = nn.MultiheadAttention(4, 2, **options)


def test_convolutions_and_linear_layers_of_resnet() -> None:
    model = torchvision.models.resnet18(weights=None)
    with assert_untouched(model):
        found = prunable(model)
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert list(found) == [f"{name}.weight" for name in layers]
    assert len(found) == 21
    assert sum(tensor.numel() for tensor in found.values()) == 11_678_912
    parameters = dict(model.named_parameters())
    assert all(found[name] is parameters[name] for name in found)
    assert not [name for name in found if "bn" in name or "bias" in name or "downsample.1" in name]


def test_attention_of_torchvision() -> None:
    model = torchvision.models.VisionTransformer(8, 4, 2, 2, 8, 16, num_classes=3)
    layer = ["self_attention.in_proj_weight", "self_attention.out_proj.weight", "mlp.0.weight", "mlp.3.weight"]
    assert list(prunable(model)) == [
        "conv_proj.weight",
        *(f"encoder.layers.encoder_layer_{k}.{name}" for k in (0, 1) for name in layer),
        "heads.head.weight",
    ]


def test_attention_of_three_widths() -> None:
    found = prunable(Attention(kdim=3, vdim=5, add_bias_kv=True))
    assert list(found) == [f"attention.{name}" for name in
                           ("q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight")]  # fmt: skip


def test_attention_of_timm() -> None:
    model = timm.create_model("test_vit")
    found = prunable(model)
    assert len(found) == 6 * 4 + 2
    assert {name.rpartition(".")[2] for name in found} == {"weight"}
    assert not {"pos_embed", "cls_token"} & set(found)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv1d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, groups=4, bias=False),
        nn.Conv3d(2, 2, 1),
        nn.ConvTranspose1d(3, 2, 3),
        nn.ConvTranspose2d(4, 6, 3, groups=2, output_padding=1, stride=2),
        nn.ConvTranspose3d(2, 2, 1),
        Conv2dSame(3, 4, 3, stride=2, dilation=2),
        Conv2dSame(4, 4, (1, 5), groups=4),
        TimmLinear(3, 5),
        nn.Linear(3, 5, bias=False),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_that_use_their_weight_as_it_is(layer: nn.Module) -> None:
    model = nn.Sequential(layer, nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.PReLU(3))
    with assert_untouched(model):
        assert list(prunable(model)) == ["0.weight"]


class Doubled(nn.Linear):
    """Linear in its weight, although it does not call torch's forward."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x * 2, self.weight, self.bias)


class Centred(nn.Conv1d):
    """Linear in its weight, but each of its weights is made from all of them."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)


class Lost(nn.Linear):
    """It cannot run on its own."""

    def forward(self, x: Tensor) -> Tensor:
        return self.parent.scaled(x) + super().forward(x)  # type: ignore[operator, union-attr, no-any-return]


class Failing(nn.Linear):
    error: type[Exception] = AssertionError

    def forward(self, x: Tensor) -> Tensor:
        raise self.error("not alone")


class Pair(nn.Linear):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x), x


class Noisy(nn.Linear):
    """Random numbers do not make it another function of its weight."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.functional.dropout(x, 0.5, self.training))


@pytest.mark.parametrize("layer", [Doubled(3, 4), Noisy(3, 4)], ids=["doubled", "noisy"])
def test_subclasses_that_are_linear(layer: nn.Module) -> None:
    assert list(prunable(nn.Sequential(layer))) == ["0.weight"]


def old_norm(make: Callable[..., nn.Module], layer: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return make(layer)


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "StdConv2d": (lambda: StdConv2d(3, 4, 3), "StdConv2d.forward()"),
    "StdConv2dSame": (lambda: StdConv2dSame(3, 4, 3), "StdConv2dSame.forward()"),
    "ScaledStdConv2d": (lambda: ScaledStdConv2d(3, 4, 3), "ScaledStdConv2d.forward()"),
    "ScaledStdConv2dSame": (lambda: ScaledStdConv2dSame(3, 4, 3), "ScaledStdConv2dSame.forward()"),
    "centred": (lambda: Centred(2, 3, 2), "Centred.forward()"),
    "lost": (lambda: Lost(3, 3), "Lost.forward()"),
    "pair": (lambda: Pair(3, 3), "Pair.forward()"),
    "failing": (lambda: Failing(3, 3), "Failing.forward()"),
    "spectral": (lambda: parametrizations.spectral_norm(nn.Linear(3, 4)), "_SpectralNorm"),
    "orthogonal": (lambda: parametrizations.orthogonal(nn.Linear(3, 4)), "_Orthogonal"),
    "weight norm": (lambda: parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), "_WeightNorm"),
    "old spectral": (lambda: old_norm(nn.utils.spectral_norm, nn.Conv2d(3, 4, 3)), "a hook"),
    "old weight norm": (lambda: old_norm(nn.utils.weight_norm, nn.Linear(3, 4)), "a hook"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_layers_that_compute_another_weight_are_refused_by_name(name: str) -> None:
    make, reason = REFUSED[name]
    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.ReLU(), make()))
    with assert_untouched(model):
        assert_raises(BadValue, lambda: prunable(model), "1.1.weight", reason, "keep=")
        left = prunable(model, keep=lambda name, module: isinstance(module, nn.Linear) and name.startswith("0."))
    assert list(left) == ["0.weight"]


@pytest.mark.parametrize("model", ["test_nfnet", "resnetv2_50x1_bit"])
def test_standardised_networks_of_timm_are_refused(model: str) -> None:
    with torch.device("meta"):
        built = timm.create_model(model)
    assert_raises(BadValue, lambda: prunable(built), "stem.conv", "StdConv2d.forward()")


def test_tensors_of_a_class_of_their_own_are_refused_by_name() -> None:
    class Packed(Tensor):
        """A tensor subclass, like quantised and distributed tensors."""

    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    masks = Masks.full(model)
    model[1].weight = nn.Parameter(model[1].weight.detach().as_subclass(Packed))
    for look in (prunable, Masks.full, Masks.of, masks.lay_over):
        with assert_untouched(model):
            assert_raises(BadValue, lambda look=look: look(model), "1.weight", "Packed", "keep=")  # type: ignore[misc, operator]
    assert list(prunable(model, keep=lambda name, _: name == "0.weight")) == ["0.weight"]


def test_keep_decides() -> None:
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.LSTM(4, 3), nn.Linear(4, 2))
    asked = []

    def keep(name: str, module: nn.Module) -> bool:
        asked.append((name, type(module).__name__))
        return "4." in name or isinstance(module, nn.Embedding | nn.LSTM)

    assert list(prunable(model, keep)) == ["0.weight", "3.weight_ih_l0", "3.weight_hh_l0", "4.weight"]
    assert asked == [("0.weight", "Embedding"), ("1.weight", "Linear"), ("3.weight_ih_l0", "LSTM"),
                     ("3.weight_hh_l0", "LSTM"), ("4.weight", "Linear")]  # fmt: skip


@pytest.mark.parametrize("model", [nn.ReLU(), nn.Sequential(), nn.BatchNorm2d(3), nn.Embedding(3, 2)], ids=str)
def test_nothing_to_prune(model: nn.Module) -> None:
    assert_raises(NothingPicked, lambda: prunable(model), type(model).__name__, "keep=")


def test_keep_that_keeps_nothing() -> None:
    assert_raises(NothingPicked, lambda: prunable(nn.Linear(2, 2), keep=lambda name, module: False), "Linear", "keep")


def test_wrapped_models() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    assert_raises(CannotLook, lambda: prunable(nn.DataParallel(model)), "model.module")
    assert_raises(CannotLook, lambda: prunable(torch.compile(model, backend="eager")), "_orig_mod")
    assert_raises(CannotLook, lambda: prunable("resnet18"), "str")  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_layers_that_have_no_shape_yet() -> None:
    assert_raises(CannotLook, lambda: prunable(nn.Sequential(nn.Linear(2, 2), nn.LazyLinear(3))), "1.weight", "run")


def test_weights_under_masks_go_by_the_name_of_the_layer() -> None:
    model = nn.Sequential(nn.Linear(4, 4), Conv2dSame(3, 4, 3), nn.Linear(4, 4), nn.Linear(4, 4))
    plain = prunable(model)
    prune.l1_unstructured(model[0], "weight", amount=0.5)
    prune.random_unstructured(model[1], "weight", amount=3)
    prune.l1_unstructured(model[2], "bias", amount=0.5)
    sparsifier = torch.ao.pruning.WeightNormSparsifier(sparsity_level=0.5, sparse_block_shape=(1, 1))
    sparsifier.prepare(model, [{"tensor_fqn": "3.weight"}])
    found = prunable(model)
    assert sorted(found) == sorted(plain)
    assert all(found[name] is plain[name] for name in plain), "not the parameters that learn"
    assert found["0.weight"] is model[0].weight_orig
    assert owner_of(model, "0.weight") == (model[0], "weight")


def test_a_shared_weight_is_there_once() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    assert list(prunable(model)) == ["0.weight", "3.weight"]
    twice = nn.Sequential(model[0], model[0])
    assert list(prunable(twice)) == ["0.weight"]


def test_a_model_that_is_one_layer() -> None:
    assert list(prunable(nn.Linear(2, 2))) == ["weight"]
    assert list(weights_of(nn.Bilinear(2, 3, 4))) == ["weight"]


@pytest.mark.filterwarnings("ignore:Complex modules are a new feature")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.complex64], ids=str)
def test_precisions(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(3, 3), TimmLinear(3, 3), Conv2dSame(64, 8, 3, stride=2)).to(dtype)
    assert list(prunable(model)) == ["0.weight", "1.weight", "2.weight"]
    if not dtype.is_complex:
        model.append(StdConv2d(8, 8, 3).to(dtype))
        assert_raises(BadValue, lambda: prunable(model), "3.weight", "StdConv2d")


def test_models_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(3, 3), Conv2dSame(3, 4, 3, stride=2), nn.Conv2d(3, 4, 3))
    assert list(prunable(model)) == ["0.weight", "1.weight", "2.weight"]
    assert all(param.is_meta for param in model.parameters())
