"""Recomputed inputs: equal gradients, nothing kept, and where x has to be kept all the same."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import surgery
from surgery import activations
from surgery.activations.recompute import check_memory, source_of
from tests.asserts import assert_raises
from tests.surgery.activations.every import LEARNED, made

CHANNELS = 3


def seeded(module: nn.Module, seed: int = 0) -> nn.Module:
    """With weights, and statistics, that differ from those of a new layer."""
    moves = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, tensor in (*module.named_parameters(), *module.named_buffers()):
            if tensor.is_floating_point():
                noise = torch.rand(tensor.shape, generator=moves).to(tensor)
                tensor.copy_(noise + 0.5 if "var" in key else noise - 0.4)
    return module


def images(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    shape = shape or (5, CHANNELS, 6, 7)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def act(name: str = "frelu", memory: str = "keep", channels: int = CHANNELS) -> nn.Module:
    module = made(name, channels)
    module.recompute = memory == "recompute"
    return module


class Block(nn.Module):
    """A residual block: two convolutions with norms, a shortcut, and the function behind the sum."""

    def __init__(self, memory: str, shortcut: nn.Module | None = None, *, inplace: bool = False) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), nn.Conv2d(CHANNELS, CHANNELS, 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(CHANNELS) for _ in range(2))
        self.shortcut = shortcut if shortcut is not None else nn.Identity()
        self.inplace, self.inner, self.outer = inplace, act("swish", memory), act("frelu", memory)

    def branch(self, x: Tensor) -> Tensor:
        out = self.inner(self.norms[0](self.first(x)))
        return self.norms[1](self.second(out))

    def forward(self, x: Tensor) -> Tensor:
        out = self.branch(x)
        if self.inplace:
            out += self.shortcut(x)
        else:
            out = self.shortcut(x) + out
        return self.outer(out)


def results(
    model: nn.Module, x: Tensor, run: Callable[[nn.Module, Tensor], Tensor] = lambda m, x: m(x)
) -> list[Tensor]:
    """The values, the gradient of x, those of all parameters, and the buffers afterwards."""
    model, x = copy.deepcopy(model), x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = run(model, x)
    y.backward(y.detach().cos())
    assert x.grad is not None
    grads = [param.grad for param in model.parameters() if param.grad is not None]
    return [y.detach(), x.grad, *grads, *model.buffers()]


def keeping(model: nn.Module) -> nn.Module:
    """The same model, whose functions keep their inputs."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if hasattr(module, "recompute"):
            module.recompute = False
    return model


def assert_same(model: nn.Module, x: Tensor, run: Any = lambda m, x: m(x), recomputed: int | None = None) -> None:
    """Values and gradients are those of a model that keeps inputs, to the last bit; so many are recomputed."""
    found, nodes = results(model, x, run), []
    wanted = results(keeping(model), x, run)
    assert len(found) == len(wanted) and all(map(torch.equal, found, wanted))
    if recomputed is not None:
        y = run(copy.deepcopy(model), x.clone().requires_grad_())  # older versions of torch need it alive
        waiting = [y.grad_fn]
        while waiting:
            node = waiting.pop()
            if node is not None and node not in nodes:
                nodes.append(node)
                waiting += [behind for behind, _ in node.next_functions]
        assert sum(node.name() == "_RecomputedBackward" for node in nodes) == recomputed


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", LEARNED)
def test_gradients_are_the_same_behind_a_batch_norm(name: str, dtype: torch.dtype, training: bool) -> None:
    model = seeded(nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 1), nn.BatchNorm2d(CHANNELS), act(name, "recompute")))
    for layout in (torch.contiguous_format, torch.channels_last):
        x = images(dtype=dtype).contiguous(memory_format=layout)
        assert_same(model.to(dtype).train(training), x, recomputed=1)


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (nn.BatchNorm1d(CHANNELS), (9, CHANNELS)),
        (nn.BatchNorm1d(CHANNELS), (4, CHANNELS, 5)),
        (nn.BatchNorm3d(CHANNELS), (2, CHANNELS, 3, 4, 5)),
        (nn.BatchNorm2d(CHANNELS, affine=False), (5, CHANNELS, 6, 7)),
        (nn.BatchNorm2d(CHANNELS, track_running_stats=False, eps=0.1), (5, CHANNELS, 6, 7)),
    ],
    ids=str,
)
def test_behind_any_batch_norm(norm: nn.Module, shape: tuple[int, ...]) -> None:
    model = nn.Sequential(seeded(norm), act("pwlu", "recompute"))
    for mode in (model.train(), model.eval()):
        assert_same(mode, images(*shape), recomputed=1)


