"""Rules for a target: what it lacks is swapped for the nearest function that it has, on calibration batches."""

from __future__ import annotations

from collections.abc import Iterator
from weakref import WeakSet

import pytest
import torch
from torch import Tensor, nn

import surgery
from surgery.activations.support import Cell, Support
from surgery.deploy import advice, swaps
from surgery.errors import BadValue, UnknownName
from surgery.isolation.meta_copy import scratch_copy
from tests.asserts import assert_raises, assert_untouched

CELLS = [
    ("relu", "one operator", 1, "image"), ("leaky_relu", "one operator", 1, "image"),
    ("silu", "one operator", 1, "image"), ("gelu", "fails", 0, "image"), ("hardswish", "decomposed", 5, "image"),
    ("mish", "decomposed", 2, "image"), ("swish", "wrong", 1, "image"),
    ("prelu", "one operator", 1, "image"), ("prelu", "decomposed", 6, "tokens"),
]  # fmt: skip


class Net(nn.Module):
    """Two calls that the target lacks, one that it takes apart into many, one into few, and a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.line = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.first, self.second, self.hard, self.kept = nn.GELU(), nn.GELU(), nn.Hardswish(), nn.Mish()

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(self.conv(x)) + 1)
        x = self.kept(self.hard(self.line(x)))
        return x * torch.sigmoid(self.line(x))


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = tuple(
        Cell(name, "ncnn", "fp32", layout, verdict, ("op",) * count, 0.0, "") for name, verdict, count, layout in CELLS
    )
    for module in (advice, swaps):
        monkeypatch.setattr(module, "support", lambda: Support(cells, {"ncnn": ""}))


BATCHES = [torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(k)) for k in range(2)]


def test_what_is_lacking_is_swapped_for_the_nearest() -> None:
    model = Net().eval()
    with assert_untouched(model):
        rules = surgery.deploy.rules_for(model, "ncnn", BATCHES)
    assert [str(rule) for rule in rules] == [
        "swap('silu', activation='gelu', role='nonlinearity')",
        "swap('silu', activation='hardswish', role='nonlinearity')",
    ]
    edited, report = surgery.transform(model, rules, BATCHES[0])
    assert len(report.plan.edits) == 3
    assert [site.activation for site in surgery.find_sites(edited, BATCHES[0])] == ["silu"] * 3 + ["mish", "sigmoid"]


def test_near_depends_on_what_the_calls_receive() -> None:
    """Far from zero a GELU is a ReLU; the SiLU is not yet."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.GELU())
    [rule] = surgery.deploy.rules_for(model, "ncnn", [20 * batch for batch in BATCHES])
    assert rule.make == "relu"


class Layouts(nn.Module):
    """The same activation on images and on tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.line = nn.Conv2d(3, 4, 1), nn.Linear(4, 4)
        self.image, self.tokens = nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.image(self.conv(x))
        return self.tokens(self.line(x.flatten(2).transpose(1, 2)))


def test_calls_that_are_well_off_stay() -> None:
    """A PReLU that is one operator on images, and many on tokens."""
    model, _ = surgery.transform(Layouts(), surgery.swap("prelu"), BATCHES[0])
    rules = surgery.deploy.rules_for(model, "ncnn", BATCHES)
    edited, report = surgery.transform(model, rules, BATCHES[0])
    assert [str(edit.site) for edit in report.plan.edits] == ["tokens"]
    assert [site.activation for site in surgery.find_sites(edited, BATCHES[0])] == ["prelu", "relu"]


class Loader:
    """Batches that exist while they are used; counts how many do."""

    def __init__(self) -> None:
        self.alive: WeakSet[Tensor] = WeakSet()
        self.most = 0

    def __iter__(self) -> Iterator[Tensor]:
        for number in range(8):
            batch = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(number))
            self.alive.add(batch)
            self.most = max(self.most, len(self.alive))
            yield batch
            del batch


def test_one_batch_is_kept_at_a_time_and_one_copy_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[nn.Module] = []

    def counted(model: nn.Module, *, meta: bool) -> nn.Module:
        made.append(model)
        return scratch_copy(model, meta=meta)

    monkeypatch.setattr(swaps, "scratch_copy", counted)
    loader = Loader()
    assert [rule.make for rule in surgery.deploy.rules_for(Net(), "ncnn", loader)] == ["silu", "silu"]
    assert loader.most <= 3 and len(made) == 1


def test_a_batch_that_fails_in_the_model_is_named() -> None:
    assert_raises(
        BadValue, lambda: surgery.deploy.rules_for(Net(), "ncnn", [BATCHES[0], torch.randn(2, 5, 6, 6)]),
        "Batch 2 fails in Net",
    )  # fmt: skip


def test_rules_may_fade() -> None:
    assert all(rule.fade == (0.1, 0.8) for rule in surgery.deploy.rules_for(Net(), "ncnn", BATCHES, fade=(0.1, 0.8)))


def test_a_network_that_still_fades_is_refused() -> None:
    fading, _ = surgery.transform(Net(), surgery.swap("silu", fade=True), BATCHES[0])
    assert_raises(
        BadValue, lambda: surgery.deploy.rules_for(fading, "ncnn", BATCHES), "Net still fades", "surgery.settle"
    )


def test_a_network_that_lacks_nothing_needs_no_rules() -> None:
    assert surgery.deploy.rules_for(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), "ncnn", BATCHES) == []


def test_what_was_not_measured_is_refused() -> None:
    rules_for = surgery.deploy.rules_for
    assert_raises(BadValue, lambda: rules_for(Net(), "ncnn", BATCHES, "int8"), "ncnn in int8", "fp32")
    assert_raises(UnknownName, lambda: rules_for(Net(), "onnx", BATCHES), "onnxruntime")
    assert_raises(BadValue, lambda: rules_for(Net(), "ncnn", BATCHES[0]), "a list of it")
