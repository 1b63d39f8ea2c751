"""Edited models work with the usual tools: copies, compilers, exporters, trainers, pruners."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy
import pytest
import timm
import torch
import torch_pruning
import torchvision
from timm.models import create_feature_extractor as timm_feature_extractor
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.models.quantization.resnet import QuantizableBasicBlock, QuantizableResNet
from torchvision.models.resnet import BasicBlock

import surgery
from tests.asserts import assert_bit_equal, assert_raises, assert_same_frame, assert_same_function, assert_untouched
from tests.models import picture as small_picture
from tests.models import randomise
from tests.processes import in_two, run_python
from tests.surgery.small_net import SmallNet

IMAGES = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def resnet() -> nn.Module:
    """torchvision's ResNet-18 with half the blocks: one ReLU object for both calls of a block."""
    return randomise(torchvision.models.ResNet(BasicBlock, [1, 1, 1, 1], num_classes=5))


def densenet() -> nn.Module:
    """torchvision's DenseNet, very narrow: the last ReLU is a function."""
    net = torchvision.models.DenseNet(growth_rate=4, block_config=(2, 2), num_init_features=8, num_classes=5)
    return randomise(net)


def timm_resnet() -> nn.Module:
    """timm's smallest ResNet: every ReLU is a module of its own."""
    return randomise(timm.create_model("test_resnet", num_classes=5))


@dataclass(frozen=True)
class Net:
    """A model, its edit, and whether that needs a rewritten class."""

    build: Callable[[], nn.Module]
    rules: tuple[surgery.Rule, ...]
    owner: str
    rewritten: bool

    def edited(self) -> nn.Module:
        torch.manual_seed(0)
        model = self.build()
        for rule in self.rules:
            surgery.transform_(model, rule, IMAGES[:2])
        return model.eval()


NETS = {
    "shared": Net(resnet, (surgery.erase_relu(), surgery.swap("prelu", block="layer2.*")), "layer1.0", True),
    "functional": Net(densenet, (surgery.swap("prelu", owner=""), surgery.erase_relu(share=0.5)), "", True),
    "slot": Net(timm_resnet, (surgery.erase_relu(), surgery.swap("prelu", block="layer2.*")), "layer1.0", False),
}
_edited: dict[str, nn.Module] = {}


@pytest.fixture(params=NETS)
def net(request: pytest.FixtureRequest) -> Net:
    return NETS[request.param]


@pytest.fixture
def model(request: pytest.FixtureRequest, net: Net) -> nn.Module:
    """The edited model, in eval mode; a copy for every test."""
    name = next(key for key, value in NETS.items() if value is net)
    if name not in _edited:
        _edited[name] = net.edited()
        rewritten = type(_edited[name].get_submodule(net.owner)) is not type(net.build().get_submodule(net.owner))
        assert rewritten == net.rewritten
    return copy.deepcopy(_edited[name])


def edited_resnet() -> nn.Module:
    return copy.deepcopy(_edited.setdefault("shared", NETS["shared"].edited()))


def output(model: nn.Module, images: Tensor = IMAGES) -> Tensor:
    with torch.no_grad():
        return model(images)


def gradients(model: nn.Module, run: Callable[[Tensor], Tensor] | None = None) -> dict[str, Tensor]:
    """Gradients of one training step, run by the model itself or by `run`; the model is unchanged."""
    model.zero_grad()
    torch.manual_seed(1)
    (model if run is None else run)(IMAGES).square().sum().backward()
    found = {name: param.grad for name, param in model.named_parameters()}
    assert all(value is not None for value in found.values()), "a parameter has no gradient"
    model.zero_grad()
    return found


def new_names(net: Net, model: nn.Module) -> list[str]:
    return sorted({name for name, _ in model.named_parameters()} - {name for name, _ in net.build().named_parameters()})


# -- what an edited model is ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_weight_names_stay(net: Net, model: nn.Module) -> None:
    plain = net.build().state_dict()
    names = list(model.state_dict())
    assert [name for name in names if name in plain] == list(plain)
    added = [name for name in names if name not in plain]
    assert added == new_names(net, model) and len(added) == 1
    # The weights of the unedited model load into the edited one, and the other way round but for the new ones.
    model.load_state_dict(plain | {name: model.state_dict()[name] for name in added})
    assert net.build().load_state_dict(model.state_dict(), strict=False).unexpected_keys == added


