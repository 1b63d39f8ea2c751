"""On a GPU: new modules are on the device of the model, and everything works as on the CPU."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torchvision
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

import surgery
from tests.asserts import assert_bit_equal, assert_same_frame, assert_untouched
from tests.models import STATED, Stated, randomise

pytestmark = pytest.mark.gpu

RULES = [surgery.erase_relu(), surgery.swap("prelu", block="layer2.*", remaining=True)]


def resnet() -> nn.Module:
    """torchvision's ResNet with one block per stage."""
    return randomise(torchvision.models.ResNet(BasicBlock, [1, 1, 1, 1], num_classes=5))


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture
def images(device: torch.device) -> Tensor:
    return torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)).to(device)


@pytest.fixture
def exact() -> Iterator[None]:
    """Convolutions in full precision and in a fixed order."""
    kept = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic, torch.backends.cuda.matmul.allow_tf32 = kept


def output(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model(images)


@pytest.mark.parametrize("kind", STATED, ids=lambda kind: kind.__name__)
def test_looking_leaves_no_trace_and_names_the_device(kind: type[Stated], device: torch.device) -> None:
    model = kind().to(device)
    before = torch.cuda.get_rng_state(device)
    with assert_untouched(model):
        sites = surgery.find_sites(model, kind.example)
    assert torch.equal(torch.cuda.get_rng_state(device), before)
    assert [site.key for site in sites] == [site.key for site in surgery.find_sites(kind(), kind.example)]
    with_weights = [site for site in sites if site.weights]
    assert all(torch.device(site.device) == device for site in with_weights)


@pytest.mark.usefixtures("exact")
def test_an_edit_carries_the_device(device: torch.device, images: Tensor) -> None:
    plain = resnet().eval()
    on_gpu = copy.deepcopy(plain).to(device)
    report = surgery.transform_(on_gpu, RULES, images[:2])
    surgery.transform_(plain, RULES, images[:2].cpu())
    assert report.added
    assert {param.device for param in (*on_gpu.parameters(), *on_gpu.buffers())} == {device}
    torch.testing.assert_close(output(on_gpu, images).cpu(), output(plain, images.cpu()), rtol=1e-3, atol=1e-3)


def test_an_example_on_the_cpu_is_enough(device: torch.device, images: Tensor) -> None:
    model = resnet().eval().to(device)
    surgery.transform_(model, RULES, images[:2].cpu())
    assert output(model, images).device == device


def test_a_model_moves_after_the_edit(device: torch.device, images: Tensor) -> None:
    model = resnet().eval()
    surgery.transform_(model, surgery.erase_relu(fade=True), images[:2].cpu())
    surgery.transform_(model, surgery.swap("prelu", block="layer2.*", position=1), images[:2].cpu())
    model.to(device)
    surgery.set_progress(model, 0.5)
    assert {param.device for param in (*model.parameters(), *model.buffers())} == {device}
    assert output(model, images).isfinite().all()
    surgery.settle(model)
    assert output(model, images).isfinite().all()
    assert {param.device for param in (*model.parameters(), *model.buffers())} == {device}


@pytest.mark.usefixtures("exact")
def test_undoing(device: torch.device, images: Tensor) -> None:
    model = resnet().eval().to(device)
    plain, frame = output(model, images), copy.deepcopy(model)
    surgery.transform_(model, RULES, images[:2])
    assert not torch.equal(output(model, images), plain)
    surgery.undo(model)
    assert_same_frame(frame, model)
    assert_bit_equal([output(model, images)], [plain])


def test_undoing_after_a_move(device: torch.device, images: Tensor) -> None:
    # What an edit took out did not move along: it has nothing to move, or it is moved when it comes back.
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.PReLU(4), nn.Conv2d(4, 4, 1))
    surgery.transform_(model, surgery.swap("silu"), images[:2].cpu())
    model.to(device)
    surgery.undo(model)
    model.to(device)
    assert output(model, images).device == device


@pytest.mark.usefixtures("exact")
def test_saving_and_loading(device: torch.device, images: Tensor, tmp_path: Path) -> None:
    model = resnet().eval().to(device)
    surgery.transform_(model, RULES, images[:2])
    surgery.save(model, tmp_path)
    there = surgery.load(tmp_path, resnet().eval().to(device))
    assert {param.device for param in there.parameters()} == {device}
    assert_bit_equal([output(there, images)], [output(model, images)])
    here = surgery.load(tmp_path, resnet().eval())
    assert {param.device.type for param in here.parameters()} == {"cpu"}
    assert_bit_equal(here.state_dict().values(), [value.cpu() for value in model.state_dict().values()], "weights")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype, device: torch.device, images: Tensor) -> None:
    model = resnet().to(device, dtype).eval()
    surgery.transform_(model, RULES, images[:2].to(dtype))
    assert {param.dtype for param in model.parameters()} == {dtype}
    assert output(model, images.to(dtype)).dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(dtype: torch.dtype, device: torch.device, images: Tensor) -> None:
    model = resnet().to(device).train()
    surgery.transform_(model, RULES, images[:2])
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    scaler = torch.amp.GradScaler("cuda", init_scale=16.0, enabled=dtype == torch.float16)
    for _ in range(2):
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype):
            loss = model(images).float().square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    assert all(param.grad is not None and param.grad.isfinite().all() for param in model.parameters())


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # the compiler's own
def test_compiled_without_a_break(mode: str, device: torch.device, images: Tensor) -> None:
    torch.compiler.reset()
    model = resnet().eval().to(device)
    surgery.transform_(model, RULES, images[:2])
    compiled = torch.compile(model, fullgraph=True, mode=mode)
    for _ in range(3):
        found = output(compiled, images).clone()
    wanted = output(model, images)
    torch.testing.assert_close(found, wanted, rtol=2e-2, atol=2e-2 * float(wanted.abs().max()))


def test_channels_last_stays(device: torch.device, images: Tensor) -> None:
    model = resnet().eval().to(device, memory_format=torch.channels_last)
    surgery.transform_(model, RULES, images[:2].to(memory_format=torch.channels_last))
    layers = [
        module.weight for module in model.modules() if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1)
    ]
    assert all(layer.is_contiguous(memory_format=torch.channels_last) for layer in layers)
    features = nn.Sequential(*list(model.children())[:6])
    found = output(features, images.to(memory_format=torch.channels_last))
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.usefixtures("exact")
def test_an_averaged_copy(device: torch.device, images: Tensor) -> None:
    model = resnet().eval().to(device)
    surgery.transform_(model, RULES, images[:2])
    averaged = ModelEmaV3(model, decay=0.5)
    averaged.update(model)
    torch.testing.assert_close(output(averaged.module, images), output(model, images), rtol=1e-3, atol=1e-3)
    surgery.undo(averaged.module)
    assert surgery.history_of(model)


def test_looking_takes_no_memory(device: torch.device) -> None:
    model = torchvision.models.resnet50().to(device)
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    surgery.find_sites(model)
    assert torch.cuda.max_memory_allocated(device) - before < 50 * 2**20
