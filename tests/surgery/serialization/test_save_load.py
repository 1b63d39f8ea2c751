"""Saved models load bit for bit; what does not fit is refused, and the model left unchanged."""

from __future__ import annotations

import getpass
import json
import os
import pickle
import random
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors import safe_open
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn

import surgery
from pruning import Masks
from pruning.masks.prunable import prunable
from surgery.edit.write import keep_history
from surgery.history.history import History, Step
from surgery.look.example import Example
from surgery.serialization import save_load
from surgery.serialization.model_folder import STEPS, WEIGHTS
from tests.asserts import (
    assert_bit_equal,
    assert_raises,
    assert_same_function,
    assert_untouched,
)
from tests.models import (
    AliasBlocks,
    Encoder,
    FunctionalOptions,
    FunctionalSpellings,
    HeadOnLevels,
    HelperMethod,
    InceptionNet,
    ListLoop,
    NormAct,
    ResidualNet,
    SharedInComprehension,
    Stated,
    TwiceUsed,
    TwoNames,
    WhileLoop,
    graph_model,
    picture,
    randomise,
)
from tests.processes import run_python
from tests.surgery.small_net import SmallNet

PRELU = ("prelu", {"activation": "relu"})


@dataclass(frozen=True)
class Case:
    """A model, the rules of its steps, and what happens to it afterwards."""

    build: Callable[[], nn.Module]
    steps: tuple[Any, ...]
    then: Callable[[nn.Module], object] = lambda model: None
    example: Any = None

    def sample(self) -> Any:
        if self.example is not None:
            return self.example
        kind = self.build
        return kind.example if isinstance(kind, type) and issubclass(kind, Stated) else picture()


def half_way(model: nn.Module) -> None:
    """In the middle of a fade."""
    surgery.set_progress(model, 0.25, step=7)


def mixed_ends(model: nn.Module) -> None:
    """Settled, and faded no more."""
    surgery.set_progress(model, 0.5, step=3)
    surgery.settle(model)


CASES = {
    "shared module": Case(TwiceUsed, (surgery.erase(turn=1),)),
    "shared module, parameters": Case(TwiceUsed, (surgery.swap("prelu", turn=2),)),
    "residual blocks": Case(ResidualNet, (surgery.erase_relu(),)),
    "two steps at one owner": Case(ResidualNet, (surgery.erase_relu(), surgery.swap("prelu", owner="layer1.0"))),
    "three steps, one rewritten twice": Case(
        FunctionalSpellings,
        (surgery.erase(callee="torch.relu_"), surgery.swap("prelu", ordinal=2), surgery.swap("silu", callee="x.relu")),
    ),
    "functional": Case(FunctionalSpellings, (surgery.swap("prelu", activation="relu"),)),
    "functional, options": Case(FunctionalOptions, (surgery.swap("leaky_relu", activation="elu", negative_slope=0.3),)),
    "slot": Case(NormAct, (surgery.swap("softplus", activation="relu", beta=2.0, optional=True),)),
    "branches": Case(InceptionNet, (surgery.erase_relu(share=0.5),)),
    "one module under two names": Case(TwoNames, (surgery.swap("prelu", site="second"),)),
    "one block under two names": Case(AliasBlocks, (surgery.swap("prelu", owner="mlp3"),)),
    "one block under two names, both": Case(AliasBlocks, (surgery.swap("prelu", owner=("mlp2", "mlp3")),)),
    "list of modules": Case(ListLoop, (surgery.swap("prelu", iteration=2),)),
    "comprehension": Case(SharedInComprehension, (surgery.swap("prelu", iteration=2), surgery.erase(iteration=3))),
    "while loop": Case(WhileLoop, (surgery.swap("prelu", iteration=1),)),
    "several runs": Case(HeadOnLevels, (surgery.swap("prelu", owner="head"),)),
    "helper method": Case(HelperMethod, (surgery.swap("prelu", method="step"),)),
    "encoder layer": Case(Encoder, (surgery.swap("prelu", activation="gelu"),)),
    "graph": Case(graph_model, (surgery.erase(turn=1), surgery.swap("prelu", turn=1))),
    "fading": Case(ResidualNet, (surgery.erase_relu(fade=True),), half_way),
    "fading to parameters": Case(TwiceUsed, (surgery.swap("prelu", turn=1, fade=True),), half_way),
    "settled": Case(TwiceUsed, (surgery.swap("prelu", turn=1, fade=True),), mixed_ends),
    "settled, two steps": Case(
        ResidualNet, (surgery.erase_relu(fade=True), surgery.swap("prelu", owner="layer1.0")), mixed_ends
    ),
}