@pytest.mark.parametrize("inplace", [False, True])
def test_behind_the_sum_of_a_residual_block(inplace: bool) -> None:
    norm = nn.BatchNorm2d(CHANNELS)
    projection = nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 1), nn.BatchNorm2d(CHANNELS))
    for entry in (norm, nn.MaxPool2d(3, 1, 1), nn.Sequential(norm, nn.ReLU()), nn.Sequential(norm, nn.Tanh())):
        for shortcut in (None, projection):
            model = seeded(nn.Sequential(entry, Block("recompute", copy.deepcopy(shortcut), inplace=inplace)))
            assert_same(model, images(), recomputed=2)
            assert_same(model.eval(), images(), recomputed=2)


class Normed(nn.Module):
    """A batch norm, something else, and the function."""

    def __init__(self, between: Callable[[Tensor], Tensor], norm: nn.Module | None = None) -> None:
        super().__init__()
        self.between, self.norm = between, norm if norm is not None else nn.BatchNorm2d(CHANNELS)
        self.act = act("pwlu", "recompute")

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.between(self.norm(x)))


def frozen(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    norm.bias.requires_grad_(False)
    return norm


def hidden(x: Tensor) -> Tensor:
    """Change x in place, unseen by autograd."""
    with torch.no_grad():
        return x.clamp_(max=0.5)


ELSEWHERE: dict[str, Callable[[], nn.Module]] = {
    "another norm": lambda: Normed(lambda x: x, nn.GroupNorm(1, CHANNELS)),
    "no norm": lambda: Normed(lambda x: x, nn.Conv2d(CHANNELS, CHANNELS, 1)),
    "a frozen bias": lambda: Normed(lambda x: x, frozen(nn.BatchNorm2d(CHANNELS))),
    "scaled": lambda: Normed(lambda x: 2 * x),
    "scaled in place": lambda: Normed(lambda x: x.mul_(2)),
    "changed unseen": lambda: Normed(hidden),
    "a view": lambda: Normed(lambda x: x[:, :, 1:]),
    "a number added": lambda: Normed(lambda x: x + 1),
    "a sum with more": lambda: Normed(lambda x: torch.add(x, x, alpha=2)),
    "a sum of three": lambda: Normed(lambda x: x + x + x),
    "a wider sum": lambda: Normed(lambda x: x + x[:1]),
    "a shortcut that is padded": lambda: Block("recompute", Padded()),
}


class Padded(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :-1], (0, 0, 0, 0, 0, 1))


@pytest.mark.parametrize("where", ELSEWHERE)
def test_elsewhere_x_is_kept(where: str) -> None:
    inner = 1 if where == "a shortcut that is padded" else 0
    assert_same(seeded(ELSEWHERE[where]()), images(), recomputed=inner)


def test_the_sum_of_one_norm_with_itself_is_recomputed() -> None:
    assert_same(seeded(Normed(lambda x: x + x)), images(), recomputed=1)


def test_nothing_of_the_size_of_x_is_kept() -> None:
    def alive(memory: str, block: bool) -> bool:
        """Whether the input of the last function lives on until the backward pass."""
        last = Block(memory) if block else nn.Sequential(nn.BatchNorm2d(CHANNELS), act("pwlu", memory))
        model, entered = nn.Sequential(nn.BatchNorm2d(CHANNELS), last), []
        function = last.outer if isinstance(last, Block) else last[1]
        function.register_forward_pre_hook(lambda _, args: entered.append(weakref.ref(args[0])))
        y = model(images().requires_grad_())
        (x,) = entered
        kept = x() is not None
        y.sum().backward()
        return kept

    assert [alive(memory, block) for block in (False, True) for memory in ("keep", "recompute")] == [True, False] * 2


def test_in_eval_mode_without_gradients_nothing_changes() -> None:
    model = seeded(nn.Sequential(nn.BatchNorm2d(CHANNELS), act("pwlu", "recompute")))
    with torch.no_grad():
        assert torch.equal(model(images()), keeping(model)(images()))
    assert not model(images().requires_grad_()).is_leaf