def test_class_checks_and_text_stay(net: Net, model: nn.Module) -> None:
    for path, old in net.build().named_modules():
        new = model.get_submodule(path)
        if not isinstance(old, nn.ReLU):
            assert isinstance(new, type(old)) and type(new).__name__ == type(old).__name__
    assert repr(model).splitlines()[0] == repr(net.build()).splitlines()[0]


# -- copies -----------------------------------------------------------------------------------------------------------


def test_a_copy_lives_its_own_life(net: Net, model: nn.Module) -> None:
    copied = copy.deepcopy(model)
    assert_same_function(model, copied, IMAGES)
    assert not {id(module) for module in model.modules()} & {id(module) for module in copied.modules()}
    known = output(model)
    with torch.no_grad():
        for param in copied.parameters():
            param.mul_(1.1)
    assert_bit_equal([output(model)], [known])
    assert not torch.equal(output(copied), known)


@pytest.mark.slow
def test_a_copy_can_be_undone(net: Net, model: nn.Module) -> None:
    known, copied = output(model), copy.deepcopy(model)
    surgery.undo(copied)
    assert_same_frame(net.build().eval(), copied)
    assert type(copied.get_submodule(net.owner)) is type(net.build().get_submodule(net.owner))
    plain = net.build()
    plain.load_state_dict(copied.state_dict())
    assert_same_function(plain.eval(), copied, IMAGES)
    assert_bit_equal([output(model)], [known])
    assert surgery.history_of(model) and not surgery.history_of(copied)
    assert_bit_equal([output(surgery.undo(model))], [output(copied)])


def test_a_shallow_copy_of_the_weights_is_enough_to_go_back(net: Net, model: nn.Module) -> None:
    best = copy.deepcopy(model.state_dict())
    known = output(model)
    with torch.no_grad():
        for param in model.parameters():
            param.zero_()
    model.load_state_dict(best)
    assert_bit_equal([output(model)], [known])


def test_an_averaged_copy_follows(net: Net, model: nn.Module) -> None:
    averaged = ModelEmaV3(model, decay=0.5)
    before = {name: param.clone() for name, param in averaged.module.named_parameters()}
    with torch.no_grad():
        for param in model.parameters():
            param.add_(1.0)
    averaged.update(model)
    assert set(new_names(net, model)) <= set(before)
    for name, param in averaged.module.named_parameters():
        torch.testing.assert_close(param, before[name] + 0.5)
    surgery.undo(averaged.module)
    assert not surgery.history_of(averaged.module) and surgery.history_of(model)


def test_an_averaged_copy_fades_when_told(net: Net) -> None:
    model, _ = surgery.transform(net.build(), surgery.erase_relu(fade=True), IMAGES[:2])
    averaged = ModelEmaV3(model)
    for network in (model, averaged.module):
        surgery.set_progress(network, 0.5, step=1)
    assert_same_function(model, averaged.module, IMAGES)
    surgery.settle(averaged.module)
    assert surgery.activations.Fade in {type(module) for module in model.modules()}
    assert surgery.activations.Fade not in {type(module) for module in averaged.module.modules()}


def test_a_pickled_model_comes_back(net: Net, model: nn.Module) -> None:
    for module in (pickle.loads(pickle.dumps(model)), _through_torch(model)):
        assert type(module.get_submodule(net.owner)) is type(model.get_submodule(net.owner))
        assert_same_function(model, module, IMAGES)
        surgery.undo(module)
        assert type(module.get_submodule(net.owner)) is type(net.build().get_submodule(net.owner))


def _through_torch(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.slow
def test_a_model_rewritten_twice_can_be_pickled() -> None:
    model = SmallNet()
    surgery.transform_(model, surgery.erase(owner="blocks.*", ordinal=1), small_picture())
    surgery.transform_(model, surgery.swap("prelu", callee="torch.relu"), small_picture())
    surgery.transform_(model, surgery.swap("prelu", owner="blocks.0"), small_picture())
    twice = torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, [1, 1, 1, 1], num_classes=3)
    surgery.transform_(twice, surgery.erase(block="layer1.*", position=3), IMAGES[:2])
    surgery.transform_(twice, surgery.swap("prelu", block="layer1.*", position=2), IMAGES[:2])
    for network, example in ((model, small_picture()), (twice, IMAGES)):
        for again in (pickle.loads(pickle.dumps(network)), copy.deepcopy(network)):
            assert_same_function(network, again, example)
            surgery.undo(again, steps=1)
            assert len(surgery.history_of(again)) == len(surgery.history_of(network)) - 1
            surgery.undo(again)