def edited(case: Case) -> nn.Module:
    model = randomise(case.build())
    for rules in case.steps:
        surgery.transform_(model, rules, case.sample())
    case.then(model)
    with torch.no_grad():  # as if trained: the parameters are no longer the initial ones
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_what_was_saved_comes_back(case: Case, tmp_path: Path) -> None:
    model = edited(case)
    surgery.save(model, tmp_path / "one")
    fresh = case.build()
    assert surgery.load(tmp_path / "one", fresh) is fresh
    assert_same_function(model, fresh, case.sample())
    assert list(model.state_dict()) == list(fresh.state_dict())
    assert surgery.find_sites(model, case.sample()).to_json() == surgery.find_sites(fresh, case.sample()).to_json()
    # What came back can be saved again, and says the same.
    surgery.save(fresh, tmp_path / "two")
    former, again = (json.loads((tmp_path / name / STEPS).read_text()) for name in ("one", "two"))
    for first, second in zip(former["steps"], again["steps"], strict=True):
        assert first["fingerprint"] in (second["fingerprint"], None)  # None: made on a form that was settled since
        first["fingerprint"] = second["fingerprint"]
    assert former == again
    # And undone: what comes out is the unedited model.
    assert_same_function(surgery.undo(model), surgery.undo(fresh), case.sample())
    assert list(fresh.state_dict()) == list(case.build().state_dict())


def test_two_steps_come_back_in_order(tmp_path: Path) -> None:
    # The second rule counts on what the first one left, so the other way round it would pick other calls.
    model = ResidualNet()
    surgery.transform_(model, surgery.erase_relu(), picture())
    surgery.transform_(model, surgery.swap("prelu", block="layer1.*", positions=1), picture())
    surgery.save(model, tmp_path)
    fresh = surgery.load(tmp_path, ResidualNet())
    made = [[edit["make"] for edit in step.data["edits"]] for step in surgery.history_of(fresh)]
    assert made == [["identity", "identity"], ["prelu", "prelu"]]
    left = surgery.find_sites(surgery.undo(fresh, steps=1), picture())
    assert [site.activation for site in left] == ["relu", "relu", "relu"]


def test_learned_parameters_come_back(tmp_path: Path) -> None:
    model, report = surgery.transform(TwiceUsed(), surgery.swap("prelu", turn=2), picture())
    (name,) = report.added
    with torch.no_grad():
        model.get_parameter(name).fill_(0.625)
    surgery.save(model, tmp_path)
    assert bool((surgery.load(tmp_path, TwiceUsed()).get_parameter(name) == 0.625).all())


class Tied(Stated):
    """Two layers with one weight."""

    example = torch.rand(2, 4)

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.act = nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU()
        self.fc2.weight = self.fc1.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.fc2(self.act(self.fc1(x))))


def test_tied_weights_come_back_tied(tmp_path: Path) -> None:
    model = edited(Case(Tied, (surgery.swap("prelu", turn=1),)))
    surgery.save(model, tmp_path)
    fresh = surgery.load(tmp_path, Tied())
    assert fresh.fc1.weight is fresh.fc2.weight
    assert_same_function(model, fresh, Tied.example)


def test_what_shared_its_weights_shares_them_again(tmp_path: Path) -> None:
    model = edited(CASES["one block under two names, both"])
    surgery.save(model, tmp_path)
    fresh = surgery.load(tmp_path, AliasBlocks())
    for network in (model, fresh):
        assert network.mlp2.fc1.weight is network.mlp3.fc1.weight
        assert isinstance(network.mlp2.act, nn.PReLU) and isinstance(network.mlp3.act, nn.PReLU)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_come_back(dtype: torch.dtype, tmp_path: Path) -> None:
    model = TwiceUsed().to(dtype)
    surgery.transform_(model, surgery.swap("prelu", turn=2), picture().to(dtype))
    surgery.save(model, tmp_path)
    fresh = surgery.load(tmp_path, TwiceUsed().to(dtype))
    assert {param.dtype for param in fresh.parameters()} == {dtype}
    assert_bit_equal(fresh.state_dict().values(), model.state_dict().values(), "weights")


