"""Pruned weights stay zero with every optimiser, and the others train as without masks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.optim import Lookahead, create_optimizer_v2
from timm.utils import ModelEmaV3
from torch import Tensor, nn, optim
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from pruning.masks.hold import is_held
from pruning.masks.masks import Masks
from surgery.errors import BadValue, CannotLook, WrongModel
from tests.asserts import assert_bit_equal, assert_raises, assert_untouched
from tests.processes import in_two
from tests.pruning.tiny import (
    assert_held,
    loss_of,
    pruned_counts,
    random_masks,
    tiny_net,
    weights,
    zero_counts,
)

Make = Callable[[Iterable[nn.Parameter]], Optimizer]

WARM = 5  # steps before the weights are pruned: momentum points somewhere by then


def made(kind: type[Optimizer], **options: Any) -> Make:
    return lambda params: kind(params, **options)


def from_timm(name: str, lr: float = 0.01, **options: Any) -> Make:
    return lambda params: create_optimizer_v2(list(params), opt=name, lr=lr, weight_decay=0.01, **options)


SGD = made(optim.SGD, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01)
ADAM = made(optim.Adam, lr=0.01)

KINDS: dict[str, tuple[type[Optimizer], dict[str, Any]]] = {
    "sgd": (optim.SGD, dict(lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01)),
    "adam": (optim.Adam, dict(lr=0.01, weight_decay=0.01)),
    "adam_amsgrad": (optim.Adam, dict(lr=0.01, amsgrad=True)),
    "adamw": (optim.AdamW, dict(lr=0.01)),
    "adamw_amsgrad": (optim.AdamW, dict(lr=0.01, amsgrad=True)),
    "adagrad": (optim.Adagrad, dict(lr=0.02)),
}
WAYS = {"loop": dict(foreach=False), "foreach": dict(foreach=True), "fused": dict(fused=True)}

OPTIMISERS: dict[str, Make] = {
    **{f"{name}-{way}": made(kind, **options, **extra)
       for name, (kind, options) in KINDS.items() for way, extra in WAYS.items()},
    "sgd_plain": made(optim.SGD, lr=0.05),
    "rmsprop-loop": made(optim.RMSprop, lr=0.005, momentum=0.9, centered=True, foreach=False),
    "rmsprop-foreach": made(optim.RMSprop, lr=0.005, momentum=0.9, centered=True, foreach=True),
    "nadam-loop": made(optim.NAdam, lr=0.01, foreach=False),
    "nadam-foreach": made(optim.NAdam, lr=0.01, foreach=True),
    "radam": made(optim.RAdam, lr=0.01),
    "adadelta": made(optim.Adadelta, lr=1.0),
    "adamax": made(optim.Adamax, lr=0.01),
    "asgd": made(optim.ASGD, lr=0.05, t0=10),
    "rprop": made(optim.Rprop, lr=0.001),
    "adafactor": made(optim.Adafactor, lr=0.01),
    **{f"timm_{name}": from_timm(name) for name in (
        "lamb", "lion", "adan", "nadamw", "madgrad", "adamp", "adabelief", "muon", "adafactor", "laprop", "mars",
        "lookahead_adamw", "lookahead_lion",
    )},
    **{f"timm_{name}": from_timm(name, lr=0.05, momentum=0.9) for name in ("lars", "sgdp", "sgdw", "lookahead_sgd")},
}  # fmt: skip


def train(
    model: nn.Module, optimizer: Optimizer, steps: int, first: int = 0, after: Callable[[], None] | None = None
) -> None:
    """Make a number of steps; `after` is called after each."""
    for step in range(first, first + steps):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()
        if after is not None:
            after()


def inner(optimizer: Optimizer) -> Optimizer:
    return optimizer._base_optimizer if isinstance(optimizer, Lookahead) else optimizer


def kept(optimizer: Optimizer, param: nn.Parameter) -> list[Tensor]:
    """The state of an optimiser that has the shape of a weight."""
    state = inner(optimizer).state.get(param, {})
    return [tensor for tensor in state.values() if isinstance(tensor, Tensor) and tensor.shape == param.shape]


def warm(make: Make, steps: int = WARM) -> tuple[nn.Sequential, Optimizer]:
    model = tiny_net()
    optimizer = make(model.parameters())
    train(model, optimizer, steps)
    return model, optimizer


@torch.no_grad()
def masked_by_hand(model: nn.Module, masks: Masks) -> None:
    for name, param in model.named_parameters():
        if name in masks:
            param.mul_(masks[name])


@torch.no_grad()
def pruned_by_hand(model: nn.Module, optimizer: Optimizer, masks: Masks) -> None:
    """The weights and their optimiser state, as a list of tensors."""
    masked_by_hand(model, masks)
    for name, param in model.named_parameters():
        for tensor in kept(optimizer, param) if name in masks else []:
            tensor.mul_(masks[name])


def test_without_holding_they_come_back() -> None:
    model, optimizer = warm(SGD)
    masks = random_masks(model)
    masks.lay_over(model)
    assert zero_counts(model, masks) == pruned_counts(masks)
    train(model, optimizer, 1, WARM)
    assert set(zero_counts(model, masks).values()) == {0}, "the bug that this file is about is not there to be seen"


@pytest.mark.parametrize("name", OPTIMISERS)
def test_zeros_after_one_step_and_after_a_hundred(name: str) -> None:
    model, optimizer = warm(OPTIMISERS[name])
    masks = random_masks(model)
    before = {key: tensor.clone() for key, tensor in weights(model, masks).items()}
    with masks.held(model, optimizer):
        assert_held(model, masks)
        for key, param in model.named_parameters():
            for tensor in kept(optimizer, param) if key in masks else []:
                assert not tensor[~masks[key]].any(), f"{name} remembers pruned weights of {key}"
        train(model, optimizer, 1, WARM)
        assert zero_counts(model, masks) == pruned_counts(masks)
        assert_held(model, masks)
        train(model, optimizer, 99, WARM + 1)
        assert zero_counts(model, masks) == pruned_counts(masks)
        assert_held(model, masks)
    for key, weight in weights(model, masks).items():
        assert weight.isfinite().all()
        assert (weight != before[key])[masks[key]].float().mean() > 0.9, f"{name} did not train {key}"


@pytest.mark.parametrize("name", OPTIMISERS)
def test_living_weights_train_as_in_a_loop_written_by_hand(name: str) -> None:
    model, optimizer = warm(OPTIMISERS[name])
    masks = random_masks(model)
    with masks.held(model, optimizer):
        train(model, optimizer, 20, WARM)

    slow, slow_optimizer = warm(OPTIMISERS[name])
    pruned_by_hand(slow, slow_optimizer, masks)
    train(slow, slow_optimizer, 20, WARM, after=lambda: masked_by_hand(slow, masks))

    assert_bit_equal(model.state_dict().values(), slow.state_dict().values(), "state")
    for (key, param), other in zip(model.named_parameters(), slow.parameters(), strict=True):
        unpruned = masks.get(key, ...)
        ours, theirs = kept(optimizer, param), kept(slow_optimizer, other)
        assert_bit_equal(
            [state[unpruned] for state in ours], [state[unpruned] for state in theirs], "optimiser's state"
        )


@pytest.mark.parametrize("name", ["timm_lookahead_adamw", "timm_lookahead_sgd"])
def test_slow_copies_of_lookahead_are_cleared(name: str) -> None:
    model, optimizer = warm(OPTIMISERS[name], steps=7)  # the slow copy is made at step 6
    masks = random_masks(model)
    with masks.held(model, optimizer):
        for key, param in model.named_parameters():
            if key in masks:
                slow = inner(optimizer).state[param]["lookahead_slow_buff"]
                assert torch.equal(slow != 0, masks[key])


class Wrapping(Optimizer):
    """Another kind of wrapper: it has hooks that are never called, and stores its optimiser under another name."""

    def __init__(self, inside: Optimizer) -> None:
        super().__init__(inside.param_groups, {})
        self.inside = inside

    def step(self, closure: Any = None) -> None:
        raise AssertionError("it is not called")


def test_the_optimiser_inside_any_wrapper_is_found() -> None:
    model, optimizer = warm(SGD)
    masks = random_masks(model)
    with masks.held(model, Wrapping(Wrapping(optimizer))):
        train(model, optimizer, 10, WARM)
        assert_held(model, masks)


def test_closures() -> None:
    model, optimizer = warm(SGD)
    masks = random_masks(model)
    for stepper in (optimizer, optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)):
        with masks.held(model, stepper):
            for step in range(5):

                def closure(step: int = step, stepper: Optimizer = stepper) -> Tensor:
                    stepper.zero_grad()
                    loss = loss_of(model, step)
                    loss.backward()
                    return loss

                assert stepper.step(closure) is not None
                assert_held(model, masks)


# Ways to train. Each makes 100 steps, from step WARM on, and calls `seen` after each step of the optimiser.


def accumulating(model: nn.Module, optimizer: Optimizer, seen: Callable[[], None]) -> None:
    for step in range(200):
        (loss_of(model, step) / 2).backward()
        if step % 2:
            optimizer.step()
            optimizer.zero_grad()
            seen()


def scaling(model: nn.Module, optimizer: Optimizer, seen: Callable[[], None], clip: bool = False) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=20)
    assert scaler.is_enabled()
    for step in range(100):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model, step)
        scaled = scaler.scale(loss)
        (scaled * float("inf") if step == 50 else scaled).backward()  # such a step is skipped
        if clip:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        scaler.step(optimizer)
        scaler.update()
        seen()
    assert scaler.get_scale() != 2.0**10, "the scaler did nothing"


def clipping(model: nn.Module, optimizer: Optimizer, seen: Callable[[], None]) -> None:
    for step in range(100):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        assert nn.utils.clip_grad_norm_(model.parameters(), 0.01) > 0.01
        optimizer.step()
        seen()


def scheduled(model: nn.Module, optimizer: Optimizer, seen: Callable[[], None]) -> None:
    schedule = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.05, total_steps=100)
    for step in range(100):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()
        schedule.step()
        seen()


def compiled_model(model: nn.Module, optimizer: Optimizer, seen: Callable[[], None]) -> None:
    train(torch.compile(model, backend="aot_eager"), optimizer, 100, after=seen)


def compiled_optimizer(model: nn.Module, optimizer: Optimizer, seen: Callable[[], None]) -> None:
    step_of = torch.compile(optimizer.step, backend="aot_eager")
    for step in range(100):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        step_of()
        seen()


def compiled_whole(model: nn.Module, optimizer: Optimizer, seen: Callable[[], None]) -> None:
    images = [torch.randn(4, 2, 6, 6) for _ in range(100)]

    def whole(x: Tensor) -> None:
        optimizer.zero_grad()
        (model(x) - 1).square().mean().backward()
        optimizer.step()

    run = torch.compile(whole, backend="eager")
    for image in images:
        run(image)
        seen()


WAYS_TO_TRAIN: dict[str, Callable[[nn.Module, Optimizer, Callable[[], None]], None]] = {
    "accumulating": accumulating,
    "scaling": scaling,
    "scaling_and_clipping": lambda *args: scaling(*args, clip=True),
    "clipping": clipping,
    "scheduled": scheduled,
    "compiled_model": compiled_model,
    "compiled_optimizer": compiled_optimizer,
    "compiled_whole": compiled_whole,
}
USED = {"sgd": OPTIMISERS["sgd-foreach"], "adamw": OPTIMISERS["adamw-loop"], "fused": OPTIMISERS["adam-fused"]}


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")  # of the compiler, about Python and itself
@pytest.mark.parametrize(
    ("name", "way"),
    [pytest.param(name, way, marks=[pytest.mark.slow] if way.startswith("compiled") and name != "sgd" else [])
     for name in USED for way in WAYS_TO_TRAIN],
)  # fmt: skip
def test_ways_to_train(name: str, way: str) -> None:
    model, optimizer = warm(USED[name])
    masks = random_masks(model)
    before = {key: tensor.clone() for key, tensor in weights(model, masks).items()}
    steps = []

    def seen() -> None:
        steps.append(zero_counts(model, masks))
        assert_held(model, masks)

    with masks.held(model, optimizer):
        WAYS_TO_TRAIN[way](model, optimizer, seen)
    assert len(steps) == 100
    assert steps[0] == steps[-1] == pruned_counts(masks)
    assert all((value != before[key])[masks[key]].any() for key, value in weights(model, masks).items())


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_a_step_compiled_before_is_held_from_then_on() -> None:
    model, optimizer = warm(SGD)
    run = torch.compile(optimizer.step, backend="eager")

    def steps(count: int) -> None:
        for step in range(count):
            optimizer.zero_grad()
            loss_of(model, step).backward()
            run()

    steps(3)
    masks = random_masks(model)
    with masks.held(model, optimizer):
        steps(5)
        assert_held(model, masks)
        tighter = masks & random_masks(model, seed=2)
        with tighter.held(model, optimizer):
            steps(5)
            assert_held(model, tighter)
    steps(1)
    assert zero_counts(model, masks) != pruned_counts(masks), "held for ever"


def train_in_parallel(rank: int, folder: Path) -> None:
    parallel = nn.parallel.DistributedDataParallel(tiny_net())
    model = parallel.module
    optimizer = optim.SGD(parallel.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01)

    def steps(first: int, count: int) -> None:
        for step in range(first, first + count):
            optimizer.zero_grad()
            loss_of(parallel, 2 * step + rank).backward()
            optimizer.step()

    steps(0, 5)
    masks = random_masks(model)
    with masks.held(model, optimizer):
        steps(5, 1)
        assert zero_counts(model, masks) == pruned_counts(masks)
        steps(6, 99)
        assert zero_counts(model, masks) == pruned_counts(masks)
        assert_held(model, masks)
    torch.save(dict(model.named_parameters()), folder / f"{rank}.pt")


def test_one_process_of_several(tmp_path: Path) -> None:
    meeting = f"file://{tmp_path / 'meeting'}"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(tiny_net())
        optimizer = SGD(parallel.parameters())
        train(parallel, optimizer, WARM)
        masks = random_masks(parallel.module)
        assert_raises(CannotLook, lambda: masks.held(parallel, optimizer), "model.module")
        with masks.held(parallel.module, optimizer):
            train(parallel, optimizer, 100, WARM, after=lambda: assert_held(parallel.module, masks))
    finally:
        torch.distributed.destroy_process_group()


def test_two_processes(tmp_path: Path) -> None:
    in_two(train_in_parallel, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in (0, 1))
    assert_bit_equal(first.values(), second.values(), "weights of two processes")
    assert any((first[name] != param).any() for name, param in tiny_net().named_parameters())


def test_copies_follow() -> None:
    """EMA copies have no pruned weights on the way in, at every update, and on the way out."""
    model, optimizer = warm(SGD, steps=2)
    average, swa = ModelEmaV3(model, decay=0.9), AveragedModel(model)
    train(model, optimizer, 3, after=lambda: average.update(model))
    masks = random_masks(model)

    def both_held() -> None:
        average.update(model)
        swa.update_parameters(model)
        for network in (model, average.module, swa.module):
            assert_held(network, masks)

    with masks.held(model, optimizer, also=[average.module, swa.module]):
        assert_held(average.module, masks)
        train(model, optimizer, 100, after=both_held)
        average.module.load_state_dict(tiny_net().state_dict())  # an old average comes back inside
    assert_held(average.module, masks)


def test_copies_are_held_only_where_asked() -> None:
    model, optimizer = warm(SGD)
    average = ModelEmaV3(model, decay=0.9)
    masks = random_masks(model)
    with masks.held(model, optimizer):
        pass
    assert zero_counts(average.module, masks) == dict.fromkeys(masks, 0)


def split(model: nn.Sequential) -> list[Optimizer]:
    return [SGD(model[:3].parameters()), ADAM(model[3:].parameters())]


def test_several_optimisers() -> None:
    model = tiny_net()
    optimizers = split(model)
    masks = random_masks(model)

    def steps(count: int) -> None:
        for step in range(count):
            loss_of(model, step).backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()

    steps(5)
    with masks.held(model, optimizers):
        steps(100)
        assert_held(model, masks)
    with masks.held(model, optimizers[0]):
        steps(1)
        assert zero_counts(model, masks) == {"0.weight": pruned_counts(masks)["0.weight"], "4.weight": 0}
        with masks.held(model, iter(optimizers)):
            steps(2)
            assert_held(model, masks)


def test_one_optimiser_for_each_weight() -> None:
    """Like optimisers that step in the backward pass."""
    model = tiny_net()
    for param in model.parameters():
        own = SGD([param])
        param.own = own  # type: ignore[attr-defined]

        def after_backward(_: Tensor, own: Optimizer = own) -> None:
            own.step()
            own.zero_grad()

        param.register_post_accumulate_grad_hook(after_backward)
    for step in range(5):
        loss_of(model, step).backward()
    masks = random_masks(model)
    with masks.held(model, [param.own for param in model.parameters()]):  # type: ignore[attr-defined]
        for step in range(100):
            loss_of(model, step).backward()
            assert_held(model, masks)


def test_frozen_weights_stay_zero_and_thaw() -> None:
    model = tiny_net()
    model[0].requires_grad_(False)
    optimizer = SGD([param for param in model.parameters() if param.requires_grad])
    masks = random_masks(model)
    with masks.held(model, optimizer):
        train(model, optimizer, 10)
        assert_held(model, masks)
        frozen = model[0].weight.detach().clone()
        model[0].requires_grad_(True)
        optimizer.add_param_group({"params": list(model[0].parameters())})
        train(model, optimizer, 10, 10, after=lambda: assert_held(model, masks))
        assert (model[0].weight != frozen).any()


def test_frozen_in_the_optimiser() -> None:
    model, optimizer = warm(SGD)
    masks = random_masks(model)
    model[4].requires_grad_(False)
    with masks.held(model, optimizer):
        train(model, optimizer, 100, WARM)
        assert_held(model, masks)


@pytest.mark.parametrize("name", ["sgd-foreach", "adamw-loop", "adam-fused", "timm_lamb"])
def test_a_learning_rate_of_zero(name: str) -> None:
    model, optimizer = warm(OPTIMISERS[name])
    masks = random_masks(model)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    wanted = {key: value * masks[key] for key, value in weights(model, masks).items()}
    with masks.held(model, optimizer):
        train(model, optimizer, 10, WARM)
    assert all(torch.equal(value, wanted[key]) for key, value in weights(model, masks).items())


def test_masks_that_tighten_inside_and_afterwards() -> None:
    model, optimizer = warm(ADAM)
    masks = [random_masks(model, 0.8, seed=1)]
    for seed in (2, 3, 4):
        masks.append(masks[-1] & random_masks(model, 0.8, seed=seed))
    with masks[0].held(model, optimizer):
        train(model, optimizer, 10)
        with masks[1].held(model, optimizer):
            assert all(not tensor[~masks[1]["4.weight"]].any() for tensor in kept(optimizer, model[4].weight))
            train(model, optimizer, 10, after=lambda: assert_held(model, masks[1]))
        train(model, optimizer, 10)
        weight = model[4].weight.detach()
        assert not weight[~masks[0]["4.weight"]].any()
        assert weight[masks[0]["4.weight"]].count_nonzero() > masks[1]["4.weight"].sum(), "held for ever"
    for mask in masks[1:]:
        with mask.held(model, optimizer):
            train(model, optimizer, 10)
            assert_held(model, mask)


def hooks_of(optimizer: Optimizer) -> int:
    return len(optimizer._optimizer_step_post_hooks) + len(optimizer._optimizer_step_pre_hooks)


def test_nothing_is_left_behind_after_an_exception() -> None:
    model, optimizer = warm(SGD)
    masks = random_masks(model)
    wrapper = Lookahead(SGD(model.parameters()))
    with pytest.raises(KeyboardInterrupt), masks.held(model, [optimizer, wrapper]):
        assert [hooks_of(each) for each in (optimizer, wrapper, wrapper._base_optimizer)] == [1, 1, 1]
        train(model, optimizer, 2)
        raise KeyboardInterrupt
    assert [hooks_of(each) for each in (optimizer, wrapper, wrapper._base_optimizer)] == [0, 0, 0]
    assert_held(model, masks)
    train(model, optimizer, 1)
    assert zero_counts(model, masks) != pruned_counts(masks)


def test_numbers_that_are_not_finite_do_not_outlive_it() -> None:
    model, optimizer = warm(SGD)
    masks = random_masks(model)
    with masks.held(model, optimizer), torch.no_grad():
        model[4].weight.fill_(float("nan"))
    assert not model[4].weight[~masks["4.weight"]].any()


@pytest.mark.parametrize("nothing", [(), None, "sgd", [1]], ids=str)
def test_masks_are_held_while_an_optimiser_steps(nothing: Any) -> None:
    model = tiny_net()
    with assert_untouched(model):
        assert_raises(BadValue, lambda: random_masks(model).held(model, nothing), "optimiser")


def test_everything_may_be_pruned() -> None:
    model, optimizer = warm(SGD)
    masks = random_masks(model)
    nothing = Masks({name: torch.zeros_like(mask) for name, mask in masks.items()})
    with nothing.held(model, optimizer):
        train(model, optimizer, 3)
        assert zero_counts(model, masks) == {name: mask.numel() for name, mask in masks.items()}


def test_what_another_optimiser_revives_is_told_at_the_end() -> None:
    model, optimizer = warm(SGD)
    masks, other = random_masks(model), torch.optim.SGD(model.parameters(), 0.1)

    def step_with_the_wrong_one() -> None:
        with masks.held(model, optimizer):
            train(model, other, 1)

    assert_raises(BadValue, step_with_the_wrong_one, "not zero any more", "held(optimizer)")
    assert_held(model, masks)


def test_weights_that_are_exchanged_inside_are_told_at_the_end() -> None:
    model, optimizer = warm(SGD)
    masks = random_masks(model)

    def load() -> None:
        with masks.held(model, optimizer):
            model.load_state_dict({name: value + 1 for name, value in model.state_dict().items()}, assign=True)

    assert_raises(BadValue, load, "are not zero any more")


def test_as_many_other_parameters_are_held_too() -> None:
    model, optimizer = warm(SGD)
    masks = random_masks(model)
    params = optimizer.param_groups[0]["params"]
    half = len(params) // 2
    first, second = params[:half], params[half : 2 * half]
    optimizer.param_groups[0]["params"] = list(first)
    with masks.held(model, optimizer):
        optimizer.param_groups[0]["params"] = list(second)
        train(model, optimizer, 2)
        assert_held(model, masks)


def test_the_optimiser_has_forgotten_pruned_weights_at_the_end() -> None:
    model, optimizer = warm(SGD)
    masks = random_masks(model)
    with masks.held(model, optimizer):
        assert is_held(optimizer)
        train(model, optimizer, 3)
    assert not is_held(optimizer)
    for param, mask in masks.pairs(model):
        assert not optimizer.state[param]["momentum_buffer"][~mask].any()


def test_everything_may_live() -> None:
    model, optimizer = warm(SGD)
    with Masks.full(model).held(model, optimizer):
        train(model, optimizer, 20, WARM)
    free, free_optimizer = warm(SGD)
    train(free, free_optimizer, 20, WARM)
    assert_bit_equal(model.state_dict().values(), free.state_dict().values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions(dtype: torch.dtype) -> None:
    model = tiny_net()
    model[4].to(dtype)
    optimizer = SGD(model.parameters())

    def steps(count: int) -> None:
        for step in range(count):
            optimizer.zero_grad()
            x = model[:4](torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(step)))
            (model[4](x.to(dtype)).float() - 1).square().mean().backward()
            optimizer.step()

    steps(3)
    masks = random_masks(model)
    with masks.held(model, optimizer):
        steps(100)
        assert all(not value[~masks[name]].any() for name, value in weights(model, masks).items())
    assert model[4].weight.dtype == dtype


def test_weights_of_two_names() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    model[2].weight = model[0].weight
    optimizer = ADAM(model.parameters())
    masks = random_masks(model)
    assert list(masks) == ["0.weight"]
    with masks.held(model, optimizer):
        for step in range(100):
            optimizer.zero_grad()
            model(torch.randn(4, 6, generator=torch.Generator().manual_seed(step))).square().mean().backward()
            optimizer.step()
        assert_held(model, masks)


def test_refusals_change_nothing() -> None:
    model, optimizer = warm(SGD)
    masks, other = random_masks(model), ADAM(copy.deepcopy(model).parameters())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    foreign = tiny_net()
    foreign[4] = nn.Linear(64, 5)
    compiled = torch.compile(model, backend="eager")
    for error, call, *words in [
        (BadValue, lambda: masks.held(model, other).__enter__(), "has none", "model.parameters()"),
        (WrongModel, lambda: masks.held(foreign, optimizer), "4.weight", "(3, 64)", "(5, 64)"),
        (WrongModel, lambda: masks.held(model, optimizer, also=[foreign]), "4.weight", "(5, 64)"),
        (WrongModel, lambda: masks.held(nn.Linear(2, 2), optimizer), "0.weight"),
        (CannotLook, lambda: masks.held(compiled, optimizer), "_orig_mod"),
        (CannotLook, lambda: masks.held(model, optimizer, also=[nn.DataParallel(model)]), "model.module"),
    ]:
        assert_raises(error, call, *words)
    assert hooks_of(optimizer) == 0
    assert_bit_equal(model.state_dict().values(), before.values())


SHAPES = st.sampled_from([(1, 1), (3, 2), (2, 7), (5, 5), (8, 3)])
ALL = st.sampled_from(sorted(OPTIMISERS))


@pytest.mark.slow
@settings(max_examples=60)
@given(
    name=ALL, shape=SHAPES, kernel=st.integers(1, 3), shares=st.lists(st.floats(0, 1), min_size=1, max_size=4),
    steps=st.lists(st.integers(0, 4), min_size=4, max_size=4), seed=st.integers(0, 2**16), nested=st.booleans(),
)  # fmt: skip
def test_whatever_is_pruned_and_whenever(
    name: str, shape: tuple[int, int], kernel: int, shares: list[float], steps: list[int], seed: int, nested: bool
) -> None:
    """Masks that tighten at random steps: zeros exactly where they should be, everything else as in the slow loop."""
    wide, high = shape
    torch.manual_seed(seed)
    start = nn.Sequential(nn.Conv1d(wide, high, kernel), nn.Tanh(), nn.Flatten(), nn.Linear(high * 3, 2))
    images = torch.randn(40, 3, wide, kernel + 2)
    model, slow = copy.deepcopy(start), copy.deepcopy(start)
    optimizer, slow_optimizer = (OPTIMISERS[name](module.parameters()) for module in (model, slow))

    def run(which: nn.Module, stepper: Optimizer, first: int, count: int, masks: Masks | None = None) -> None:
        for step in range(first, first + count):
            stepper.zero_grad()
            (which(images[step]) - 1).square().mean().backward()
            stepper.step()
            if masks is not None:
                masked_by_hand(which, masks)

    run(model, optimizer, 0, 2)
    run(slow, slow_optimizer, 0, 2)
    masks, done, open_contexts = Masks.full(model), 2, []
    for share, count in zip(shares, steps, strict=False):
        masks = masks & random_masks(model, share, seed=seed + done)
        context = masks.held(model, optimizer)
        context.__enter__()
        open_contexts.append(context)
        run(model, optimizer, done, count)
        for key, value in weights(model, masks).items():
            assert not value[~masks[key]].any(), f"{name}, {key}"
        if not nested:
            open_contexts.pop().__exit__(None, None, None)
        pruned_by_hand(slow, slow_optimizer, masks)
        run(slow, slow_optimizer, done, count, masks)
        assert_bit_equal(model.state_dict().values(), slow.state_dict().values(), name)
        done += count
    for context in reversed(open_contexts):
        context.__exit__(None, None, None)
    assert hooks_of(optimizer) == 0