UNPICKLE = """
import pickle, sys, torch
torch.set_num_threads(1)
folder = sys.argv[1]
known = torch.load(folder + "/known.pt")
whole = torch.load(folder + "/whole.pt", weights_only=False)
with open(folder + "/whole.pickle", "rb") as file:
    other = pickle.load(file)
import surgery
for model in (whole, other):
    with torch.no_grad():
        assert torch.equal(model(known["input"]), known["output"]), "another output"
    surgery.undo(model)
    with torch.no_grad():
        assert torch.equal(model(known["input"]), known["plain"]), "another output after undo"
print("well")
"""


def assert_comes_back_in_a_fresh_process(model: nn.Module, images: Tensor, folder: Path) -> None:
    torch.save(model, folder / "whole.pt")
    (folder / "whole.pickle").write_bytes(pickle.dumps(model))
    known = {"input": images, "output": output(model, images), "plain": output(surgery.undo(model), images)}
    torch.save(known, folder / "known.pt")
    ran = run_python(UNPICKLE, folder)
    assert ran.stdout == "well\n", ran.stderr


def test_a_pickled_model_comes_back_in_a_fresh_process(tmp_path: Path) -> None:
    small = SmallNet().eval()
    surgery.transform_(small, surgery.erase(owner="blocks.*", ordinal=1), small_picture())
    surgery.transform_(small, [surgery.swap("prelu", callee="torch.relu"), surgery.swap("silu", owner="blocks.1")],
                       small_picture())  # fmt: skip
    assert_comes_back_in_a_fresh_process(small, small_picture(), tmp_path)


@pytest.mark.slow
def test_a_pickled_library_model_comes_back_in_a_fresh_process(model: nn.Module, tmp_path: Path) -> None:
    assert_comes_back_in_a_fresh_process(model, IMAGES, tmp_path)


# -- compilers and exporters ------------------------------------------------------------------------------------------


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_compiler")
def test_an_edited_model_compiles_without_a_break(model: nn.Module) -> None:
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(output(compiled), output(model))
    wanted = gradients(model)
    got = gradients(model, compiled)
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_compiler")
def test_a_model_compiled_before_sees_the_edit_and_its_undoing(net: Net) -> None:
    model = net.build().eval()
    model.compile(backend="eager", fullgraph=True)
    plain = output(model)
    for rule in net.rules:
        surgery.transform_(model, rule, IMAGES[:2])
    assert_bit_equal([output(model)], [output(copy.deepcopy(model).eval())])
    assert not torch.equal(output(model), plain)
    surgery.undo(model)
    assert_bit_equal([output(model)], [plain])


@pytest.mark.usefixtures("fresh_compiler")
def test_fading_compiles_once() -> None:
    model, _ = surgery.transform(SmallNet().eval(), surgery.erase_relu(fade=True), small_picture())
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    for progress in (0.0, 0.25, 0.5, 1.0):
        surgery.set_progress(model, progress)
        torch.testing.assert_close(output(compiled, small_picture()), output(model, small_picture()))
    assert counter.frame_count == 1