def test_saving_leaves_the_model_alone(tmp_path: Path) -> None:
    model = edited(CASES["residual blocks"])
    with assert_untouched(model):
        surgery.save(model, tmp_path)


def test_the_mode_is_that_of_the_offered_model(tmp_path: Path) -> None:
    surgery.save(edited(CASES["residual blocks"]).train(), tmp_path)
    for training in (True, False):
        loaded = surgery.load(tmp_path, ResidualNet().train(training))
        assert {module.training for module in loaded.modules()} == {training}


def test_frozen_weights_stay_frozen(tmp_path: Path) -> None:
    surgery.save(edited(CASES["residual blocks"]), tmp_path)
    loaded = surgery.load(tmp_path, ResidualNet().requires_grad_(False))
    assert not any(param.requires_grad for param in loaded.parameters())


# -- progress ---------------------------------------------------------------------------------------------------------


def test_progress_comes_back(tmp_path: Path) -> None:
    model = edited(CASES["fading"])
    surgery.save(model, tmp_path)
    assert json.loads((tmp_path / STEPS).read_text())["progress"] == [0.25, 7]
    fresh = surgery.load(tmp_path, ResidualNet())
    fades = [module for module in fresh.modules() if isinstance(module, surgery.activations.Fade)]
    assert [fade.progress.item() for fade in fades] == [0.25, 0.25]


@pytest.mark.slow
def test_progress_outlives_another_step_and_its_undoing(tmp_path: Path) -> None:
    model = edited(CASES["fading"])
    surgery.transform_(model, surgery.swap("prelu", owner="layer1.0", activation="relu", fade=True), picture())
    for folder in ("two steps", "one step"):
        surgery.save(model, tmp_path / folder)
        fresh = surgery.load(tmp_path / folder, ResidualNet())
        assert_same_function(model, fresh, picture())
        for network in (model, fresh):  # what came later has come as far
            fades = [module for module in network.modules() if isinstance(module, surgery.activations.Fade)]
            assert {fade.progress.item() for fade in fades} == {0.25}
        surgery.undo(model, steps=1)


def test_a_settled_fade_stays_settled_when_a_later_step_is_undone(tmp_path: Path) -> None:
    model = randomise(ResidualNet())
    surgery.transform_(model, surgery.swap("prelu", owner="layer1.0", fade=True), picture())
    surgery.transform_(model, surgery.erase(owner="layer1.1", position=2), picture())
    surgery.set_progress(model, 0.5)
    surgery.settle(model)
    surgery.undo(model, steps=1)
    assert not [module for module in model.modules() if isinstance(module, surgery.activations.Fade)]
    surgery.save(model, tmp_path)
    assert_same_function(model, surgery.load(tmp_path, ResidualNet()), picture())


# -- the files --------------------------------------------------------------------------------------------------------


def test_the_file_says_which_model_to_build(tmp_path: Path) -> None:
    model = edited(CASES["residual blocks"])
    surgery.save(model, tmp_path, name="timm/resnet18", kwargs={"num_classes": 10, "sizes": (1, 2)})
    assert surgery.serialization.model_folder.read_steps(tmp_path)["model"] == {
        "name": "timm/resnet18",
        "kwargs": {"num_classes": 10, "sizes": [1, 2]},
    }


