"""Fine-tuning: the loop learns, in one and in two processes, and a resumed run ends like an uninterrupted one."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, distributed, nn

import pruning
import surgery
from pruning.masks.masks import Masks
from pruning.rounds.rewind import tensors_of
from recipes.format.options import options_of
from recipes.format.settings import OPTIMIZERS, Finetune
from recipes.train import checkpoint
from recipes.train.finetune import accuracy, finetune
from recipes.train.loss import body_of
from surgery.activations import Fade
from surgery.errors import BadValue, SurgeryError, WrongModel
from surgery.schedule.progress import progress_of
from tests.asserts import assert_bit_equal, assert_raises
from tests.killing import Clock, kill
from tests.processes import called, forked, in_two


@dataclass(frozen=True)
class Random:
    """A feed of random images whose left half encodes the label; `rank` of `world` gets its slice of every batch."""

    steps: int = 4
    size: int = 8
    rank: int = 0
    world: int = 1
    side: int = 6

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in range(start, self.steps):
            drawn = torch.Generator().manual_seed(1000 * number + batch)
            images = torch.randn(self.size * self.world, 3, self.side, self.side, generator=drawn)
            labels = (images[..., : self.side // 2].mean((1, 2, 3)) > 0).long()
            own = slice(self.rank * self.size, (self.rank + 1) * self.size)
            yield images[own].clone(), labels[own]


class Log:
    """A journal that records its calls, and drops rows that a resumed training repeats."""

    def __init__(self) -> None:
        self.begun: list[tuple[Any, ...]] = []
        self.losses: list[float | None] = []
        self.images = 0
        self.rows: list[Mapping[str, float]] = []

    def begin(self, phase: str, epochs: int, steps: int, *, epoch: int = 0, step: int = 0) -> None:
        self.begun.append((phase, epochs, steps, epoch, step))

    def step(self, loss: float | None, images: int) -> None:
        self.losses.append(loss)
        self.images += images

    def epoch(self, row: Mapping[str, float]) -> None:
        self.rows.append(dict(row))


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def net(norm: bool = False) -> nn.Module:
    """A small network: a convolution, optionally a norm, a classifier of two classes."""
    return seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3), *([nn.BatchNorm2d(4)] if norm else []), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)
        )
    )


def trained(model: nn.Module | None = None, feed: Any = None, log: Log | None = None, **options: Any) -> nn.Module:
    """A network after two short epochs; other keywords are passed to `finetune`."""
    model = net() if model is None else model
    known = options_of(Finetune)
    rest = {name: options.pop(name) for name in list(options) if name not in known}
    asked = Finetune(**{"epochs": 2, "lr": 0.05, "batch_size": 8, **options})
    finetune(model, Random() if feed is None else feed, asked, journal=log, **rest)
    return model


def state(model: nn.Module) -> list[Tensor]:
    return [tensor.clone() for tensor in tensors_of(model).values()]


def apart(first: nn.Module, other: nn.Module) -> float:
    pairs = zip(state(first), state(other), strict=True)
    return max(float((a.double() - b.double()).abs().max()) for a, b in pairs)


# It learns


def test_the_loss_falls_and_the_journal_hears_of_it() -> None:
    log, test = Log(), list(Random(size=32).epoch(99))
    before = accuracy(net(True), test)
    model = trained(net(True), Random(steps=6, size=32), log, epochs=6, lr=0.1, test=test, phase="mine")
    losses = [row["loss"] for row in log.rows]
    assert len(losses) == 6 and losses[-1] < 0.6 * losses[0]
    assert log.rows[-1]["top1"] == accuracy(model, test) > max(before, 0.8)
    assert log.begun == [("mine", 6, 6, 0, 0)]
    assert log.images == 6 * 6 * 32
    read = [number for number, loss in enumerate(log.losses, 1) if loss is not None]
    assert read == [6, 10, 12, 18, 20, 24, 30, 36]
    assert not model.training and all(not module.training for module in model.modules())


def test_the_rate_that_is_told_is_that_of_the_last_step() -> None:
    log = Log()
    trained(log=log, epochs=2, lr=1.0, sched="step", decay_epochs=1, decay_rate=0.5)
    assert [row["lr"] for row in log.rows] == [1.0, 0.5]


def test_the_loss_of_an_epoch_is_the_mean_of_its_steps() -> None:
    log = Log()
    trained(log=log, epochs=2, lr=0.0)
    model, losses = net(), []
    for images, labels in Random().epoch(1):
        losses.append(float(nn.functional.cross_entropy(model(images), labels).detach()))
    assert log.rows[1]["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-6)


def test_no_epochs_only_settle() -> None:
    model = net()
    surgery.transform_(model, surgery.swap("identity", fade=True), torch.randn(2, 3, 6, 6))
    before = state(model)[:4]
    trained(model.train(), epochs=0)
    assert not isinstance(model[1], Fade) and not model.training
    assert_bit_equal(state(model), before)


@pytest.mark.parametrize("ema", [False, True])
def test_what_fades_is_settled_at_the_end_or_left(ema: bool) -> None:
    model = net()
    surgery.transform_(model, surgery.swap("identity", fade=True), torch.randn(2, 3, 6, 6))
    trained(model, model_ema=ema, settle=False)
    assert progress_of(model) == (1.0, 8) and float(model[1].progress) == 1.0
    trained(model, model_ema=ema)
    assert not isinstance(model[1], Fade)


def test_the_same_call_gives_the_same_weights_and_another_seed_others() -> None:
    make = partial(seeded, lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(108, 2)))
    first, torch_state = trained(make(), seed=3), torch.get_rng_state()
    torch.manual_seed(77)
    other = trained(make(), seed=3)
    assert_bit_equal(state(first), state(other))
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert apart(trained(make(), seed=4), first) > 1e-4


# Every option does something. `crop`, `hflip`, `cutout`, `aa`, `reprob` are the feed's; `fit_affine`, `recalibrate`
# belong to the surgery before.

OF_OTHERS = {"batch_size", "crop", "hflip", "cutout", "aa", "reprob", "fit_affine", "recalibrate"}

EFFECTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "epochs": ({}, {"epochs": 1}),
    "opt": ({}, {"opt": "adam"}),
    "lr": ({}, {"lr": 0.01}),
    "momentum": ({}, {"momentum": 0.0}),
    "weight_decay": ({}, {"weight_decay": 0.1}),
    "layer_decay": ({"sched": "none"}, {"sched": "none", "layer_decay": 0.5}),
    "clip_grad": ({}, {"clip_grad": 0.01}),
    "sched": ({}, {"sched": "poly"}),
    "warmup_epochs": ({}, {"warmup_epochs": 1}),
    "warmup_lr": ({"warmup_epochs": 1}, {"warmup_epochs": 1, "warmup_lr": 0.04}),
    "min_lr": ({}, {"min_lr": 0.04}),
    "decay_epochs": ({"sched": "step"}, {"sched": "step", "decay_epochs": 1.0}),
    "decay_rate": ({"sched": "step", "decay_epochs": 1.0}, {"sched": "step", "decay_epochs": 1.0, "decay_rate": 0.9}),
    "smoothing": ({}, {"smoothing": 0.2}),
    "mixup": ({}, {"mixup": 0.5}),
    "cutmix": ({}, {"cutmix": 0.5}),
    "amp": ({}, {"amp": True}),
    "amp_dtype": ({"amp": True}, {"amp": True, "amp_dtype": "float16"}),
    "grad_accum_steps": ({}, {"grad_accum_steps": 2}),
    "model_ema": ({}, {"model_ema": True}),
    "model_ema_decay": ({"model_ema": True}, {"model_ema": True, "model_ema_decay": 0.5}),
    "model_ema_warmup": ({"model_ema": True}, {"model_ema": True, "model_ema_warmup": True}),
    "distill": ({}, {"distill": True}),
    "kd_temperature": ({"distill": True}, {"distill": True, "kd_temperature": 1.0}),
    "task_loss_weight": ({"distill": True}, {"distill": True, "task_loss_weight": 0.1}),
    "distill_loss_weight": ({"distill": True}, {"distill": True, "distill_loss_weight": 0.1}),
}
SEEN_OTHERWISE = {"channels_last", "torchcompile", "sync_bn"}  # tests below: the result is the same with them


class Deep(nn.Module):
    """Two layers that know which comes first, as timm's models do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(64, 2)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        return {"stem": r"^conv|^bn", "blocks": [(r"^head", None)]}

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.bn(self.conv(x)).relu().flatten(1))