def test_a_compiled_wrapper_is_refused() -> None:
    compiled = torch.compile(SmallNet(), backend="eager")
    assert_raises(surgery.CannotLook, lambda: surgery.find_sites(compiled, small_picture()), "_orig_mod")


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inductor's own imports
def test_an_edited_model_compiles_with_inductor(model: nn.Module) -> None:
    compiled = torch.compile(model, fullgraph=True)
    torch.testing.assert_close(output(compiled), output(model), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_an_edited_model_is_exported_with_any_batch(model: nn.Module) -> None:
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(model, (IMAGES[:2],), dynamic_shapes=({0: batch},))
    for count in (2, 3):
        torch.testing.assert_close(output(program.module(), IMAGES[:count]), output(model, IMAGES[:count]))
    assert set(program.state_dict) == set(model.state_dict())


def _largest_difference_in_onnxruntime(model: nn.Module, images: Tensor, file: Path) -> float:
    import onnxruntime

    batch = torch.export.Dim("batch", min=2, max=64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        torch.onnx.export(model, (images,), file, dynamic_shapes=({0: batch},), dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    differences = []
    for some in (images, images[:1].repeat(4, 1, 1, 1)):
        (got,) = session.run(None, {session.get_inputs()[0].name: some.numpy()})
        wanted = output(model, some).numpy()
        differences.append(float(numpy.abs(got - wanted).max() / numpy.abs(wanted).max()))
    return max(differences)


@pytest.mark.slow
def test_an_edited_model_goes_to_onnx(tmp_path: Path) -> None:
    small = randomise(SmallNet()).eval()
    surgery.transform_(small, [surgery.erase(owner="blocks.*", ordinal=1), surgery.swap("prelu", callee="torch.relu")],
                       small_picture())  # fmt: skip
    assert _largest_difference_in_onnxruntime(small, small_picture(), tmp_path / "small.onnx") < 1e-5


@pytest.mark.slow
def test_an_edited_resnet50_goes_to_onnx(tmp_path: Path) -> None:
    model = randomise(torchvision.models.resnet50()).eval()
    report = surgery.transform_(model, surgery.erase_relu())
    assert len(report.plan.edits) == 16
    images = torch.rand(2, 3, 224, 224)
    difference = _largest_difference_in_onnxruntime(model, images, tmp_path / "resnet50.onnx")
    print(f"largest difference relative to the largest output: {difference:.2e}")
    assert difference < 1e-4


SCRIPTED = pytest.mark.filterwarnings(r"ignore:.*torch\.jit\..* is deprecated")


@pytest.mark.slow
@SCRIPTED
def test_an_edited_model_can_be_scripted_and_traced(model: nn.Module) -> None:
    for network in (torch.jit.script(model), torch.jit.trace(model, IMAGES)):
        torch.testing.assert_close(output(network), output(model))
        assert_raises(surgery.CannotLook, lambda given=network: surgery.find_sites(given, IMAGES), "script or trace")


class Loop(nn.Module):
    """A functional call in a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = torch.relu(conv(x))
        return x


@SCRIPTED
def test_a_rewritten_loop_cannot_be_scripted() -> None:
    # The pass of the loop is counted by an expression that TorchScript does not know: an error, no wrong result.
    model = Loop()
    torch.jit.script(model)
    surgery.transform_(model, surgery.erase(iteration=2), small_picture())
    with pytest.raises(torch.jit.frontend.UnsupportedNodeError):
        torch.jit.script(model)
    torch.testing.assert_close(
        output(torch.jit.trace(model, small_picture()), small_picture()), output(model, small_picture())
    )


class Fusing(nn.Module):
    """A block that fuses itself, with one ReLU for two calls."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.relu = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.conv2(self.relu(self.conv1(x))))

    def fuse_model(self) -> None:
        """Nothing: that it is there is what counts."""


def test_an_owner_that_fuses_itself_is_not_rewritten() -> None:
    model = nn.Sequential(Fusing())
    with assert_untouched(model):
        assert_raises(
            surgery.CannotEdit,
            lambda: surgery.transform_(model, surgery.erase(turn=1), small_picture()),
            "Fusing.fuse_model()",
            "fuse, then transform",
        )
    surgery.transform_(model, surgery.erase(), small_picture())  # both calls: the slot is enough
    assert type(model[0]) is Fusing


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning")
def test_library_models_that_fuse_their_blocks_still_fuse() -> None:
    net = QuantizableResNet(QuantizableBasicBlock, [1, 1, 1, 1], num_classes=3)
    model, _ = surgery.transform(randomise(net), surgery.erase_relu(), IMAGES[:2])
    wanted = output(model.eval())
    assert not torch.equal(wanted, output(net.eval()))
    model.fuse_model()
    assert not [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    torch.testing.assert_close(output(model), wanted, rtol=1e-3, atol=1e-3)


# -- training ---------------------------------------------------------------------------------------------------------


def test_every_parameter_learns(net: Net, model: nn.Module) -> None:
    before = {name: param.detach().clone() for name, param in model.train().named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    model(IMAGES).square().sum().backward()
    optimizer.step()
    assert all(param.grad is not None for param in model.parameters())
    assert new_names(net, model)
    for name in new_names(net, model):
        assert not torch.equal(model.get_parameter(name), before[name])


def test_torch_checkpointing_gives_the_same_gradients(model: nn.Module) -> None:
    wanted = gradients(model)
    got = gradients(model, lambda images: checkpoint(model, images, use_reentrant=False))
    assert_bit_equal(got.values(), wanted.values(), "gradient")


def test_checkpointing_every_block_gives_the_same_gradients() -> None:
    model = edited_resnet()

    def run(images: Tensor) -> Tensor:
        x = model.maxpool(model.relu(model.bn1(model.conv1(images))))
        for layer in (model.layer1, model.layer2, model.layer3, model.layer4):
            x = checkpoint(layer, x, use_reentrant=False)
        return model.fc(torch.flatten(model.avgpool(x), 1))

    assert_bit_equal([run(IMAGES)], [model(IMAGES)])
    assert_bit_equal(gradients(model, run).values(), gradients(model).values(), "gradient")


def test_timm_checkpointing_gives_the_same_gradients() -> None:
    # Edited before the switch and after it.
    early = NETS["slot"].edited().train()
    wanted = gradients(copy.deepcopy(early))
    early.set_grad_checkpointing(True)
    torch.manual_seed(0)
    late = timm_resnet()
    late.set_grad_checkpointing(True)
    for rule in NETS["slot"].rules:
        surgery.transform_(late, rule, IMAGES[:2])
    for model in (early, late.train()):
        assert model.grad_checkpointing
        assert_bit_equal(gradients(model).values(), wanted.values(), "gradient")


def test_timm_checkpointing_of_a_rewritten_owner() -> None:
    torch.manual_seed(0)
    model = randomise(timm.create_model("res2net50_26w_4s", num_classes=3, layers=(1, 1, 1, 1), base_width=4))
    surgery.transform_(model.train(), surgery.erase(owner="layer2.0", iteration=2), IMAGES[:2])
    wanted = gradients(copy.deepcopy(model))
    model.set_grad_checkpointing(True)
    assert_bit_equal(gradients(model).values(), wanted.values(), "gradient")


def test_autocast(net: Net, model: nn.Module) -> None:
    wanted = output(model)
    with torch.autocast("cpu", torch.bfloat16):
        low = output(model)
        found = model.train()(IMAGES)
    found.float().square().sum().backward()
    assert found.dtype == low.dtype == torch.bfloat16
    assert (low - wanted).abs().max() < 0.1 * wanted.abs().max()
    for name, param in model.named_parameters():
        assert param.grad is not None and param.grad.dtype == torch.float32 and param.grad.isfinite().all(), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, torch.bfloat16) for name in NETS), ("slot", torch.float16), ("shared", torch.float64)]
)
def test_other_precisions_before_and_after(name: str, dtype: torch.dtype) -> None:
    net = NETS[name]
    before, after = net.build().eval().to(dtype), net.edited().to(dtype)
    for rule in net.rules:
        surgery.transform_(before, rule, IMAGES[:2].to(dtype))
    assert {param.dtype for param in before.parameters()} == {dtype}
    before.load_state_dict(after.state_dict())
    assert_bit_equal([output(before, IMAGES.to(dtype))], [output(after, IMAGES.to(dtype))])
    before(IMAGES.to(dtype)).float().square().sum().backward()
    assert all(param.grad is not None and param.grad.dtype == dtype for param in before.parameters())


def average_gradients(rank: int, folder: Path) -> None:
    model = surgery.load(folder, SmallNet()).eval()
    parallel = nn.parallel.DistributedDataParallel(model)
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    parallel(images[2 * rank : 2 * rank + 2]).square().mean().backward()
    torch.save({name: parameter.grad for name, parameter in model.named_parameters()}, folder / f"{rank}.pt")
    assert_raises(surgery.CannotLook, lambda: surgery.transform_(parallel, surgery.erase_relu()), "model.module")


def test_two_processes_average_all_gradients(tmp_path: Path) -> None:
    model = randomise(SmallNet()).eval()
    surgery.transform_(model, [surgery.erase(owner="blocks.*", ordinal=1), surgery.swap("prelu", callee="torch.relu")],
                       small_picture())  # fmt: skip
    surgery.save(model, tmp_path)
    in_two(average_gradients, tmp_path)
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    model(images).square().mean().backward()
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert len(first) == len(list(SmallNet().parameters())) + 1
    for name, param in model.named_parameters():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], param.grad)
    assert any(tensor.abs().max() > 0 for name, tensor in first.items() if name not in SmallNet().state_dict())


