"""Layout: an activation for tensors with different channels shares its parameters, or is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import surgery
from surgery import activations
from surgery.errors import CannotEdit
from surgery.look.layout import Layout, same_code
from tests.asserts import assert_bit_equal, assert_raises, assert_untouched
from tests.models import picture


class Act(nn.Module):
    """A user-defined module around a ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x)


class Widths(nn.Module):
    """One wrapped ReLU behind 4 and behind 8 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.act = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 1), Act()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.b(self.act(self.a(x))))


class Ranks(nn.Module):
    """One wrapped ReLU on rows first, then on images, 8 channels each."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.conv, self.act = nn.Linear(3, 8), nn.Conv2d(8, 8, 1), Act()

    def forward(self, x: Tensor) -> Tensor:
        scales = self.act(self.fc(x.mean((2, 3))))
        return self.act(self.conv(scales[:, :, None, None] + x[:, :1]))


class Sides(nn.Module):
    """One wrapped ReLU on 8 channels in the middle, and on 8 at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc, self.act = nn.Conv2d(3, 8, 1), nn.Linear(8, 8), Act()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.fc(self.act(self.conv(x)).flatten(2).transpose(1, 2)))


def new_parameters(edited: nn.Module) -> dict[str, int]:
    return {name: p.numel() for name, p in edited.act.named_parameters()}  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("name", ["prelu", "pwlu", "frelu", "npwlu", "leaky_relu", "helu"])
@pytest.mark.parametrize("given", [True, False])
def test_several_widths_share_one_function(name: str, given: bool, tmp_path: Path) -> None:
    model, x = Widths(), picture()
    edited, report = surgery.transform(model, surgery.swap(name), x if given else None)
    exact = name != "leaky_relu"
    if exact:
        assert_bit_equal([edited(x)], [model(x)])
    else:
        leaky = F.leaky_relu(model.b(F.leaky_relu(model.a(x))))
        assert torch.equal(edited(x), leaky)
    learns = bool(list(edited.act.parameters()))
    assert ("act.relu is called at 4 and 8 channels" in str(report)) is learns
    surgery.save(edited, tmp_path / "edited")
    assert torch.equal(surgery.load(tmp_path / "edited", model=Widths())(x), edited(x))
    assert torch.equal(surgery.undo(edited)(x), model(x))


def test_a_shared_slope_serves_both_widths() -> None:
    model, x = Widths(), picture()
    edited, _ = surgery.transform(model, surgery.swap("prelu"), x)
    assert new_parameters(edited) == {"relu.weight": 1}
    with torch.no_grad():
        next(edited.act.parameters()).fill_(-1.0)
    assert torch.equal(edited(x), model.b(model.a(x).abs()).abs())


def test_an_affine_stand_in_is_shared_and_fitted() -> None:
    model, x = Widths(), picture()
    edited, _ = surgery.transform(model, surgery.erase(stand_in="affine"), x)
    assert new_parameters(edited) == {"relu.weight": 1, "relu.bias": 1}
    assert torch.equal(edited(x), model.b(model.a(x)))


def test_parameters_per_channel_are_refused_where_widths_differ() -> None:
    model = Widths()
    with assert_untouched(model):
        assert_raises(
            CannotEdit, lambda: surgery.transform_(model, surgery.swap("pwlu", per="channel"), picture()),
            "act.relu", "4 and 8 channels", "per='layer'",
        )  # fmt: skip


def test_a_registered_function_that_needs_a_number_of_channels_is_refused() -> None:
    def build(channels: int) -> nn.Module:
        return nn.PReLU(channels)

    activations.register("wide", build)
    model = Widths()
    with assert_untouched(model):
        assert_raises(
            CannotEdit, lambda: surgery.transform_(model, surgery.swap("wide"), picture()),
            "act.relu", "4 and 8 channels", "wide",
        )  # fmt: skip


def test_the_same_channels_in_tensors_of_other_ranks_keep_parameters_per_channel() -> None:
    model, x = Ranks(), picture()
    edited, _ = surgery.transform(model, surgery.swap("prelu"), x)
    assert new_parameters(edited) == {"relu.weight": 8}
    slopes = torch.linspace(-1, 1, 8)
    with torch.no_grad():
        next(edited.act.parameters()).copy_(slopes)
    scales = F.prelu(model.fc(x.mean((2, 3))), slopes)
    assert torch.allclose(edited(x), F.prelu(model.conv(scales[:, :, None, None] + x[:, :1]), slopes), atol=1e-6)


def test_the_same_channels_on_other_axes_share_parameters() -> None:
    model, x = Sides(), picture()
    edited, report = surgery.transform(model, surgery.swap("prelu"), x)
    assert new_parameters(edited) == {"relu.weight": 1}
    assert "8 channels on axis 1 of 4 and axis 2 of 3" in str(report)
    assert_bit_equal([edited(x)], [model(x)])


def test_a_layout_suits_every_call_of_the_same_code() -> None:
    def layout(model: nn.Module) -> Layout:
        sites = surgery.find_sites(model, picture())
        return Layout.of(same_code(sites[0], sites))

    assert layout(Widths()) == Layout(None, 1)
    assert layout(Ranks()) == Layout(8, 1)
    assert layout(Sides()) == Layout(None, 1)
    assert layout(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())) == Layout(4, 1)
    assert layout(nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.ReLU())) == Layout(4, -1)


class Flat(nn.Module):
    """A ReLU on all pixels as channels, whose number depends on the example; then their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.fc = nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Linear(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.act(self.conv(x).flatten(1)).mean(1, keepdim=True))


