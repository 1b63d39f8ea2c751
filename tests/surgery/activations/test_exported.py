"""Exported form: exporters and scripts see the same function, in operators that every deploy target knows."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import surgery
from surgery.activations.catalogue import ROWS
from surgery.activations.dispatch import only
from surgery.activations.exported import behind, shaped
from surgery.activations.functions.piecewise import sum_of_clips
from surgery.activations.functions.pwlu import PWLU

CHANNELS = 6
LEARNED = [row.name for row in ROWS if row.learns]
PLACES = {
    "pictures": ((2, CHANNELS, 5, 5), 1), "tokens": ((2, 7, CHANNELS), -1), "rows": ((3, CHANNELS), 1),
    "vector": ((CHANNELS,), 1), "volumes": ((1, CHANNELS, 2, 3, 3), 1), "channels last": ((2, 5, 5, CHANNELS), -1),
}  # fmt: skip

# Operators on x that all of onnxruntime, OpenVINO, ncnn, LiteRT, Core ML, ExecuTorch and TVM convert.
EVERYWHERE = {"add", "clamp", "maximum", "minimum", "mul", "prelu", "relu", "rsub", "sigmoid", "sub"}

EXPORTERS: dict[str, Callable[[nn.Module, Tensor], Callable[[Tensor], Tensor]]] = {
    "export": lambda module, x: torch.export.export(module, (x,)).module(),
    "trace": lambda module, x: torch.jit.trace(module, (x,)),
    "script": lambda module, x: torch.jit.script(module),
}


def trained(name: str, axis: int = 1, per: str = "channel") -> nn.Module:
    """A learned function whose parameters have left their start, and differ by channel."""
    module = surgery.activations.build(name, channels=CHANNELS, axis=axis, per=per).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for param in module.parameters():
            param.add_(0.3 * torch.randn_like(param))
    return module


def assert_same(got: Tensor, wanted: Tensor) -> None:
    assert got.shape == wanted.shape
    assert (got - wanted).abs().max() <= 1e-6 * wanted.abs().max().clamp_min(1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated")
@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", LEARNED)
def test_what_is_exported_computes_the_same(name: str, exporter: str) -> None:
    places = [(*place, "channel") for place in PLACES.values()] + [(*PLACES["pictures"], "layer")]
    for shape, axis, per in places:
        module, x = trained(name, axis, per), 3 * torch.randn(shape)
        assert_same(EXPORTERS[exporter](module, x)(x), module(x))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated")
@pytest.mark.parametrize("name", [row.name for row in ROWS])
def test_every_function_is_scripted(name: str) -> None:
    module, x = surgery.activations.build(name, channels=CHANNELS).eval(), torch.randn(2, CHANNELS, 4, 4)
    assert_same(torch.jit.script(module)(x), module(x))


def operators_on(x: Tensor, module: nn.Module) -> list[str]:
    """The operators that an exported graph applies to its input, and to what comes of it."""
    graph = torch.export.export(module, (x,)).graph
    left, seen = [node for node in graph.nodes if node.name == "input"], set()
    while left:
        for node in left.pop().users:
            if node.op == "call_function" and node not in seen:
                seen.add(node)
                left.append(node)
    return [node.target.overloadpacket.__name__ for node in graph.nodes if node in seen]


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_scripted_pwlu_whose_bounds_met_is_finite(dtype: torch.dtype) -> None:
    module = PWLU(3)
    with torch.no_grad():
        module.right.copy_(module.left)
    module, x = module.to(dtype), torch.randn(2, 3, 4, 4).to(dtype)
    value = torch.jit.script(module)(x)
    assert value.dtype == dtype and value.isfinite().all()
    assert_same(value, module(x))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated")
def test_a_pwlu_is_scripted_folded_and_after_its_warm_up() -> None:
    x = torch.randn(2, CHANNELS, 4, 4)
    assert_same(torch.jit.script(trained("pwlu").folded())(x), trained("pwlu")(x))
    module = PWLU(CHANNELS, warmup=0.5)
    with pytest.raises(torch.jit.Error, match="after its warm-up"):
        torch.jit.script(module)(x)
    module.finish()
    assert_same(torch.jit.script(module)(x), module(x))


@pytest.mark.parametrize("place", ["pictures", "tokens", "rows"])
@pytest.mark.parametrize("name", LEARNED)
def test_every_target_knows_the_operators_on_x(name: str, place: str) -> None:
    shape, axis = PLACES[place]
    operators = operators_on(torch.randn(shape), trained(name, axis))
    assert operators
    assert set(operators) <= EVERYWHERE


def test_prelu_reaches_exporters_as_prelu() -> None:
    assert operators_on(torch.randn(2, CHANNELS, 4, 4), trained("prelu")) == ["prelu"]
    assert operators_on(torch.randn(2, CHANNELS), trained("prelu")) == ["prelu"]
    assert operators_on(torch.randn(2, CHANNELS), trained("prelu", axis=-1)) == ["prelu"]
    assert operators_on(torch.randn(2, 3, CHANNELS), trained("prelu", axis=-1, per="layer")) == ["prelu"]
    assert "prelu" not in operators_on(torch.randn(2, 3, CHANNELS), trained("prelu", axis=-1)), (
        "torch's would take another axis"
    )


def test_prelu_reaches_onnx_as_two_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    module, x = trained("prelu"), torch.randn(2, CHANNELS, 4, 4)
    assert "prelu" not in operators_on(x, module)
    with only("exported"):
        assert_same(module(x), nn.functional.prelu(x, module.weight))


def test_a_pwlu_is_one_clip_per_interval() -> None:
    for intervals in (1, 2, 5, 16):
        operators = operators_on(torch.randn(2, CHANNELS, 4, 4), PWLU(CHANNELS, intervals))
        assert operators.count("clamp") == intervals


@pytest.mark.parametrize("name", ["pwlu", "npwlu"])
@pytest.mark.parametrize("bound", [0.01, 3.0, 500.0])
def test_clips_far_from_zero_err_as_little(name: str, bound: float) -> None:
    module = surgery.activations.build(name, channels=CHANNELS, bound=bound)
    with torch.no_grad():
        (module.left if name == "pwlu" else module.start).add_(30 * bound)
        if name == "pwlu":
            module.right.add_(30 * bound)
            module.heights.copy_(torch.randn_like(module.heights) * bound)
    x = (30 * bound + torch.linspace(-2 * bound, 2 * bound, 401))[:, None].expand(-1, CHANNELS)
    exact = copy.deepcopy(module).double()(x.double())
    with only("exported"):
        error = (module(x).double() - exact).abs().max()
    # One rounding of x itself, times the steepest slope.
    steep = (exact[1:] - exact[:-1]).abs().max() / (x[1] - x[0])[0]
    assert error <= 3 * torch.finfo(torch.float).eps * (30 * bound * steep + exact.abs().max())


def test_clips_cancel_nowhere() -> None:
    """In half precision, far out too, they err as much as a product in half precision does."""
    module, x = trained("pwlu"), torch.linspace(-1000, 1000, 4001)[:, None].expand(-1, CHANNELS)
    exact = module.double()(x.double())
    parameters = (module.heights, module.left, module.right, module.low_slope, module.high_slope)
    half = sum_of_clips(x.half(), 0, *(param.half() for param in parameters)).double()
    error = (half - exact).abs() / exact.abs().clamp_min(module.heights.abs().max())
    assert error.max() < 12 * torch.finfo(torch.half).eps
    single = sum_of_clips(x, 0, *(param.float() for param in parameters)).double()
    assert ((single - exact).abs() / exact.abs().clamp_min(module.heights.abs().max())).max() < 1e-6


@pytest.mark.parametrize("name", LEARNED)
def test_half_precision_is_computed_in_single(name: str) -> None:
    module, x = trained(name).half(), (3 * torch.randn(2, CHANNELS, 5, 5)).half()
    got, wanted = torch.export.export(module, (x,)).module()(x), module(x)
    assert got.dtype == torch.half
    assert (got - wanted).abs().max() <= 2 * torch.finfo(torch.half).eps * wanted.abs().max()


@given(st.lists(st.integers(1, 3), min_size=1, max_size=5), st.integers(-5, 4))
def test_parameters_are_shaped_to_broadcast(shape: list[int], axis: int) -> None:
    x = torch.zeros(shape)
    own = axis if -x.dim() <= axis < x.dim() else -1
    channels = x.shape[own]
    summed = x + shaped(torch.arange(float(channels)), behind(x, axis))
    assert summed.shape == x.shape
    assert torch.equal(summed.movedim(own, -1), torch.arange(float(channels)).expand(x.movedim(own, -1).shape))


def test_a_scalar_has_no_axis() -> None:
    assert behind(torch.tensor(1.0), 1) == 0
    with only("exported"):
        assert surgery.activations.build("swish")(torch.tensor(2.0)).shape == ()
