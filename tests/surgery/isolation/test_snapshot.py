"""All or nothing: whatever fails, and at whatever point, the model is unchanged."""

from __future__ import annotations

import copy
import linecache
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

import surgery
from surgery.edit.write import put_back
from surgery.history.history import histories_of
from surgery.isolation.snapshot import snapshot
from tests.asserts import call, tensors
from tests.models import picture

TRANSACTION = {
    str(Path(surgery.__file__).parent / f"{name}.py")
    for name in (
        "transforms",
        "edit/change",
        "edit/graphs",
        "edit/rollback",
        "edit/write",
        "history/settled",
        "schedule/frozen_weights",
        "schedule/progress",
        "schedule/weight_initialization",
        "repair/affine_fold",
        "repair/affine_fit",
        "serialization/save_load",
        "serialization/weights",
    )
}


ROLLING_BACK = ("verb_or_nothing", "put_back", "_refill", "_become")


class Interrupted(BaseException):
    """Raised instead of a KeyboardInterrupt."""


class Net(nn.Module):
    """A ReLU called twice, so that its owner is rewritten; a norm in front of a line; a function."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn, self.conv2 = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
        self.relu, self.fc = nn.ReLU(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv2(self.relu(self.bn(self.conv1(x)))))
        return self.fc(functional.silu(x).mean((2, 3)))


def state(model: nn.Module) -> dict[str, Any]:
    """All state of a model that a function may write, objects by identity and numbers by value."""
    modules = list(model.named_modules(remove_duplicate=False))
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    histories = histories_of(model)
    return {
        "modules": [(path, id(module), type(module), module.training) for path, module in modules],
        "attributes": [(path, [(name, id(value)) for name, value in vars(module).items()]) for path, module in modules],
        "held": [
            (path, {k: list(v) for k, v in vars(module).items() if isinstance(v, dict)}) for path, module in modules
        ],
        "tensors": [(name, id(tensor), tensor.requires_grad, id(tensor.grad)) for name, tensor in named],
        "numbers": [number.tolist() for _, number in named],
        "histories": [
            (id(history), history.progress, list(history.resting), [id(s) for s in history.steps])
            for history in histories
        ],
        "steps": [
            (copy.deepcopy(s.data), s.fingerprint, len(s.changes)) for history in histories for s in history.steps
        ],
        "code": [module.code for module in model.modules() if isinstance(module, fx.GraphModule)],
    }


class Lines:
    """The lines that are executed in the files that change models; at one of them something is raised."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.fails_at, self.count = fails_at, 0
        self.entered: set[tuple[int, int]] = set()

    def __enter__(self) -> Lines:
        self.before = sys.gettrace()
        sys.settrace(self.trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self.before)

    def trace(self, frame: FrameType, event: str, _: Any) -> Any:
        code = frame.f_code
        if code.co_filename not in TRANSACTION or code.co_name in ROLLING_BACK:
            return None
        if event == "line" and not self.ends_block(frame):
            self.count += 1
            if self.count == self.fails_at:
                raise Interrupted
        return self.trace

    def ends_block(self, frame: FrameType) -> bool:
        """True at the end of a `with` block: nothing can be raised between the block and its exit."""
        if not linecache.getline(frame.f_code.co_filename, frame.f_lineno).lstrip().startswith("with "):
            return False
        place = (id(frame), frame.f_lineno)
        self.entered ^= {place}
        return place not in self.entered


class Replayed:
    """A function whose results, the same in every run, are cached in the first one."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.results, self.calls = function, list[Any](), 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.calls == len(self.results):
            self.results.append(self.function(*args, **kwargs))
        self.calls += 1
        return self.results[self.calls - 1]


LOOKING = {
    "transforms": ("find_sites", "seen_at", "prove_rewrites", "prove_effect"),
    "repair.affine_fold": ("find_sites", "look_at"),
    "schedule.weight_initialization": ("find_sites",),
    "serialization.save_load": ("find_sites", "read_steps"),
}


def quick(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Cache looking and proving, which write nothing, over runs; call the result before each run."""
    replayed = []
    for module, names in LOOKING.items():
        for name in names:
            replay = Replayed(getattr(sys.modules[f"surgery.{module}"], name))
            monkeypatch.setattr(sys.modules[f"surgery.{module}"], name, replay)
            replayed.append(replay)

    def begin() -> None:
        for replay in replayed:
            replay.calls = 0

    return begin


def prepared(*rules: surgery.Rule, progress: float | None = None) -> nn.Module:
    torch.manual_seed(0)
    model = Net().eval()
    model(picture()).sum().backward()
    for rule in rules:
        surgery.transform_(model, rule, picture())
    if progress is not None:
        surgery.set_progress(model, progress, step=1)
    return model


@cache
def saved() -> str:
    """A folder with a model that was edited, in the middle of a fade."""
    folder = mkdtemp()
    surgery.save(prepared(surgery.swap("prelu", activation="relu", fade=True), progress=0.5), folder)
    return folder