def test_every_option_has_a_test() -> None:
    parts = (set(EFFECTS), OF_OTHERS, SEEN_OTHERWISE)
    assert set().union(*parts) == set(options_of(Finetune)), "a new option needs a test"
    assert sum(map(len, parts)) == len(options_of(Finetune)) == 37


@pytest.mark.parametrize("name", EFFECTS)
def test_an_option_has_an_effect(name: str) -> None:
    without, with_it = EFFECTS[name]
    teacher = net()
    plain = trained(seeded(Deep), teacher=teacher, **without)
    assert apart(trained(seeded(Deep), teacher=teacher, **without), plain) == 0
    assert apart(trained(seeded(Deep), teacher=teacher, **with_it), plain) > 1e-6


def test_channels_last_is_the_layout_of_weights_and_images() -> None:
    model, seen = net(), []
    model[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    trained(model, channels_last=True)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert all(images.is_contiguous(memory_format=torch.channels_last) for images in seen) and len(seen) == 8
    assert apart(model, trained()) < 1e-5


def test_half_precision_on_the_processor() -> None:
    log, seen = Log(), []
    model = net()
    model[0].register_forward_hook(lambda *args: seen.append(args[2].dtype))
    trained(model, Random(steps=6, size=32), log, epochs=4, lr=0.1, amp=True)
    assert set(seen) == {torch.bfloat16} and model[0].weight.dtype == torch.float32
    assert log.rows[-1]["loss"] < 0.7 * log.rows[0]["loss"]


def test_two_halves_of_a_batch_are_one_step() -> None:
    whole_batches, halves = trained(feed=Random(size=8)), trained(feed=Halves(steps=8), grad_accum_steps=2)
    assert apart(whole_batches, halves) < 1e-6


@dataclass(frozen=True)
class Halves(Random):
    """The batches of `Random(size=8)`, each cut in two."""

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        parts = (
            half
            for images, labels in Random(steps=4).epoch(number)
            for half in zip(images.split(4), labels.split(4), strict=True)
        )
        return (half for place, half in enumerate(parts) if place >= start)


def test_what_is_left_of_an_epoch_makes_a_step_too() -> None:
    log = Log()
    trained(feed=Random(steps=5), log=log, epochs=1, grad_accum_steps=2)
    assert len(log.losses) == 3 and log.images == 40


@pytest.mark.parametrize("opt", OPTIMIZERS)
def test_pruned_weights_stay_zero(opt: str) -> None:
    model = net(True)
    with torch.no_grad():
        for layer in (model[0], model[4]):
            layer.weight[::2] = 0
    masks = Masks.of(model)
    dead = masks.size - masks.alive
    assert dead > 0
    before = model[4].weight.detach().clone()
    trained(model, opt=opt, lr=0.01, model_ema=True, model_ema_decay=0.5, held=partial(masks.held, model))
    masks.check_zero(model)
    assert masks.size - Masks.of(model).alive >= dead
    assert not torch.equal(model[4].weight, before)


def test_the_average_is_the_result() -> None:
    """With a decay of 1 the average does not change after the first step."""
    model = trained(model_ema=True, model_ema_decay=1.0, sched="none", momentum=0.0)
    first = trained(feed=Random(steps=1), epochs=1, sched="none", momentum=0.0)
    assert_bit_equal(state(model), state(first))


def test_a_body_of_its_own_trains_the_weights_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """With synchronised batch norms, or compiled, a copy of the modules with the same weights runs."""
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(self))
    model = net(True)
    surgery.transform_(model, surgery.swap("pwlu", warmup=0.5), torch.randn(2, 3, 6, 6))
    body = body_of(model, Finetune(torchcompile=True))
    assert compiled == [body] and body is not model and type(body) is type(model) and body[2] is not model[2]
    assert [id(param) for param in body.parameters()] == [id(param) for param in model.parameters()]
    assert [id(buffer) for buffer in body.buffers()] == [id(buffer) for buffer in model.buffers()]
    assert body_of(model, Finetune()) is body_of(model, Finetune(sync_bn=True)) is model  # one process: nothing to do
    plain = net(True)
    surgery.transform_(plain, surgery.swap("pwlu", warmup=0.5), torch.randn(2, 3, 6, 6))
    assert apart(trained(model, torchcompile=True, model_ema=True), trained(plain, model_ema=True)) == 0