# -- hooks and other ways to call -------------------------------------------------------------------------------------


def test_hooks_fire_before_and_after_an_edit(net: Net) -> None:
    model, fired = net.build().eval(), []
    for path, module in model.named_modules():
        module.register_forward_hook(lambda module, args, result, path=path: fired.append(path))
        module.register_forward_pre_hook(lambda module, args, path=path: fired.append(f"before {path}"))
    output(model)
    wanted = list(fired)
    for rule in net.rules:
        surgery.transform_(model, rule, IMAGES[:2])
    fired.clear()
    output(model)
    calls = {site.module for site in surgery.find_sites(net.build(), IMAGES[:2])}
    for name in set(wanted):
        path = name.removeprefix("before ")
        if net.rewritten and path in calls:
            # A shared ReLU: the calls that have modules of their own now went to those.
            assert fired.count(name) <= wanted.count(name)
        else:
            assert fired.count(name) == wanted.count(name), name
    surgery.undo(model)
    fired.clear()
    output(model)
    assert fired == wanted


def test_a_hook_that_changes_the_result_of_a_replaced_module_counts() -> None:
    model = timm_resnet().eval()
    handle = model.layer1[0].act2.register_forward_hook(lambda module, args, result: result * 0)
    surgery.transform_(model, surgery.swap("silu", site="layer1.0.act2"), IMAGES[:2])
    muted = output(model)
    handle.remove()
    assert not torch.equal(output(model), muted)
    assert not surgery.undo(model).layer1[0].act2._forward_hooks