class Pooled(nn.Module):
    """ReLUs on pixels, on shuffled channels, on pooled channels that were flattened, and behind a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 1), nn.Linear(4, 5)
        self.first, self.shuffled, self.pooled, self.last = nn.ReLU(), nn.ReLU(), nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(self.conv(x))
        batch, channels, height, width = y.shape
        y = y.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)
        y = F.adaptive_avg_pool2d(self.shuffled(y - 0.5), 1).flatten(1)
        return self.last(self.fc(self.pooled(y - 0.1)))


@pytest.mark.parametrize("name", ["prelu", "pwlu", "frelu", "npwlu", "affine"])
def test_where_the_example_decides_how_many_channels_there_are_they_share(name: str, tmp_path: Path) -> None:
    model, x, larger = Flat(), picture(), torch.rand(3, 3, 9, 7)
    edited, report = surgery.transform(model, surgery.swap(name), x)
    assert {p.shape[-1] for p in edited.act.parameters()} == {1}
    assert "act is called at 256 channels here, and other numbers on an example of another size" in str(report)
    if name != "affine":
        assert torch.allclose(edited(larger), model(larger), atol=1e-6)
    assert edited(larger).shape == (3, 2)
    surgery.save(edited, tmp_path / "edited")
    assert torch.equal(surgery.load(tmp_path / "edited", model=Flat())(larger), edited(larger))
    assert torch.equal(surgery.undo(edited)(larger), model(larger))


def test_parameters_per_channel_are_refused_where_the_example_decides_how_many_there_are() -> None:
    model = Flat()
    with assert_untouched(model):
        assert_raises(
            CannotEdit, lambda: surgery.transform_(model, surgery.swap("pwlu", per="channel"), picture()),
            "act is called at 256 channels here", "another size", "per='layer'",
        )  # fmt: skip


def test_channels_that_the_network_fixes_have_parameters_each_at_any_size() -> None:
    model = Pooled()
    edited, report = surgery.transform(model, surgery.swap("prelu"), picture())
    widths = {name: p.numel() for name, p in edited.named_parameters() if p.dim() == 1 and "weight" in name}
    assert widths == {"first.weight": 4, "shuffled.weight": 4, "pooled.weight": 4, "last.weight": 5}
    assert "share" not in str(report)
    for x in (picture(), torch.rand(3, 3, 9, 7)):
        assert torch.equal(edited(x), model(x))


def test_a_linear_layer_behind_fixes_the_channels_of_the_one_size_there_is() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.ReLU(), nn.Dropout(), nn.Linear(256, 2)).eval()
    edited, _ = surgery.transform(model, surgery.swap("prelu"), picture())
    assert edited[2].weight.shape == (256,)
    assert torch.equal(edited(picture()), model(picture()))


def test_tokens_have_parameters_per_channel_however_many_tokens_there_are() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6), nn.LayerNorm(6), nn.ReLU())
    edited, _ = surgery.transform(model, surgery.swap("prelu", activation="relu"), torch.rand(2, 5, 6))
    assert edited[4].weight.shape == (6,)
    for tokens in (torch.rand(2, 5, 6), torch.rand(3, 9, 6)):
        assert torch.equal(edited(tokens), model(tokens))