@pytest.mark.slow
def test_the_file_names_no_machine_and_no_place_in_the_source(tmp_path: Path) -> None:
    model = torchvision.models.resnet18(num_classes=3)
    surgery.transform_(model, surgery.erase_relu(), torch.rand(2, 3, 32, 32))
    surgery.transform_(model, surgery.swap("prelu", block="layer4.*"), torch.rand(2, 3, 32, 32))
    surgery.save(model, tmp_path)
    text = (tmp_path / STEPS).read_text()
    with safe_open(str(tmp_path / WEIGHTS), framework="pt") as file:
        text += json.dumps(file.metadata())
    secrets = {str(tmp_path), os.getcwd(), str(Path.home()), getpass.getuser(), socket.gethostname()}
    secrets |= {torchvision.__file__, "site-packages", ".py", "0x", "<rewritten"}
    assert not [word for word in secrets if len(word) > 1 and word in text]

    def keys(value: Any) -> set[str]:
        if isinstance(value, dict):
            return set(value) | {key for part in value.values() for key in keys(part)}
        return {key for part in value for key in keys(part)} if isinstance(value, list) else set()

    data = json.loads((tmp_path / STEPS).read_text())
    versions = data.pop("versions")
    assert {"torch", "torchvision", "timm"} <= set(versions)
    assert keys(data) == {
        *("format", "kind", "model", "progress", "steps", "fingerprint", "data", "example", "args", "shape", "dtype"),
        *("rules", "asked", "edits", "site", "turn", "was", "make", "params", "fade", "start"),
    }
    # Owner, method, callee, which of its calls, pass of a loop, run: numbers are small, since none is a line.
    for step in data["steps"]:
        for edit in step["data"]["edits"]:
            assert all(isinstance(part, str) or part is None or part <= 2 for part in edit["site"])


def test_the_weights_are_plain(tmp_path: Path) -> None:
    model = edited(CASES["residual blocks"])
    surgery.save(model, tmp_path)
    with safe_open(str(tmp_path / WEIGHTS), framework="pt") as file:
        assert set(file.keys()) == set(ResidualNet().state_dict())


