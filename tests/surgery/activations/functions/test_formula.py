"""Formula: an expression is a function like any of the catalogue, wherever one is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import surgery
from surgery import activations
from surgery.activations.dispatch import only
from surgery.activations.functions.formula import Formula
from surgery.errors import SurgeryError
from tests.asserts import assert_raises
from tests.processes import run_python

SWISH = "mul(x, sigmoid(scale(x, 0.5)))"
SAMPLE = torch.linspace(-3, 3, 48).view(2, 6, 2, 2)

LOAD = """
import sys, torch, surgery
from torch import nn
fresh = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU())
model = surgery.load(sys.argv[1], model=fresh, example=torch.zeros(2, 3, 4, 4)).eval()
print(model(torch.ones(2, 3, 4, 4)).sum().item())
"""

LOAD_NAMED = """
import sys, torch, surgery
from torch import nn
fresh = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1))
example = torch.zeros(2, 3, 4, 4)
try:
    surgery.load(sys.argv[1], model=fresh, example=example)
except surgery.UnknownName as error:
    assert "half_swish" in str(error) and "register" in str(error), error
surgery.activations.register("half_swish", surgery.activations.row_of(sys.argv[2]).build)
print(surgery.load(sys.argv[1], model=fresh, example=example).eval()(torch.ones(2, 3, 4, 4)).sum().item())
"""


@pytest.mark.parametrize("text", ["max(x, tanh(x))", SWISH, "peak(cos(x), sinc(x), 0.3)"])
def test_its_gradients_are_those_of_its_formula(text: str) -> None:
    module = activations.build(text, channels=6)
    found = []
    for form in ("formula", "closed"):
        x = SAMPLE.clone().requires_grad_()
        with only(form):
            value = module(x)
            found.append((value.detach(), *torch.autograd.grad(value.square().sum(), [x, *module.parameters()])))
    for plain, closed in zip(*found, strict=True):
        assert torch.allclose(plain, closed, rtol=1e-5, atol=1e-5)


def test_it_is_described_and_found_under_its_name() -> None:
    module = activations.build("mul(x,sigmoid( scale(x,0.50)))", channels=6)
    assert isinstance(module, Formula) and module.beta is not None and module.beta.shape == (1, 6)
    assert torch.allclose(module(SAMPLE), SAMPLE * torch.sigmoid(0.5 * SAMPLE))
    (site,) = surgery.find_sites(nn.Sequential(nn.Conv2d(3, 6, 1), module), torch.zeros(2, 3, 4, 4))
    assert site.activation == SWISH
    assert "x sigmoid(beta x)" in activations.describe(SWISH)
    assert not activations.build(SWISH, channels=6, learn=False).beta.requires_grad
    assert activations.build(SWISH, channels=6, per="layer").beta.shape == (1, 1)


def test_x_itself_is_a_function() -> None:
    assert torch.equal(activations.build("x", channels=6)(SAMPLE), SAMPLE)


def test_what_is_no_expression_says_so() -> None:
    assert_raises(SurgeryError, lambda: activations.build("mul(x, sigmoyd(x))"), "sigmoid")
    assert_raises(SurgeryError, lambda: surgery.swap("mul(x, x"), "')' is expected")


def test_a_found_function_gets_a_name(tmp_path: Path) -> None:
    """Under it, it is swapped, saved, loaded in a process that registers it, exported, and left alone by a merge."""
    activations.register("half_swish", activations.row_of(SWISH).build)
    assert torch.allclose(activations.build("half_swish", channels=6)(SAMPLE), SAMPLE * torch.sigmoid(0.5 * SAMPLE))
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1))
    picture = torch.rand(2, 3, 4, 4)
    rules = [surgery.erase(position=2), surgery.swap("half_swish", remaining=True)]
    edited = surgery.transform(model, rules, picture)[0].eval()
    assert [site.activation for site in surgery.find_sites(edited, picture)] == ["half_swish"]
    exported = torch.export.export(edited, (picture,)).module()
    assert torch.allclose(exported(picture), edited(picture), atol=1e-6)
    merged, _ = surgery.merge(edited, example=picture)
    assert len([module for module in merged.modules() if isinstance(module, nn.Conv2d)]) == 2
    assert torch.allclose(merged(picture), edited(picture), atol=1e-6)
    surgery.save(edited, tmp_path / "saved")
    done = run_python(LOAD_NAMED, tmp_path / "saved", SWISH)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(edited(torch.ones(2, 3, 4, 4)).sum().item(), abs=1e-5)


def test_it_swaps_and_loads_in_a_fresh_process(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU())
    edited, _ = surgery.transform(model, surgery.swap(SWISH), torch.zeros(2, 3, 4, 4))
    with torch.no_grad():
        edited.get_submodule("1").beta.mul_(torch.linspace(1, 2, 6))
    surgery.save(edited, tmp_path / "saved")
    done = run_python(LOAD, tmp_path / "saved")
    assert float(done.stdout) == pytest.approx(edited.eval()(torch.ones(2, 3, 4, 4)).sum().item()), done.stderr


@pytest.mark.slow
def test_it_is_traced_exported_and_compiled() -> None:
    model = nn.Sequential(nn.Conv2d(6, 6, 1), activations.build(SWISH, channels=6)).eval()
    wanted = model(SAMPLE)
    made = {
        "fx": torch.fx.symbolic_trace(model),
        "export": torch.export.export(model, (SAMPLE,)).module(),
        "compiled": torch.compile(model, backend="aot_eager", fullgraph=True),
    }
    for name, form in made.items():
        assert torch.allclose(form(SAMPLE), wanted, atol=1e-6), name


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_onnx_computes_the_same(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model = nn.Sequential(activations.build("add(erf(x), mul(asinh(x), sigmoid(scale(x))))", channels=6)).eval()
    torch.onnx.export(model, (SAMPLE,), tmp_path / "net.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: SAMPLE.numpy()})
    assert torch.allclose(torch.from_numpy(found), model(SAMPLE), atol=1e-5)


def test_a_merge_leaves_it_between_the_merged_layers() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 12, 1), nn.ReLU(), nn.Conv2d(12, 4, 1)).eval()
    example = torch.rand(2, 3, 4, 4)
    rules = [surgery.erase(position=2), surgery.swap("max(x, tanh(x))", remaining=True)]
    edited, _ = surgery.transform(model, rules, example)
    merged, _ = surgery.merge(edited, example=example)
    convolutions = [module for module in merged.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 2 and torch.allclose(merged(example), edited(example), atol=1e-5)
    hidden = edited[0](example)
    assert torch.allclose(edited[1](hidden), torch.maximum(hidden, F.tanh(hidden)))
