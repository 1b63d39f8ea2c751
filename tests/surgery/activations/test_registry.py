"""The rows of the catalogue are true, and `describe` shows them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import surgery
from surgery import activations
from surgery.activations.catalogue import ROWS
from tests.asserts import assert_raises
from tests.surgery.activations.every import LEARNED, SWEPT

PER = [row.name for row in ROWS if "per" in activations.parameters(row.name)]


@pytest.mark.parametrize("name", SWEPT)
def test_a_slip_of_the_pen_shows_the_name(name: str) -> None:
    slip = name[:-1] + "z" + name[-1]
    assert_raises(surgery.UnknownName, lambda: activations.build(slip), repr(slip), name)


def test_per_channel_or_per_layer() -> None:
    assert set(PER) == set(LEARNED)
    for name in PER:
        for channels, per, wanted in ((5, "channel", 5), (5, "layer", 1), (None, "channel", 1), (None, "layer", 1)):
            module = activations.build(name, channels, per=per)
            assert {param.shape[-1] for param in module.parameters()} == {wanted}, name
        refused = lambda name=name: activations.build(name, 3, per="row")  # noqa: E731
        assert_raises(surgery.BadValue, refused, f"{name!r}", "per='row'")


@pytest.mark.parametrize("name", PER)
def test_the_axis_reaches_the_module(name: str) -> None:
    assert activations.build(name, 3, axis=-1).axis == -1
    assert activations.build(name, 3).axis == 1


REFUSED = [
    ("frelu", {"alternate": "days"}),
    ("frelu", {"every": 0}),
    ("gsmelu", {"left": -1.0, "right": 1.0}),
    ("helu", {"alpha": -0.1}),
    ("npwlu", {"intervals": 0}),
    ("npwlu", {"bound": 0.0}),
    ("pwlu", {"intervals": 0}),
    ("pwlu", {"bound": -1.0}),
    ("pwlu", {"warmup": 1.0}),
    ("rectified_scores", {"reading": "tea leaves"}),
    ("rescu", {"joint": 0.0}),
    ("rescu", {"low_slope": 1.0}),
    ("smelu", {"beta": 0.0}),
    ("smelu", {"beta": float("nan")}),
]


@pytest.mark.parametrize(("name", "options"), REFUSED, ids=str)
def test_values_out_of_range_are_refused(name: str, options: dict[str, float]) -> None:
    key = next(iter(options))
    assert_raises(surgery.BadValue, lambda: activations.build(name, 3, **options), repr(name), f"{key}=")


@pytest.mark.parametrize("channels", [-1, 0, 2.0, True, "3"], ids=str)
@pytest.mark.parametrize("name", ["prelu", "frelu", "pwlu", "relu"])
def test_channels_are_a_number_of_them(name: str, channels: Any) -> None:
    assert_raises(surgery.BadValue, lambda: activations.build(name, channels), "channels", f"{channels!r}")


NONSENSE: list[tuple[Any, Any, str]] = [
    ("bad", 5, "5"),
    ("bad", None, "None"),
    ("bad", "gelu", "'gelu'"),
    ("", nn.ReLU, "''"),
    (7, nn.ReLU, "7"),
    (" gelu", nn.ReLU, "' gelu'"),
    ("bad", lambda *args: nn.ReLU(), "keyword"),
    ("bad", lambda channels, /: nn.ReLU(), "keyword"),
    ("bad", bool, "keyword"),
]


@pytest.mark.parametrize(("name", "build", "said"), NONSENSE, ids=range(len(NONSENSE)))
def test_nonsense_is_not_registered(name: Any, build: Any, said: str) -> None:
    before = activations.names()
    assert_raises(surgery.BadValue, lambda: activations.register(name, build), said)
    assert activations.names() == before


def test_a_builder_that_makes_no_module_is_refused() -> None:
    activations.register("bad", lambda: torch.relu)  # type: ignore[arg-type, return-value]
    assert_raises(surgery.BadValue, lambda: activations.build("bad"), "'bad'", "builtin_function", "nn.Module")
    activations.register("one of many", lambda: activations.build("gelu"))
    assert isinstance(activations.build("one of many"), nn.GELU)


def test_register_names_what_makes_a_function_a_full_citizen() -> None:
    text = activations.register.__doc__ or ""
    for protocol in ("channels", "axis", "like", "start_as(function, stats)", "set_progress(progress, step)"):
        assert f"`{protocol}`" in text


def test_the_advice_of_a_builder_comes_through() -> None:
    def build() -> nn.Module:
        raise surgery.BadValue("No.", asked="this", there="that", try_="something else")

    activations.register("refusing", build)
    assert_raises(surgery.BadValue, lambda: activations.build("refusing"), "No.", "something else")
    assert_raises(surgery.BadValue, lambda: activations.build("prelu", per="row"), "per='row'", "'channel' or 'layer'")
    assert_raises(surgery.UnknownName, lambda: activations.PWLU(like="geluu"), "gelu")


def test_what_torch_says_against_a_parameter_is_told() -> None:
    assert_raises(surgery.BadValue, lambda: activations.build("hardtanh", min_val=2.0), "'hardtanh'", "min_val=2.0")


def test_ranges_are_told_of_what_has_one() -> None:
    for name, key in (("elu", "alpha"), ("celu", "alpha"), ("hardtanh", "min_val"), ("hardtanh", "max_val")):
        assert activations.row_of(name).ranges[key] in activations.describe(name)
    assert_raises(surgery.BadValue, lambda: activations.build("celu", alpha=0.0), "'celu'", "alpha=0.0")


@pytest.mark.parametrize("lines", [{}, {"low_slope": 0.5}, {"learn": True}], ids=str)
def test_a_rescu_keeps_its_lines(lines: dict[str, float]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.GELU())
    edited, _ = surgery.transform(model, surgery.swap("rescu", **lines), torch.randn(2, 3, 5, 5))
    wanted = activations.build("rescu", 4, **lines)
    assert all(
        torch.equal(param, other) for param, other in zip(edited[1].parameters(), wanted.parameters(), strict=True)
    )
    assert "its own values" in activations.describe("rescu")


@pytest.mark.parametrize("name", SWEPT)
def test_describe_tells_all_about_one(name: str) -> None:
    row, text = activations.row_of(name), activations.describe(name)
    assert text.splitlines()[0] == name
    for fact in (row.formula, row.source, row.role, *row.aliases, *row.learns, *activations.parameters(name)):
        assert fact in text
    assert "begins as" in text and "runs" in text


def test_describe_is_a_table_of_all() -> None:
    lines = activations.describe().splitlines()
    assert [line.split()[0] for line in lines[1:]] == sorted(
        activations.names(), key=lambda name: (not activations.row_of(name).learns, name)
    )
    assert lines[0].split()[:2] == ["name", "computes"]
    assert activations.describe("lrelu").splitlines()[0] == "leaky_relu"
    assert_raises(surgery.UnknownName, lambda: activations.describe("geluu"), "gelu")