@pytest.mark.slow
def test_compiled_or_not_is_the_same() -> None:
    def model() -> nn.Module:
        made = net(True)
        surgery.transform_(made, surgery.swap("pwlu", warmup=0.3), torch.randn(2, 3, 6, 6))
        return made

    assert apart(trained(model(), torchcompile=True), trained(model())) < 1e-4


# What is refused


def test_what_cannot_be_trained_is_refused_and_nothing_changes() -> None:
    model, before = net(), state(net())
    assert_raises(BadValue, lambda: trained(model, feed=Random(steps=0)), "No batches to train on")
    assert_raises(BadValue, lambda: trained(model, distill=True), "needs a teacher")
    assert_raises(BadValue, lambda: trained(model, mixup=1.0, batch_size=7), "even number")
    assert_raises(BadValue, lambda: trained(model, sched="step", decay_epochs=0), "decay_epochs")
    assert_bit_equal(state(model), before)
    assert_raises(BadValue, lambda: trained(net(), feed=Short()), "ended before")
    assert_raises(BadValue, lambda: accuracy(net(), []), "No images")


@dataclass(frozen=True)
class Short(Random):
    """It has fewer batches than it declares."""

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        return iter([*super().epoch(number, start)][:-1])


@dataclass(frozen=True)
class Poisoned(Random):
    """From the third batch of the second epoch on, images are NaN."""

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        for place, (images, labels) in enumerate(super().epoch(number, start), start):
            yield images / 0 if number == 1 and place > 1 else images, labels