def test_an_unedited_model_is_not_saved(tmp_path: Path) -> None:
    model = TwiceUsed()
    assert_raises(surgery.NotEdited, lambda: surgery.save(model, tmp_path / "new"), "is not edited")
    surgery.transform_(model, surgery.erase(turn=1), picture())
    surgery.undo(model)
    assert_raises(surgery.NotEdited, lambda: surgery.save(model, tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_a_named_model_is_saved_as_it_is(tmp_path: Path) -> None:
    model = randomise(Tied())
    surgery.save(model, tmp_path, name="mine/tied", kwargs={"width": 4})
    data = surgery.serialization.model_folder.read_steps(tmp_path)
    assert (data["model"], data["steps"]) == ({"name": "mine/tied", "kwargs": {"width": 4}}, [])
    fresh = surgery.load(tmp_path, randomise(Tied()))
    assert fresh.fc1.weight is fresh.fc2.weight and not surgery.history_of(fresh)
    assert_bit_equal(fresh.state_dict().values(), model.state_dict().values(), "weights")
    # Anybody may load them, and so may this library: nothing says they are those of an edited model.
    plain = randomise(Tied())
    load_model(plain, tmp_path / WEIGHTS)
    assert_bit_equal(plain.state_dict().values(), model.state_dict().values(), "weights")
    with safe_open(str(tmp_path / WEIGHTS), framework="pt") as file:
        assert "surgery" not in file.metadata()


def test_zeros_of_an_unedited_model_stay_zeros(tmp_path: Path) -> None:
    model = randomise(ResidualNet())
    for weight in prunable(model).values():
        with torch.no_grad():
            weight[weight.abs() < weight.abs().median()] = 0
    surgery.save(model, tmp_path, name="mine/residual")
    before, after = Masks.of(model), Masks.of(surgery.load(tmp_path, ResidualNet()))
    assert 0 < sum(int(mask.sum()) for mask in before.values()) < sum(mask.numel() for mask in before.values())
    assert_bit_equal(after.values(), before.values(), "masks")


@pytest.mark.parametrize("change", ["model", "steps", "weights"])
def test_files_of_an_unedited_model_belong_together(change: str, folder: Path, tmp_path: Path) -> None:
    surgery.save(ResidualNet(), tmp_path / "plain", name="mine/residual")
    if change == "model":
        rewrite(tmp_path / "plain", lambda data: data.update(model={"name": "timm/resnet18", "kwargs": {}}))
    if change == "steps":  # those of an edited model over plain weights: they would load, and be wrong
        shutil.copy(folder / STEPS, tmp_path / "plain" / STEPS)
    if change == "weights":
        shutil.copy(folder / WEIGHTS, tmp_path / "plain" / WEIGHTS)
    assert_refused(surgery.BadFile, tmp_path / "plain", ResidualNet(), "do not belong together")


def test_an_unedited_model_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    surgery.save(ResidualNet(), tmp_path, name="mine/residual")
    assert_refused(surgery.WrongModel, tmp_path, TwiceUsed(), "do not fit")


def test_what_wraps_an_edited_model_is_not_saved_without_the_edits(tmp_path: Path) -> None:
    model = nn.Sequential(edited(CASES["residual blocks"]))
    words = "Sequential is not edited itself", "the model that was transformed"
    assert_raises(surgery.BadValue, lambda: surgery.save(model, tmp_path / "new", name="a"), *words)
    wrapped = nn.DataParallel(ResidualNet())
    assert_raises(surgery.CannotLook, lambda: surgery.save(wrapped, tmp_path / "new", name="a"), "model.module")
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
@pytest.mark.parametrize("file", [WEIGHTS, STEPS])
def test_a_save_that_fails_leaves_what_was_there(file: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(*_: Any, **__: Any) -> None:
        raise OSError("no space left on device")

    if file == WEIGHTS:
        monkeypatch.setattr("surgery.serialization.weights.save_file", full)
    else:
        monkeypatch.setattr(Path, "write_text", full)
    model = edited(CASES["two steps at one owner"])
    assert_raises(OSError, lambda: surgery.save(model, folder), "no space left")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_what_is_no_plain_data_is_not_saved(tmp_path: Path) -> None:
    model = edited(CASES["residual blocks"])
    assert_raises(
        surgery.BadValue, lambda: surgery.save(model, tmp_path / "new", name="a", kwargs={"act": nn.ReLU}), "plain data"
    )
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_saving_again_overwrites(tmp_path: Path) -> None:
    first, second = edited(CASES["residual blocks"]), edited(CASES["two steps at one owner"])
    surgery.save(first, tmp_path)
    surgery.save(second, str(tmp_path))
    assert_same_function(second, surgery.load(str(tmp_path), ResidualNet()), picture())


def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    surgery.save(edited(CASES["two steps at one owner"]), tmp_path)
    fresh = ResidualNet()

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("something was unpickled")

    for module, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(module, name, refuse)
    assert len(surgery.history_of(surgery.load(tmp_path, fresh))) == 2


REPLAY = """
import sys, torch, surgery
from safetensors.torch import load_file
from tests.surgery.small_net import SmallNet
torch.set_num_threads(1)
folder = sys.argv[1]
model = surgery.load(folder, SmallNet()).eval()
known = load_file(folder + "/known.safetensors")
with torch.no_grad():
    assert torch.equal(model(known["input"]), known["output"]), "another output"
print(len(surgery.history_of(model)), len(list(model.parameters())))
surgery.undo(model)
print([type(child).__name__ for child in model.blocks[0].children()], len(list(model.parameters())))
"""


def test_a_fresh_process_replays_the_steps(tmp_path: Path) -> None:
    model, image = SmallNet(), torch.rand(2, 3, 6, 6)
    surgery.transform_(model, surgery.erase_relu(stem=True), image)
    surgery.transform_(model, surgery.swap("prelu", block="blocks.1"), image)
    surgery.save(model, tmp_path)
    with torch.no_grad():
        save_file({"input": image, "output": model.eval()(image)}, tmp_path / "known.safetensors")
    ran = run_python(REPLAY, tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == ["2 17", "['Conv2d', 'BatchNorm2d', 'Conv2d', 'ReLU'] 16"]


# -- what does not belong together ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model after two steps; tests copy it before they damage it."""
    folder = tmp_path_factory.mktemp("saved")
    surgery.save(edited(CASES["two steps at one owner"]), folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def assert_refused(error: type[Exception], folder: Path, model: nn.Module, *words: str) -> None:
    """Loading fails with this error and these words, and the given model is unchanged."""
    with assert_untouched(model):
        assert_raises(error, lambda: surgery.load(folder, model), *words)


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object], *, forge: bool = False) -> None:
    """Edit the steps; with `forge` the weights say that they belong to the edited ones."""
    data = json.loads((folder / STEPS).read_text())
    change(data)
    (folder / STEPS).write_text(json.dumps(data))
    if forge:
        save_file(
            load_file(folder / WEIGHTS), folder / WEIGHTS, {"surgery": surgery.serialization.model_folder._digest(data)}
        )


def reweigh(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Edit the weights, and let them say that they belong to the steps."""
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(
        weights,
        folder / WEIGHTS,
        {"surgery": surgery.serialization.model_folder._digest(json.loads((folder / STEPS).read_text()))},
    )


def wider() -> nn.Module:
    model = ResidualNet()
    model.fc = nn.Linear(6, 5)
    return model


def renamed() -> nn.Module:
    model = ResidualNet()
    model.classifier = model.fc
    del model.fc
    model.fc = model.classifier
    del model.classifier
    model.register_parameter("scale", nn.Parameter(torch.ones(1)))
    return model


@pytest.mark.parametrize("build", [TwiceUsed, NormAct, ListLoop, InceptionNet, wider, renamed])
def test_another_model_is_refused(build: Callable[[], nn.Module], folder: Path) -> None:
    example = getattr(build, "example", picture())
    assert isinstance(example, Tensor)
    assert_refused(surgery.WrongModel, folder, build(), "hint")


def test_a_model_that_cannot_run_on_the_example_is_refused(folder: Path) -> None:
    assert_refused(surgery.SurgeryError, folder, Tied())


class TodaysTied(Tied):
    """The same calls run, but the second in the source is another of them."""

    def forward(self, x: Tensor) -> Tensor:
        if x is None:
            return self.act(x)
        return self.act(self.fc2(self.act(self.fc1(x))))


def test_a_method_that_was_written_anew_is_noticed(tmp_path: Path) -> None:
    # Its first call would be taken for the second one.
    model, _ = surgery.transform(Tied(), surgery.erase(turn=2), Tied.example)
    surgery.save(model, tmp_path)
    assert_refused(surgery.WrongModel, tmp_path, TodaysTied(), "its calls or its weights differ")
    surgery.load(tmp_path, Tied())


def test_an_edited_model_is_refused(folder: Path) -> None:
    model = ResidualNet()
    surgery.transform_(model, surgery.erase_relu(), picture())
    assert_refused(surgery.WrongModel, folder, model, "already edited", "undo")
    assert len(surgery.history_of(model)) == 1


def test_a_wrapped_model_is_refused(folder: Path) -> None:
    assert_refused(surgery.CannotLook, folder, nn.DataParallel(ResidualNet()), "model.module")


@pytest.mark.parametrize("name", [STEPS, WEIGHTS])
def test_a_missing_file_is_named(name: str, folder: Path) -> None:
    (folder / name).unlink()
    assert_refused(surgery.BadFile, folder, ResidualNet(), name)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert_refused(surgery.BadFile, tmp_path / "nowhere", ResidualNet(), "nowhere")


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data["steps"][0]["data"]["edits"].pop(),
        lambda data: data["steps"].reverse(),
        lambda data: data["steps"].clear(),
        lambda data: data["steps"][0]["data"]["edits"][0].update(make="silu"),
        lambda data: data["steps"][0].update(fingerprint=None),
        lambda data: data.update(progress=[0.5, 1]),
        lambda data: data.update(model={"name": "timm/resnet18", "kwargs": {}}),
    ],
    ids=["edit gone", "order", "no steps", "another activation", "no fingerprint", "progress", "model"],
)
def test_edited_steps_are_noticed(change: Callable[[dict[str, Any]], object], folder: Path) -> None:
    rewrite(folder, change)
    assert_refused(surgery.BadFile, folder, ResidualNet(), "do not belong together", "an edited file")


def test_reformatted_steps_are_the_same_steps(folder: Path) -> None:
    rewrite(folder, lambda data: None)
    assert len(surgery.history_of(surgery.load(folder, ResidualNet()))) == 2


def test_weights_of_another_edit_are_refused(folder: Path, tmp_path: Path) -> None:
    surgery.save(edited(CASES["residual blocks"]), tmp_path / "other")
    shutil.copy(tmp_path / "other" / WEIGHTS, folder / WEIGHTS)
    assert_refused(surgery.BadFile, folder, ResidualNet(), "do not belong together", "weights of another edit")


def test_weights_of_an_edited_model_do_not_fit_other_steps(folder: Path, tmp_path: Path) -> None:
    surgery.save(edited(CASES["residual blocks"]), tmp_path / "other")
    shutil.copy(folder / STEPS, tmp_path / "other" / STEPS)
    assert_refused(surgery.BadFile, tmp_path / "other", ResidualNet(), "do not belong together")


def test_plain_weights_are_refused(folder: Path) -> None:
    save_model(ResidualNet(), str(folder / WEIGHTS))
    assert_refused(surgery.BadFile, folder, ResidualNet(), "do not belong together", "an unedited model")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda weights: weights.pop("fc.bias"), "missing: fc.bias"),
        (lambda weights: weights.update(extra=torch.ones(1)), "unknown: extra"),
        (lambda weights: weights.update({"fc.bias": torch.ones(7)}), "other shape: fc.bias"),
    ],
    ids=["missing", "unknown", "other shape"],
)
def test_weights_that_do_not_fit_are_named(change: Any, words: str, folder: Path) -> None:
    reweigh(folder, change)
    assert_refused(surgery.WrongModel, folder, ResidualNet(), words)


@pytest.mark.parametrize("left", [0, 4, 50, -1])
def test_cut_off_weights_are_refused(left: int, folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:left])
    assert_refused(surgery.BadFile, folder, ResidualNet(), "cannot be read")


def test_a_pickle_in_place_of_the_weights_is_refused(folder: Path) -> None:
    torch.save(ResidualNet().state_dict(), folder / WEIGHTS)
    assert_refused(surgery.BadFile, folder, ResidualNet(), "cannot be read")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "3", '"text"', '{"format": 1}', '{"steps": []}', "{'format': 1}", "\ufeff{}", "[" * 99_999],
    ids=["empty", "open", "list", "null", "number", "string", "no steps", "no format", "Python", "mark", "deep"],
)
def test_garbage_is_refused(text: str, folder: Path) -> None:
    (folder / STEPS).write_text(text, encoding="utf-8")
    assert_refused(surgery.BadFile, folder, ResidualNet(), "cannot be read")


def test_bytes_that_are_no_text_are_refused(folder: Path) -> None:
    (folder / STEPS).write_bytes(random.Random(0).randbytes(300))
    assert_refused(surgery.BadFile, folder, ResidualNet(), "cannot be read")


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.update(steps="none"),
        lambda data: data.update(steps=[3]),
        lambda data: data["steps"][0].pop("data"),
        lambda data: data["steps"][1].pop("fingerprint"),
        lambda data: data["steps"][1]["data"].pop("example"),
        lambda data: data["steps"][1]["data"].update(edits=[{}]),
        lambda data: data["steps"][1]["data"]["edits"][0].update(site=[]),
        lambda data: data["steps"][1]["data"]["example"].update(args=[{"shape": [2, 3, 8, 8], "dtype": "nonsense"}]),
        lambda data: data.update(progress=3),
        lambda data: data.update(progress=[2.0, 1]),
        lambda data: data["steps"][1]["data"]["edits"][0].update(make="nonsense"),
        lambda data: data["steps"][1]["data"]["edits"][0].update(params={"nonsense": 1}),
    ],
    ids=range(12),
)
def test_steps_of_another_shape_are_refused(change: Callable[[dict[str, Any]], object], folder: Path) -> None:
    rewrite(folder, change, forge=True)
    assert_refused(surgery.SurgeryError, folder, ResidualNet())


def test_a_newer_format_is_refused(folder: Path) -> None:
    rewrite(folder, lambda data: data.update(format=2, new={"a": 1}))
    assert_refused(surgery.BadFile, folder, ResidualNet(), "unknown format", "format 1", "format 2")


def test_a_later_step_that_does_not_fit_leaves_no_trace_of_the_earlier(folder: Path) -> None:
    rewrite(folder, lambda data: data["steps"][1].update(fingerprint="0" * 64), forge=True)
    assert_refused(surgery.WrongModel, folder, ResidualNet(), "not the model the edits were made on")


# -- steps of other packages ------------------------------------------------------------------------------------------


def scaled(model: nn.Module, step: dict[str, Any]) -> None:
    """A step of another kind, as another package would register it: it cannot be undone."""
    with torch.no_grad():
        model.fc.weight.mul_(step["data"]["by"])
    done = Step("scale", step["data"], None)
    keep_history(model, History([*surgery.history_of(model), done]))


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(surgery.history.plan_data, "_replays", dict(surgery.history.plan_data._replays))
    model = ResidualNet()
    scaled(model, {"data": {"package": "scaling", "by": 2.0}})
    surgery.transform_(model, surgery.erase_relu(), picture())
    surgery.save(model, tmp_path / "foreign")
    return tmp_path / "foreign"


def test_an_unknown_kind_of_step_names_its_package(foreign: Path) -> None:
    assert_refused(surgery.BadFile, foreign, ResidualNet(), "'scale'", "import scaling")


def test_a_registered_kind_of_step_is_replayed(foreign: Path) -> None:
    surgery.register_step("scale", scaled)
    model = surgery.load(foreign, ResidualNet())
    assert [step.kind for step in surgery.history_of(model)] == ["scale", "surgery"]
    assert_raises(surgery.CannotEdit, lambda: surgery.undo(model), "'scale'")
    assert len(surgery.history_of(surgery.undo(model, steps=1))) == 1


def test_a_step_that_cannot_be_undone_leaves_no_trace_when_a_later_one_fails(foreign: Path) -> None:
    surgery.register_step("scale", scaled)
    rewrite(foreign, lambda data: data["steps"][1].update(fingerprint="0" * 64), forge=True)
    assert_refused(surgery.WrongModel, foreign, ResidualNet(), "not the model the edits were made on")


class Asked(nn.Module):
    """Takes more than tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 4, 1), nn.ReLU()

    def forward(self, x: Tensor, sizes: Any = None, **more: Any) -> Tensor:
        assert sizes is None or isinstance(sizes, tuple | dict | slice)
        return self.act(self.conv(x))


def test_an_example_keeps_its_tuples(tmp_path: Path) -> None:
    example = (picture(), ((1, 2), [3, (4.0, None)], {"a": ("b", True)}))
    model, _ = surgery.transform(Asked(), surgery.erase(), example)
    surgery.save(model, tmp_path)
    fresh = surgery.load(tmp_path, Asked())
    assert surgery.history_of(fresh)[0].data == surgery.history_of(model)[0].data
    read = Example.from_data(json.loads((tmp_path / STEPS).read_text())["steps"][0]["data"]["example"])
    assert read.args[1] == example[1]


@pytest.mark.parametrize("odd", [slice(1, 2), {1: 2}, (slice(1), torch.float32), ({"a": nn.ReLU},)], ids=str)
def test_an_example_that_cannot_be_written_is_not_saved(odd: Any, tmp_path: Path) -> None:
    model, report = surgery.transform(Asked(), surgery.erase(), {"x": picture(), "sizes": (odd,)})
    assert report.plan.edits
    assert_raises(surgery.BadValue, lambda: surgery.save(model, tmp_path / "new"), "example")
    assert not (tmp_path / "new").exists()


def test_a_loaded_model_knows_what_was_asked_of_it(tmp_path: Path) -> None:
    model = edited(CASES["residual blocks"])
    surgery.transform_(model, surgery.swap("silu", expect=3), picture())
    surgery.save(model, tmp_path)
    fresh = surgery.load(tmp_path, ResidualNet())
    with assert_untouched(fresh):
        assert_raises(surgery.CannotEdit, lambda: surgery.transform_(fresh, surgery.swap("silu"), picture()), "already")


def test_numbers_set_by_hand_go_when_a_load_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = surgery.transform(ResidualNet(), surgery.erase_relu(), picture())
    surgery.save(model, tmp_path)
    number = {"fc": {"in_features": 7}}
    rewrite(tmp_path, lambda data: data["steps"][0]["data"].update(set_by_hand=number), forge=True)
    assert_refused(surgery.BadFile, tmp_path, ResidualNet(), "cannot set integers on layers")

    monkeypatch.setattr(save_load, "read_steps", lambda folder: json.loads((folder / STEPS).read_text()))
    rewrite(tmp_path, lambda data: data.update(fingerprint="of another model"))
    fresh = ResidualNet()
    width = fresh.fc.in_features
    assert_refused(surgery.WrongModel, tmp_path, fresh, "that was saved")
    assert fresh.fc.in_features == width != 7