# -- neighbours -------------------------------------------------------------------------------------------------------


def test_what_is_written_into_x_afterwards_does_no_harm() -> None:
    model = seeded(nn.Sequential(nn.BatchNorm2d(CHANNELS), act("swish", "recompute")))

    def run(model: nn.Module, x: Tensor, write: bool = True) -> Tensor:
        between = model[0](x)
        y = model[1](between)
        if write:
            between.zero_()
        return y

    found, wanted = results(model, images(), run), results(model, images(), lambda m, x: run(m, x, write=False))
    assert all(map(torch.equal, found, wanted))


@pytest.mark.parametrize("what", ["input", "weight", "bias"])
def test_what_the_norm_keeps_may_not_be_changed(what: str) -> None:
    model, x = seeded(nn.Sequential(nn.BatchNorm2d(CHANNELS), act("pwlu", "recompute"))), images()
    entering = x.requires_grad_() * 1
    y = model(entering)
    with torch.no_grad():
        (entering if what == "input" else getattr(model[0], what)).add_(1)
    with pytest.raises(RuntimeError, match=r"modified by an in-?place operation"):
        torch.autograd.grad(y.sum(), model[1].heights)


def test_a_function_may_be_used_twice_and_so_may_x() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norms = nn.ModuleList(nn.BatchNorm2d(CHANNELS) for _ in range(2))
            self.act, self.other = act("prelu", "recompute"), act("pwlu", "recompute")

        def forward(self, x: Tensor) -> Tensor:
            first = self.norms[0](x)
            return self.act(self.norms[1](self.act(first) + self.other(first) + first))

    assert_same(seeded(Twice()), images(), recomputed=3)


def test_backward_twice() -> None:
    model = seeded(nn.Sequential(nn.BatchNorm2d(CHANNELS), act("pwlu", "recompute")))
    y = model(images().requires_grad_()).sum()
    y.backward(retain_graph=True)
    once = model[1].heights.grad.clone()
    y.backward()
    assert torch.equal(model[1].heights.grad, 2 * once)
    with pytest.raises(RuntimeError, match="second time"):
        y.backward()


@pytest.mark.parametrize("block", [False, True])
@pytest.mark.parametrize("training", [True, False])
def test_second_derivatives(training: bool, block: bool) -> None:
    last = Block("recompute") if block else act("swish", "recompute")
    model = seeded(nn.Sequential(nn.BatchNorm2d(CHANNELS), last)).double().train(training)

    def second(model: nn.Module) -> list[Tensor]:
        model, x = copy.deepcopy(model), images(dtype=torch.float64).requires_grad_()
        inputs = (x, *model.parameters())
        first = torch.autograd.grad(model(x).square().sum(), inputs, create_graph=True)
        return list(torch.autograd.grad(sum(grad.square().sum() for grad in first), inputs))  # type: ignore[arg-type]

    torch.testing.assert_close(second(model), second(keeping(model)), rtol=1e-9, atol=1e-9)


def test_a_deep_network_is_taken_down() -> None:
    layers = [part for _ in range(400) for part in (nn.BatchNorm1d(1), act("prelu", "recompute", 1))]
    y = nn.Sequential(*layers)(torch.randn(2, 1, requires_grad=True))
    assert y.grad_fn.name() == "_RecomputedBackward"
    del y  # without a backward pass, which would release one node after the other


# -- surroundings -----------------------------------------------------------------------------------------------------

RUNS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "all of it": lambda model, x: checkpoint(model, x, use_reentrant=False),
    "all of it, reentrant": lambda model, x: checkpoint(model, x, use_reentrant=True),
    "the function": lambda model, x: checkpoint(model.outer, model.branch(x) + x, use_reentrant=False),
    "the branch": lambda model, x: model.outer(checkpoint(model.branch, x, use_reentrant=False) + x),
    "what is in front": lambda model, x: model(checkpoint(torch.tanh, x, use_reentrant=False)),
    "the shortcut": lambda model, x: model.outer(model.branch(x) + checkpoint(torch.tanh, x, use_reentrant=False)),
}


@pytest.mark.parametrize("what", RUNS)
def test_under_checkpoints(what: str) -> None:
    model = seeded(Block("recompute"))
    found, wanted = results(model, images(), RUNS[what]), results(keeping(model), images(), RUNS[what])
    assert len(found) == len(wanted) and all(map(torch.equal, found, wanted))