@pytest.mark.parametrize("every", [0, 1])
def test_a_loss_that_is_not_finite_stops_and_the_checkpoint_of_before_stays(every: int, tmp_path: Path) -> None:
    call = partial(trained, feed=Poisoned(), epochs=3, sched="none", folder=tmp_path, every=every)
    assert_raises(SurgeryError, call, "step 7", "lr 0.05")
    kept = load_file(next(tmp_path.glob("weights-*")))
    assert all(bool(tensor.isfinite().all()) for tensor in kept.values())
    index = (tmp_path / checkpoint.INDEX).read_text()
    assert ('"update": 6' if every else '"update": 4') in index


def test_accuracy_counts_and_leaves_modes() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(1.0), nn.Linear(108, 2)).train()
    model[1].eval()
    images, _ = next(Random(size=10).epoch(0))
    right = model.eval()(images).argmax(1)
    model.train()
    model[1].eval()
    assert accuracy(model, [(images[:3], right[:3]), (images[3:], 1 - right[3:])]) == 0.3
    assert [module.training for module in model.modules()] == [True, True, False, True]


@pytest.mark.parametrize(("batches", "error"), [("wrong", RuntimeError), ("none", BadValue)])
def test_accuracy_leaves_modes_and_generators_also_after_an_exception(batches: str, error: type[Exception]) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5)), nn.Linear(108, 2)).train()
    model[1][0].eval()
    modes = [module.training for module in model.modules()]
    images, labels = next(Random(size=4).epoch(0))

    def drawn() -> Iterator[tuple[Tensor, Tensor]]:
        """Like a loader that shuffles: it draws random numbers, even if it is empty."""
        for draw in (torch.rand, numpy.random.rand, random.uniform):
            draw(1, 2)
        if batches == "wrong":
            yield images, labels
            yield images[..., :-1], labels

    before = torch.get_rng_state(), numpy.random.get_state()[1], random.getstate()
    with pytest.raises(error):
        accuracy(model, drawn())
    assert [module.training for module in model.modules()] == modes == [True, True, True, False, True, True]
    after = torch.get_rng_state(), numpy.random.get_state()[1], random.getstate()
    assert torch.equal(before[0], after[0]) and (before[1] == after[1]).all() and before[2] == after[2]