def test_functional_call(model: nn.Module) -> None:
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    assert_bit_equal([torch.func.functional_call(model, state, (IMAGES,)).detach()], [output(model)])
    changed = {name: tensor * 1.5 if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    assert not torch.equal(torch.func.functional_call(model, changed, (IMAGES,)), output(model))
    assert_bit_equal(model.state_dict().values(), state.values(), "weights")


def test_gradients_per_sample(model: nn.Module) -> None:
    parameters = {name: param.detach() for name, param in model.named_parameters()}
    buffers = dict(model.named_buffers())

    def loss(parameters: dict[str, Tensor], image: Tensor) -> Tensor:
        return torch.func.functional_call(model, (parameters, buffers), (image[None],)).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, IMAGES)
    for name, tensor in gradients(model).items():
        torch.testing.assert_close(each[name].sum(0), tensor, rtol=1e-3, atol=1e-3 * float(tensor.abs().max()))


# -- timm and torchvision ---------------------------------------------------------------------------------------------


def test_timm_heads_and_features() -> None:
    model = NETS["slot"].edited()
    features = model.forward_features(IMAGES)
    assert_bit_equal([model.forward_head(features).detach()], [output(model)])
    assert model.get_classifier() is model.fc
    model.reset_classifier(7)
    assert output(model).shape == (3, 7)
    model.reset_classifier(0)
    assert output(model).shape == (3, model.num_features)
    last, middle = model.forward_intermediates(IMAGES, indices=[1, 3])
    assert_bit_equal([last.detach()], [features.detach()])
    assert len(middle) == 2
    surgery.undo(model)  # the new classifier stays: it was no edit of ours
    assert output(model).shape == (3, model.num_features)


@pytest.mark.slow
@pytest.mark.parametrize("train", [False, True])
def test_features_are_extracted_by_torchvision(train: bool) -> None:
    model, seen = edited_resnet().train(train), {}
    nodes = {"layer1": "low", "layer4.0.bn2": "high", "fc": "out"}
    extractor = create_feature_extractor(model, return_nodes=nodes).train(train)
    for path, name in nodes.items():
        layer = model.get_submodule(path)
        layer.register_forward_hook(lambda module, args, result, name=name: seen.update({name: result.clone()}))
    torch.manual_seed(0)
    found = extractor(IMAGES)
    model.load_state_dict(edited_resnet().state_dict())  # a batch in training moved the statistics both share
    torch.manual_seed(0)
    model(IMAGES)
    # The block adds in place to what bn2 gave; that is so in the unedited model, too.
    assert_bit_equal([found["low"].detach(), found["out"].detach()], [seen["low"].detach(), seen["out"].detach()])
    assert found["high"].shape == seen["high"].shape