def test_where_saved_tensors_have_hooks_x_is_one_of_them() -> None:
    def saved(model: nn.Module) -> list[torch.Size]:
        shapes: list[torch.Size] = []

        def pack(tensor: Tensor) -> Tensor:
            shapes.append(tensor.shape)
            return tensor.clone()

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            y = model(images().requires_grad_())
        y.sum().backward()
        return shapes

    model = seeded(nn.Sequential(nn.BatchNorm2d(CHANNELS), act("pwlu", "recompute")))
    assert saved(model) == saved(keeping(model))
    assert_same(model, images(), lambda model, x: _on_cpu(model, x), recomputed=0)


def _on_cpu(model: nn.Module, x: Tensor) -> Tensor:
    with torch.autograd.graph.save_on_cpu():
        return model(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["pwlu", "swish"])
def test_under_autocast(name: str) -> None:
    model = nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 1), nn.BatchNorm2d(CHANNELS), act(name, "recompute"))

    def run(model: nn.Module, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model(x)  # type: ignore[no-any-return]

    assert_same(seeded(model), images(), run, recomputed=1)


def test_in_half_precision_statistics_are_computed_again() -> None:
    model = nn.Sequential(nn.BatchNorm2d(CHANNELS), act("pwlu", "recompute"))
    assert_same(seeded(model).bfloat16(), images(dtype=torch.bfloat16), recomputed=1)


def test_transformed_by_torch_func() -> None:
    model = seeded(nn.Sequential(nn.BatchNorm2d(CHANNELS), act("pwlu", "recompute"))).eval()
    params, x = dict(model.named_parameters()), images()
    found, kept = torch.func.grad(lambda own: torch.func.functional_call(model, own, x).sum())(params), keeping(model)
    kept(x).sum().backward()
    torch.testing.assert_close(list(found.values()), [param.grad for param in kept.parameters()])


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_scripted() -> None:
    model = seeded(nn.Sequential(nn.BatchNorm2d(CHANNELS), act("prelu", "recompute"))).eval()
    torch.testing.assert_close(torch.jit.script(model)(images()), model(images()))


@pytest.mark.slow
def test_compiled_models_decide_themselves() -> None:
    model = seeded(Block("recompute"))
    torch.compiler.reset()
    run = torch.compile(lambda model, x: model(x), backend="aot_eager", fullgraph=True)
    found, wanted = results(model, images(), run), results(model, images())
    # The gradients of what a norm takes away, the biases in front of it, are nothing but rounding.
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    model = seeded(nn.Sequential(nn.BatchNorm2d(CHANNELS), Block("recompute"))).cuda()
    found, wanted = results(model, images().cuda()), results(keeping(model), images().cuda())
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert source_of(nn.BatchNorm2d(CHANNELS).cuda()(images().cuda().requires_grad_())) is not None


# -- the option -------------------------------------------------------------------------------------------------------


def test_every_learned_function_has_the_option_and_no_other() -> None:
    for name in activations.names():
        assert ("memory" in activations.parameters(name)) == (name in LEARNED), name
    for name in LEARNED:
        assert activations.build(name, 2, memory="recompute").recompute
        assert not activations.build(name, 2, memory="keep").recompute and not activations.build(name, 2).recompute
        assert "memory='keep' ('keep' or 'recompute')" in activations.describe(name)


def test_another_word_is_refused() -> None:
    assert check_memory("recompute") and not check_memory("keep")
    assert_raises(surgery.BadValue, lambda: check_memory("forget"), "memory='forget'", "'recompute'")
    assert_raises(surgery.BadValue, lambda: activations.build("pwlu", memory="forget"), "'recompute'")


def test_an_edited_model_recomputes_and_so_does_what_is_loaded(tmp_path: Path) -> None:
    def fresh() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 1), nn.BatchNorm2d(CHANNELS), nn.ReLU())

    edited, report = surgery.transform(fresh(), surgery.swap("pwlu", memory="recompute"), images())
    assert edited[2].recompute and dict(report.plan.edits[0].params) == {"memory": "recompute"}
    assert_same(edited, images(), recomputed=1)
    surgery.save(edited, tmp_path)
    loaded = surgery.load(tmp_path, model=fresh())
    assert_same(loaded, images(), recomputed=1)
    assert "recompute" in repr(loaded[2]) and "recompute" not in repr(keeping(loaded)[2])