# Killed, and gone on


@dataclass(frozen=True)
class Ticking(Random):
    """A feed whose every batch is a moment."""

    clock: Clock | None = None

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in super().epoch(number, start):
            assert self.clock is not None
            self.clock.tick()
            yield batch


class Busy(nn.Module):
    """All kinds of state: norm, dropout, activations that fade and warm up."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn, self.relu1 = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()
        self.conv2, self.relu2 = nn.Conv2d(4, 4, 3), nn.ReLU()
        self.drop, self.fc = nn.Dropout(0.3), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.bn(self.conv1(x)))
        return self.fc(self.drop(self.relu2(self.conv2(x)).flatten(1)))


def busy() -> nn.Module:
    model = seeded(Busy)
    rules = [
        surgery.swap("pwlu", site="relu1*", warmup=0.4, intervals=4),
        surgery.swap("identity", site="relu2*", fade=True),
    ]
    with torch.random.fork_rng():
        surgery.transform_(model, rules, torch.zeros(2, 3, 6, 6))
    with torch.no_grad():
        model.conv1.weight[0] = 0
        model.fc.weight[:, ::3] = 0
    return model


BUSY = {
    "epochs": 3, "batch_size": 8, "model_ema": True, "model_ema_decay": 0.6, "mixup": 0.4, "cutmix": 0.4,
    "smoothing": 0.1, "warmup_epochs": 1, "clip_grad": 1.0, "channels_last": True, "grad_accum_steps": 2,
}  # fmt: skip


def run(folder: Path | None, end: int | None = None, opt: str = "lamb") -> list[Tensor]:
    """Train until the end, or until the process is killed: weights, random numbers, losses and rates."""
    clock, log, model = Clock(end, kill), Log(), busy()
    masks = Masks.of(model)
    torch.randn(end or 1)  # what the process drew before does not matter
    with clock.around_files(checkpoint):
        finetune(
            model, Ticking(steps=5, clock=clock), Finetune(opt=opt, lr=0.02, **BUSY), held=partial(masks.held, model),
            folder=folder, every=1 if folder is None else 2, journal=log, test=list(Random().epoch(99)), seed=5,
        )  # fmt: skip
    masks.check_zero(model)
    drawn = [torch.rand(()).item(), numpy.random.random(), random.random(), float(clock.now)]
    rows = [value for row in log.rows for value in row.values()]
    return [*state(model), torch.tensor(drawn[:3], dtype=torch.float64), torch.tensor(rows, dtype=torch.float64)[-3:],
            torch.tensor(drawn[3])]  # fmt: skip


def assert_passes_elsewhere(check: Callable[..., object], *args: Any) -> None:
    """In a process that may fork: in this one, autograd may already have threads."""
    done = called(check, *args)
    assert done.returncode == 0, done.stderr


def killed_at(moment: int, again: int, home: Path, opt: str) -> None:
    folder = home / str(moment)
    assert forked(lambda: run(folder, moment, opt)) == -signal.SIGKILL, moment
    assert forked(lambda: run(folder, again, opt)) == -signal.SIGKILL, (moment, again)
    assert forked(lambda: torch.save(run(folder, opt=opt), home / f"{moment}.end")) == 0, moment
    assert len(list(folder.iterdir())) == 4, "old files stay behind"


def ends_as_the_uninterrupted(moments: list[int], home: Path, opt: str) -> None:
    expected = run(None, opt=opt)
    for moment in moments:
        killed_at(moment, 7 + moment % 5, home, opt)
        assert_bit_equal(torch.load(home / f"{moment}.end")[:-1], expected[:-1], f"killed at {moment}")


def moments_of(folder: Path) -> int:
    """How many moments an uninterrupted run with checkpoints has."""
    return int(run(folder)[-1])


def test_a_training_killed_at_some_moments_ends_as_if_it_was_not(tmp_path: Path) -> None:
    assert_passes_elsewhere(some_moments, tmp_path)


def some_moments(tmp_path: Path) -> None:
    count = moments_of(tmp_path / "whole")
    assert count > 70
    drawn, third = random.Random(3), (count - 13) // 3
    moments = [drawn.randrange(1 + place * third, 1 + (place + 1) * third) for place in range(3)]
    ends_as_the_uninterrupted(moments, tmp_path, "lamb")


@pytest.mark.slow
@pytest.mark.parametrize("opt", OPTIMIZERS)
def test_a_training_killed_at_any_moment_ends_as_if_it_was_not(opt: str, tmp_path: Path) -> None:
    assert_passes_elsewhere(any_moment, tmp_path, opt)


def any_moment(tmp_path: Path, opt: str) -> None:
    count = moments_of(tmp_path / "whole")
    ends_as_the_uninterrupted(list(range(1, count - 12, 3 if opt == "muon" else 29)), tmp_path, opt)


def test_with_checkpoints_or_without_is_the_same(tmp_path: Path) -> None:
    assert_bit_equal(run(tmp_path)[:-1], run(None)[:-1])


def test_a_finished_training_gives_its_end_at_once(tmp_path: Path) -> None:
    first = run(tmp_path)
    again, log = busy(), Log()
    masks = Masks.of(again)
    finetune(
        again, Never(steps=5), Finetune(opt="lamb", lr=0.02, **BUSY), held=partial(masks.held, again), folder=tmp_path,
        journal=log, seed=5,
    )  # fmt: skip
    assert_bit_equal(state(again), first[:-3])
    drawn = torch.tensor([torch.rand(()).item(), numpy.random.random(), random.random()], dtype=torch.float64)
    assert_bit_equal([drawn], first[-3:-2])
    assert not again.training and log.rows == []


@dataclass(frozen=True)
class Never(Random):
    """A feed that must not be used."""

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        raise AssertionError("asked for images")


OTHERS: dict[str, dict[str, Any]] = {
    "options": {"lr": 0.01}, "seed": {"seed": 1}, "phase": {"phase": "final"}, "batches": {"feed": Random(steps=3)},
    "weights": {"model": seeded(net, 0)}, "settle": {"settle": False}, "network": {}, "teacher": {"distill": True},
}  # fmt: skip


@pytest.mark.parametrize("what", ["options", "seed", "phase", "batches", "settle", "weights", "network"])
def test_the_checkpoint_of_another_training_is_refused_or_replaced(what: str, tmp_path: Path) -> None:
    trained(folder=tmp_path)
    call = dict(OTHERS[what])
    if what == "weights":
        call["model"] = net()
        with torch.no_grad():
            call["model"][0].bias[0] += 1
    if what == "network":
        call["model"] = net()
        call["model"][1] = nn.SiLU()
    before = state(call.get("model", net()))
    model = call.pop("model", None) or net()
    assert_raises(WrongModel, lambda: trained(model, folder=tmp_path, **call), "another training", what)
    assert_bit_equal(state(model), before)
    trained(model, folder=tmp_path, reuse=True, **call)
    assert apart(model, trained(_with(before, model), **call)) == 0
    again = trained(_with(before, model), folder=tmp_path, **call)  # the folder is this training's now
    assert apart(again, model) == 0


def _with(values: list[Tensor], like: nn.Module) -> nn.Module:
    made = net()
    if isinstance(like[1], nn.SiLU):
        made[1] = nn.SiLU()
    for own, value in zip(tensors_of(made).values(), values, strict=True):
        own.copy_(value)
    return made


def test_the_trainings_of_rounds_share_a_folder(tmp_path: Path) -> None:
    def pruned(folder: Path | None, rounds: Path | None) -> nn.Module:
        model = net(True)

        def train(model: nn.Module, held: Any) -> None:
            trained(model, epochs=1, held=held, folder=folder, reuse=True)

        pruning.run_rounds(model, train, pruning.global_magnitude(), 0.3, 2, folder=rounds)
        return model

    plain = pruned(None, None)
    assert apart(pruned(tmp_path / "training", tmp_path / "rounds"), plain) == 0
    assert apart(pruned(tmp_path / "training", None), plain) == 0


# Two processes


def two_of(model: Callable[[], nn.Module], home: Path, **options: Any) -> list[list[Tensor]]:
    """The weights in both processes, and the losses of the epochs."""
    in_two(train_one_of_two, home, model, options)
    return [torch.load(home / f"{rank}.out") for rank in range(2)]


def train_one_of_two(rank: int, home: Path, model: Callable[[], nn.Module], options: dict[str, Any]) -> None:
    log = Log()
    made = trained(model(), Random(size=4, rank=rank, world=2), log, **options)
    rows = torch.tensor([row["loss"] for row in log.rows], dtype=torch.float64)
    torch.save([*state(made), rows], home / f"{rank}.out")


@pytest.mark.parametrize("more", [{}, {"grad_accum_steps": 2, "model_ema": True, "model_ema_decay": 0.5}])
def test_two_processes_learn_as_one_with_twice_the_batch(more: dict[str, Any], tmp_path: Path) -> None:
    log = Log()
    alone = trained(log=log, **more)
    first, second = two_of(net, tmp_path, **more)
    assert_bit_equal(first, second)
    assert first[-1].tolist() == pytest.approx([row["loss"] for row in log.rows], abs=1e-6)
    assert all(float((a - b).abs().max()) < 1e-6 for a, b in zip(first, state(alone), strict=False))


def alternating() -> nn.Module:
    """Norm statistics, a warm-up with different images in each process, and alternating slopes."""
    model = busy()
    example = torch.zeros(2, 3, 6, 6)
    other = nn.Sequential(model, nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.random.fork_rng():
        surgery.transform_(other, surgery.swap("frelu", site="2*", alternate="weights", every=2), example)
    return other


def test_two_processes_end_with_equal_weights_whatever_changes_over_time(tmp_path: Path) -> None:
    first, second = two_of(alternating, tmp_path, epochs=2, model_ema=True, model_ema_decay=0.5, folder=tmp_path / "f")
    assert_bit_equal(first, second)


class Stop(Exception):
    pass


@dataclass(frozen=True)
class Stopping(Random):
    """A feed that fails in the second epoch."""

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        if number == 1:
            raise Stop
        return super().epoch(number, start)


def test_two_processes_go_on_from_one_folder(tmp_path: Path) -> None:
    in_two(go_on_together, tmp_path)


def go_on_together(rank: int, home: Path) -> None:
    def make() -> nn.Module:
        return seeded(lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(108, 2)))

    feed = Random(size=4, rank=rank, world=2)
    expected = state(trained(make(), feed))
    assert_raises(Stop, lambda: trained(make(), Stopping(4, 4, rank, 2), folder=home / "kept"))
    distributed.barrier()
    assert_bit_equal(state(trained(make(), feed, folder=home / "kept")), expected)


def test_norms_over_processes_need_cuda(tmp_path: Path) -> None:
    in_two(ask_for_joint_norms, tmp_path)


def ask_for_joint_norms(rank: int, home: Path) -> None:
    assert_raises(BadValue, lambda: trained(net(True), sync_bn=True), "CUDA")