def test_features_are_extracted_by_timm() -> None:
    model = NETS["slot"].edited()
    extractor = timm_feature_extractor(model, {"layer1": "low", "layer2": "high"})
    found = extractor(IMAGES)
    middle = model.forward_intermediates(IMAGES, indices=[1, 2], intermediates_only=True)
    assert_bit_equal([tensor.detach() for tensor in found.values()], [tensor.detach() for tensor in middle])


def test_timm_feature_nets_are_edited() -> None:
    net = randomise(timm.create_model("test_resnet", features_only=True, out_indices=(1, 2))).eval()
    plain = output(net)
    report = surgery.transform_(net, surgery.erase_relu(), IMAGES[:2])
    assert len(report.plan.edits) > 0
    assert not any(torch.equal(got, other) for got, other in zip(plain, output(net), strict=True))
    surgery.undo(net)
    assert_bit_equal(plain, output(net))


# -- pruners and parametrizations -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("to", ["identity", "prelu"])
def test_torch_pruning_halves_an_edited_model(to: str, net: Net) -> None:
    model = net.build().eval()
    rules = [surgery.erase_relu()]
    if to == "prelu":
        # Torch-Pruning cannot tell the channels of an `nn.PReLU(1)` that leads to a concat, as one at the stem does.
        rules.append(surgery.swap("prelu", block="*layer*", remaining=True))
    surgery.transform_(model, rules, IMAGES[:2])
    count = sum(param.numel() for param in model.parameters())
    head = model.classifier if net.build is densenet else model.fc
    pruner = torch_pruning.pruner.MagnitudePruner(
        model, IMAGES[:1], importance=torch_pruning.importance.MagnitudeImportance(), pruning_ratio=0.5,
        ignored_layers=[head],
    )  # fmt: skip
    pruner.step()
    left = sum(param.numel() for param in model.parameters())
    assert left < 0.4 * count
    assert output(model).shape == (3, 5)
    model.train()(IMAGES).square().sum().backward()
    edits = len(surgery.find_sites(model, IMAGES[:2]))
    surgery.undo(model)
    assert len(surgery.find_sites(model, IMAGES[:2])) == len(surgery.find_sites(net.build(), IMAGES[:2])) >= edits
    assert output(model.eval()).shape == (3, 5)
    surgery.transform_(model, surgery.erase_relu(), IMAGES[:2])  # surgery on a pruned model


@pytest.mark.slow
def test_masks_elsewhere_stay(net: Net) -> None:
    model = net.build().eval()
    path = next(path for path, module in model.named_modules() if isinstance(module, nn.Conv2d))
    prune.random_unstructured(model.get_submodule(path), "weight", 0.5)
    output(model)
    mask = model.get_submodule(path).weight_mask.clone()
    for rule in net.rules:
        surgery.transform_(model, rule, IMAGES[:2])
    layer = model.get_submodule(path)
    assert torch.equal(layer.weight_mask, mask) and len(layer._forward_pre_hooks) == 1
    with torch.no_grad():
        layer.weight_orig.fill_(1.0)
    output(model)
    assert torch.equal(layer.weight.detach(), mask)
    surgery.undo(model)
    assert torch.equal(model.get_submodule(path).weight_mask, mask)


@pytest.mark.slow
@pytest.mark.parametrize("apply", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_parametrizations_elsewhere_stay(apply: Callable[..., nn.Module], net: Net) -> None:
    model = net.build().eval()
    path = next(path for path, module in model.named_modules() if isinstance(module, nn.Conv2d))
    apply(model.get_submodule(path))
    plain = output(model)
    for rule in net.rules:
        surgery.transform_(model, rule, IMAGES[:2])
    assert torch.nn.utils.parametrize.is_parametrized(model.get_submodule(path))
    assert not torch.equal(output(model), plain)
    assert_bit_equal([output(surgery.undo(model))], [plain])


def test_a_graph_that_torch_traced_is_edited_and_lives_on() -> None:
    model = torch.fx.symbolic_trace(randomise(SmallNet()).eval())
    plain = output(model, small_picture())
    surgery.transform_(model, surgery.erase(callee="relu*"), small_picture())
    for network in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_bit_equal([output(network, small_picture())], [output(model, small_picture())])
        assert surgery.history_of(network)
        assert_bit_equal([output(surgery.undo(network), small_picture())], [plain])
    assert not torch.equal(output(model, small_picture()), plain)
