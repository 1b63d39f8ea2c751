"""Every function with the usual tools: compilers, exporters, copies, processes, pruners."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torch_pruning as tp
from torch import Tensor, nn

from surgery import activations
from surgery.activations.functions.pwlu import PWLU
from surgery.dataflow.operations import activation_of_module
from tests.processes import in_two
from tests.surgery.activations.every import LEARNED, PLAIN, SWEPT, SideBySide, by_formula, made, numbers

X = numbers(2, 3, 4, 5, dtype=torch.float32)
OLD = pytest.mark.filterwarnings(r"ignore:.*torch\.jit\..* is deprecated")


def outcome(module: nn.Module, run: nn.Module) -> list[Tensor]:
    """Values, and gradients of x and of the parameters of `module`, as `run` computes them."""
    x = X.clone().requires_grad_()
    values = run(x)
    loss = sum((value * (place + X)).sum() for place, value in enumerate(values))
    return [*values, *torch.autograd.grad(loss, [x, *module.parameters()])]


def assert_close(found: list[Tensor], wanted: list[Tensor]) -> None:
    assert len(found) == len(wanted) >= len(SWEPT)
    for got, other in zip(found, wanted, strict=True):
        scale = max(1.0, float(other.detach().abs().max()))
        torch.testing.assert_close(got, other, rtol=1e-5, atol=2e-6 * scale)


# -- compilers and exporters ------------------------------------------------------------------------------------------


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_compiler")
def test_all_compile_without_a_break() -> None:
    module = SideBySide()
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    assert_close(outcome(module, compiled), outcome(module, module))


def test_all_are_exported_in_torchs_operations() -> None:
    module = SideBySide()
    program = torch.export.export(module, (X,))
    called = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert len(called) > len(SWEPT)
    strange = {str(call) for call in called if getattr(call, "namespace", "") != "aten"}
    assert strange <= {"<built-in function getitem>"}, strange
    assert_close(program.module()(X), module(X))
    assert set(program.state_dict) == set(module.state_dict())


@pytest.mark.slow
def test_all_go_to_onnx(tmp_path: Path) -> None:
    import onnxruntime

    module, file = SideBySide().eval(), tmp_path / "all.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        torch.onnx.export(module, (X,), file, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    found = [torch.from_numpy(array) for array in session.run(None, {session.get_inputs()[0].name: X.numpy()})]
    with torch.no_grad():
        assert_close(found, module(X))


@pytest.mark.parametrize("name", SWEPT)
def test_symbolic_traces(name: str) -> None:
    """A learned function is a single call in them: it reads shapes, which a trace does not have."""
    module = made(name)
    traced = torch.fx.symbolic_trace(nn.Sequential(module))
    assert torch.equal(traced(X), module(X))


@OLD
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # sizes of tables are looked at, which stay
def test_all_are_traced() -> None:
    class Wide(SideBySide):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat(super().forward(x), 1)

    module = Wide()
    traced = torch.jit.trace(module, X)
    torch.testing.assert_close(traced(X[:1]), module(X[:1]), atol=1e-5, rtol=1e-5)


# -- copies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SWEPT)
def test_copies_pickles_and_states(name: str) -> None:
    module, fresh = made(name), activations.build(name, 3, **LEARNED.get(name, {}))
    wanted = module(X)
    assert name in PLAIN or not torch.equal(fresh(X), wanted)
    fresh.load_state_dict(module.state_dict())
    assert set(module.state_dict()) == {key for key, _ in module.named_parameters()}
    for copied in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), fresh):
        assert type(copied) is type(module) and torch.equal(copied(X), wanted)
        assert activation_of_module(copied) == activation_of_module(module)
        with torch.no_grad():
            for param in copied.parameters():
                param.add_(1.0)
        assert torch.equal(module(X), wanted), "a copy lives its own life"


# -- processes --------------------------------------------------------------------------------------------------------


def learn_from_a_part(rank: int, folder: Path) -> None:
    model = SideBySide(LEARNED)
    parallel = nn.parallel.DistributedDataParallel(model)
    torch.stack(parallel(torch.load(folder / "images.pt")[2 * rank : 2 * rank + 2])).square().mean().backward()
    torch.save([parameter.grad for parameter in model.parameters()], folder / f"{rank}.pt")


def test_two_processes_learn_what_one_would(tmp_path: Path) -> None:
    images = numbers(4, 3, 4, 4, dtype=torch.float32)
    torch.save(images, tmp_path / "images.pt")
    in_two(learn_from_a_part, tmp_path)
    model = SideBySide(LEARNED)
    torch.stack(model(images)).square().mean().backward()
    for rank in (0, 1):
        for found, param in zip(torch.load(tmp_path / f"{rank}.pt"), model.parameters(), strict=True):
            torch.testing.assert_close(found, param.grad, atol=1e-5, rtol=1e-4)
    assert all(bool(param.grad.any()) for param in model.parameters())


# -- Torch-Pruning ----------------------------------------------------------------------------------------------------

# Shared by all channels, a table would be cut along its rows: it has to be named to the pruner, as its class says.
TABLES = {"pwlu": ("heights",), "npwlu": ("widths", "slopes")}


@pytest.mark.filterwarnings("ignore:Unwrapped parameters detected")
@pytest.mark.parametrize("per", ["channel", "layer"])
@pytest.mark.parametrize("name", LEARNED)
def test_pruned_by_half(name: str, per: str) -> None:
    unit = made(name, 8 if per == "channel" else None)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), unit, nn.Conv2d(8, 4, 3)).eval()
    whole, x = copy.deepcopy(model), numbers(2, 3, 8, 8, dtype=torch.float32)
    alone = [getattr(unit, table) for table in TABLES.get(name, ())] if per == "layer" else []
    importance = tp.importance.GroupMagnitudeImportance(p=2)
    tp.pruner.BasePruner(model, x, importance, pruning_ratio=0.5, ignored_layers=[model[2], *alone]).step()
    assert (model[0].out_channels, model[2].in_channels) == (4, 4)
    kept = [next(i for i in range(8) if torch.equal(row, whole[0].weight[i])) for row in model[0].weight]
    assert len(set(kept)) == 4
    for (key, got), before in zip(model[1].named_parameters(), whole[1].parameters(), strict=True):
        assert torch.equal(got, before[..., kept] if per == "channel" else before), key
    wanted = F.conv2d(whole[1](whole[0](x))[:, kept], whole[2].weight[:, kept], whole[2].bias)
    torch.testing.assert_close(model(x), wanted, atol=1e-5, rtol=1e-4)
    between = model[0](x).detach().movedim(1, -1).reshape(-1, 4)
    found = model[1](model[0](x)).movedim(1, -1).reshape(-1, 4)
    torch.testing.assert_close(found.double(), by_formula(name, model[1], between), atol=1e-5, rtol=1e-5)
    model(x).sum().backward()
    assert all(param.grad is not None and param.grad.shape == param.shape for param in model.parameters())


def test_only_tables_have_rows() -> None:
    for name in LEARNED:
        module = made(name)
        rows = {key for key, param in module.named_parameters() if param.dim() > 1}
        assert rows == set(TABLES.get(name, ()))
        assert all(param.shape[-1] == 3 for param in module.parameters()), "channels stand last"
    assert isinstance(made("pwlu"), PWLU)