def prepared_to_load() -> nn.Module:
    saved()  # before looking and proving are cut short
    return prepared()


VERBS: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], Any]]] = {
    "erase": (prepared, lambda model: surgery.transform_(model, surgery.erase(), picture())),
    "swap": (
        lambda: prepared(surgery.swap("frelu", site="relu 1/2", alternate="weights"), progress=0.1),
        lambda model: surgery.transform_(model, surgery.swap("silu", activation="relu", fade=True), picture()),
    ),
    "graph": (
        lambda: fx.symbolic_trace(prepared()),
        lambda model: surgery.transform_(model, surgery.swap("silu"), picture()),
    ),
    "undo": (
        lambda: prepared(surgery.swap("pwlu", fade=True, turn=1), surgery.erase(activation="relu"), progress=0.5),
        surgery.undo,
    ),
    "set_progress": (
        lambda: prepared(surgery.swap("frelu", alternate="weights", activation="relu", fade=True)),
        lambda model: surgery.set_progress(model, 0.5, step=1),
    ),
    "settle": (
        lambda: prepared(surgery.swap("pwlu", fade=True, warmup=0.5), progress=0.2),
        surgery.settle,
    ),
    "fold_affine": (
        lambda: prepared(surgery.erase(stand_in="affine")),
        lambda model: surgery.fold_affine(model, picture()),
    ),
    "fit_affine": (
        lambda: prepared(surgery.erase(stand_in="affine")),
        lambda model: surgery.fit_affine(model, [picture()]),
    ),
    "initialize": (
        prepared,
        lambda model: surgery.initialize(model, picture(), generator=torch.Generator().manual_seed(1)),
    ),
    "load": (prepared_to_load, lambda model: surgery.load(saved(), model)),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", VERBS)
def test_a_failure_at_any_line_leaves_the_model_as_it_was(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare, verb = VERBS[name]
    model = prepare()
    again = quick(monkeypatch)
    before = state(model)
    with torch.no_grad():
        result = tensors(call(model, picture()))[0]
    again()
    verb(copy.deepcopy(model))
    again()
    with Lines() as lines:
        verb(copy.deepcopy(model))
    assert lines.count > 10
    for number in range(1, lines.count + 1):
        again()
        with pytest.raises(Interrupted), Lines(fails_at=number):
            verb(model)
        after = state(model)
        for part, value in before.items():
            assert after[part] == value, f"{part} changed by a failure at line {number} of {lines.count}"
    with torch.no_grad():
        assert torch.equal(tensors(call(model, picture()))[0], result)
    again()
    verb(model)
    assert state(model) != before


def test_a_function_that_refuses_its_progress_is_taken_back() -> None:
    class Refusing(nn.ReLU):
        def set_progress(self, progress: float, step: int = 0) -> None:
            raise RuntimeError("not today")

    surgery.activations.register("refusing", lambda: Refusing())
    model = prepared(surgery.swap("silu", site="relu 1/2", fade=True), progress=0.5)
    before = state(model)
    with pytest.raises(RuntimeError, match="not today"):
        surgery.transform_(model, surgery.swap("refusing", activation="relu"), picture())
    assert state(model) == before


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_a_progress_that_one_module_refuses_moves_none(broken: int) -> None:
    class Moving(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.refuses, self.inside = False, nn.Linear(1, 1)
            self.register_buffer("progress", torch.zeros(()))

        def set_progress(self, progress: float, step: int = 0) -> None:
            self.progress.fill_(progress)
            self.phase = step
            nn.init.constant_(self.inside.weight, progress)
            if self.refuses:
                raise RuntimeError("not today")

    model = nn.Sequential(Moving(), Moving(), Moving())
    surgery.set_progress(model, 0.2, step=1)
    model[broken].refuses = True
    before = state(model)
    with pytest.raises(RuntimeError, match="not today"):
        surgery.set_progress(model, 0.7, step=2)
    assert state(model) == before


@pytest.mark.parametrize("verb", [surgery.transform_, surgery.transform])
def test_weights_that_wait_for_their_shape_are_refused_as_such(verb: Callable[..., Any]) -> None:
    model = nn.Sequential(nn.LazyLinear(4), nn.ReLU())
    with pytest.raises(surgery.CannotLook, match="from the first batch"):
        verb(model, surgery.erase(), torch.rand(2, 3))
    with pytest.warns(UserWarning, match="changes over the training"):
        surgery.set_progress(model, 0.5)


@pytest.mark.parametrize("learns", [True, False])
def test_numbers_made_in_inference_mode_are_put_back(learns: bool) -> None:
    with torch.inference_mode():
        model = nn.Linear(3, 2).requires_grad_(learns)
    before = snapshot(model, model.parameters())
    numbers = [param.tolist() for param in model.parameters()]
    with torch.inference_mode():
        for param in model.parameters():
            param.fill_(7.0)
    put_back(before)
    assert [param.tolist() for param in model.parameters()] == numbers
    assert all(param.requires_grad is learns for param in model.parameters())
