"""Forms: which one is used where, how to choose one, and the message if a kernel is missing."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from surgery import activations
from surgery.activations import dispatch as forms
from surgery.activations import only
from surgery.activations.dispatch import FORMS, form_of, kernel_of
from surgery.activations.functions.smelu import GSMELU
from surgery.activations.functions.swish import SWISH
from surgery.errors import BadValue
from tests.asserts import assert_raises

X = torch.linspace(-3, 3, 12).reshape(2, 2, 3)
OLD = pytest.mark.filterwarnings(r"ignore:.*torch\.jit\..* is deprecated")


def answer(x: Tensor) -> Tensor:
    """x plus the index of the form that Swish uses, so that a trace shows which it was."""
    return x + FORMS.index(form_of(SWISH, x))


class Answer(nn.Module):
    """The same as a module."""

    def forward(self, x: Tensor) -> Tensor:
        return answer(x)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


# -- which form -------------------------------------------------------------------------------------------------------


def test_a_kernel_where_there_is_one() -> None:
    assert form_of(SWISH, X) == "fused"
    assert form_of(SWISH, nn.Parameter(X)) == "fused"
    assert form_of(SWISH, X.half()) == form_of(SWISH, X.bfloat16()) == "fused"
    assert form_of(GSMELU, X) == "closed", "there is no kernel for it"


def test_the_closed_form_where_no_kernel_can_run() -> None:
    assert form_of(SWISH, X.double()) == "closed", "kernels compute in float32"
    assert form_of(SWISH, X[:0]) == "closed", "there is nothing to compute"
    assert form_of(SWISH, X.to("meta")) == "closed"
    with FakeTensorMode() as mode:
        assert form_of(SWISH, mode.from_tensor(X)) == "closed"


def test_the_formula_in_transforms() -> None:
    assert torch.equal(torch.func.vmap(answer)(X), X)
    assert torch.equal(torch.func.vmap(torch.func.grad(lambda x: answer(x) * x))(X.flatten()), 2 * X.flatten())


@OLD
def test_the_exported_form_in_old_traces() -> None:
    assert torch.equal(torch.jit.trace(answer, X, check_trace=False)(X), X + FORMS.index("exported"))


@pytest.mark.usefixtures("fresh_compiler")
def test_a_kernel_in_compiled_models_and_the_exported_form_in_exported_ones() -> None:
    assert torch.equal(torch.compile(answer, fullgraph=True, backend="eager")(X), X + FORMS.index("fused"))
    assert torch.equal(torch.export.export(Answer(), (X,)).module()(X), X + FORMS.index("exported"))


def test_what_is_computed_has_the_node_of_its_form() -> None:
    module, x = activations.build("swish", 2), X.clone().requires_grad_()
    nodes = {}
    for form in FORMS:
        with only(form):
            nodes[form] = type(module(x).grad_fn).__name__
    assert nodes["closed"] == "_ClosedBackward" and nodes["fused"] == "_FusedBackward"
    assert nodes["formula"] not in ("_ClosedBackward", "_FusedBackward")
    assert type(module(x).grad_fn).__name__ == "_FusedBackward"


@OLD
def test_a_forward_derivative_is_never_lost() -> None:
    module = activations.build("swish", 2).requires_grad_(False)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(X, torch.ones_like(X))
        with only("fused"), pytest.raises(NotImplementedError, match="jvp"):
            module(dual)


def test_the_gradient_of_a_fused_gradient_is_that_of_the_formula() -> None:
    module, found = activations.build("swish", 2), []
    for form in ("fused", "formula"):
        x = X.clone().requires_grad_()
        with only(form):
            (first,) = torch.autograd.grad(module(x).square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), [x, *module.parameters()]))
    for got, other in zip(*found, strict=True):
        torch.testing.assert_close(got, other, atol=1e-4, rtol=1e-4)


def test_the_mark_for_the_compiler_is_the_one_that_torch_sets() -> None:
    ours, theirs = forms._constant(lambda: 0), torch.compiler.assume_constant_result(lambda: 0)
    assert vars(ours) == vars(theirs) != {}


# -- one form only ----------------------------------------------------------------------------------------------------


def test_only_holds_inside_and_no_longer() -> None:
    with only("formula"):
        assert form_of(SWISH, X) == "formula"
        with only("closed"):
            assert form_of(SWISH, X) == "closed"
        assert form_of(SWISH, X) == "formula"
    assert form_of(SWISH, X) == "fused"
    with pytest.raises(KeyError), only("closed"):
        raise KeyError
    assert form_of(SWISH, X) == "fused"


def test_only_in_the_thread_that_asks() -> None:
    mine, theirs = only("formula"), only("closed")
    with ThreadPoolExecutor(1) as other:
        with mine:
            assert other.submit(form_of, SWISH, X).result() == "fused"
            other.submit(theirs.__enter__).result()
            assert form_of(SWISH, X) == "formula"
        assert form_of(SWISH, X) == "fused"
        assert other.submit(form_of, SWISH, X).result() == "closed"
        other.submit(theirs.__exit__, None, None, None).result()
        assert other.submit(form_of, SWISH, X).result() == "fused"


def test_only_for_some_functions() -> None:
    with only("formula", "swish", "prelu"):
        assert form_of(SWISH, X) == "formula"
        assert form_of(GSMELU, X) == "closed", "as ever"
        with only("closed", "gsmelu"):
            assert form_of(SWISH, X) == "fused", "the inner one counts alone"
        assert form_of(SWISH, X) == "formula"


def test_a_form_that_does_not_exist() -> None:
    with only("closed"):
        assert_raises(BadValue, lambda: only("quick").__enter__(), "'quick'", "formula, closed, fused, exported")
        assert form_of(SWISH, X) == "closed", "nothing changed"
    with only("fused"):
        assert_raises(BadValue, lambda: activations.build("gsmelu")(X), "No kernel", "gsmelu")


# -- kernels that are missing -----------------------------------------------------------------------------------------


@pytest.fixture
def without_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if numba were not installed."""
    monkeypatch.setitem(forms._KERNELS, "cpu", ("surgery.activations.kernels_that_are_not_there", "numba"))
    kernel_of.cache_clear()
    yield
    kernel_of.cache_clear()


@pytest.mark.usefixtures("without_kernels")
def test_without_kernels_the_closed_form_serves_and_the_log_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    module = activations.build("swish", 2)
    with caplog.at_level(logging.INFO, "surgery"):
        for _ in range(3):
            x = X.clone().requires_grad_()
            assert type(module(x).grad_fn).__name__ == "_ClosedBackward"
            module(x).sum().backward()
    said = [record for record in caplog.records if record.name == "surgery.activations.dispatch"]
    assert [warning.levelname for warning in said] == ["INFO"]
    assert "numba" in said[0].getMessage() and "swish" in said[0].getMessage()
    assert "cpu: the closed form" in activations.describe("swish")
    with only("fused"):
        assert_raises(BadValue, lambda: module(X), "swish on cpu", "activation-surgery[fast]")


def test_what_runs_is_told() -> None:
    assert "cpu: one kernel (numba)" in activations.describe("swish")
    assert "cpu: the closed form" in activations.describe("gsmelu")
    assert "torch's own operations" in activations.describe("gelu")


def test_devices_without_any_kernel() -> None:
    assert kernel_of("swish", "meta") is None
    assert kernel_of("gsmelu", "cpu") is None
    assert kernel_of("swish", "cpu") is not None
