"""Loss: the loss of a network on a batch, from timm's parts, in one or several processes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from pruning.rounds.rewind import tensors_of
from recipes.format.settings import Finetune
from recipes.optional import check_torchvision
from recipes.train.sync_norms import check_synchronisable, synchronised
from surgery.errors import BadValue
from surgery.processes import processes
from surgery.schedule.progress import Progressing

Mixing = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def task_of(model: nn.Module, options: Finetune, teacher: nn.Module | None = None) -> nn.Module:
    """A module that computes {"loss": ...} from images and labels: timm's task for these options.

    With `options.distill` the model also learns from the `teacher` (in eval mode, without gradients), which gets the
    same images.

    Raises:
        BadValue: `options.distill` without a teacher.
    """
    check_torchvision()
    from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy  # type: ignore[attr-defined]
    from timm.task import ClassificationTask, LogitDistillationTask

    criterion: nn.Module = nn.CrossEntropyLoss()
    if mixes(options):
        criterion = SoftTargetCrossEntropy()  # type: ignore[no-untyped-call]
    elif options.smoothing:
        criterion = LabelSmoothingCrossEntropy(options.smoothing)  # type: ignore[no-untyped-call]
    device = next(model.parameters()).device
    if not options.distill:
        return ClassificationTask(model, criterion, device=device, verbose=False)
    if teacher is None:
        raise BadValue("Distillation needs a teacher.", asked="distill", try_="teacher=, the unchanged network")
    return LogitDistillationTask(
        _Student(model), _teacher_of(teacher), criterion, distill_loss_weight=options.distill_loss_weight,
        task_loss_weight=options.task_loss_weight, temperature=options.kd_temperature, device=device, verbose=False,
    )  # fmt: skip


def mixes(options: Finetune) -> bool:
    """Whether images and labels are mixed in pairs."""
    return options.mixup > 0 or options.cutmix > 0


def mixing_of(options: Finetune, classes: int) -> Mixing:
    """A function that mixes a batch: timm's mixup and cutmix, with numpy's generator; labels become (B, classes).

    Raises:
        BadValue: only when it happens: a batch of an odd number of images.
    """
    check_torchvision()
    from timm.data import Mixup  # type: ignore[attr-defined]

    mixup: Any = Mixup(  # type: ignore[no-untyped-call]
        options.mixup, options.cutmix, label_smoothing=options.smoothing, num_classes=classes
    )  # fmt: skip

    def mixing(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if len(images) % 2:
            raise BadValue(
                "Mixing needs an even number of images.", asked=f"a batch of {len(images)}", try_="an even batch_size"
            )
        mixed: tuple[Tensor, Tensor] = mixup(images.clone(), labels)  # mixup is in place
        return mixed

    return mixing


def body_of(model: nn.Module, options: Finetune) -> nn.Module:
    """The module to train for `model`: itself, or a copy of its modules that shares the weights.

    The copy is compiled, or has synchronised batch norms; the model keeps its own modules.

    Raises:
        BadValue: batch norms over several processes that are not on CUDA.
        CannotEdit, NotProved: batch norms that have no equal over several processes.
    """
    check_norms(model, options)
    wide = _synchronises(options)
    if not (wide or options.torchcompile):
        return model
    body = copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})
    if wide:
        body = synchronised(body)
    if options.torchcompile:
        body.compile()
    return body


def check_norms(model: nn.Module, options: Finetune) -> None:
    """Check that batch norms can be synchronised, if requested.

    Raises:
        BadValue: they are not on CUDA.
        CannotEdit: a norm that has no equal over several processes, by name.
    """
    if _synchronises(options):
        if not _on_cuda(model):
            raise BadValue("Synchronised batch norms need CUDA.", asked="sync_bn", try_="sync_bn=False")
        check_synchronisable(model)


def distribute(task: Any, body: nn.Module) -> None:
    """Average gradients over the processes; a no-op for a single process."""
    if processes() == 1:
        return
    device = next(body.parameters()).device
    places = [device.index or 0] if device.type == "cuda" else None
    task.prepare_distributed(device_ids=places, find_unused_parameters=has_phases(body))


def unsynced(task: nn.Module) -> AbstractContextManager[None]:
    """Inside, gradients stay in their process: for all batches of a step but the last."""
    wrapped = next((module for module in task.modules() if isinstance(module, DistributedDataParallel)), None)
    return wrapped.no_sync() if wrapped is not None else nullcontext()


def has_phases(model: nn.Module) -> bool:
    """Whether some weights have no gradient during part of the training: PWLU warm-up, alternating slopes."""
    return any(
        isinstance(module, Progressing) and bool(getattr(module, "warmup", None) or getattr(module, "alternate", None))
        for module in model.modules()
    )


def gathering(model: nn.Module) -> int:
    """How many modules of a model are still gathering statistics for their parameters."""
    return sum(bool(getattr(module, "gathering", False)) for module in model.modules())


@torch.no_grad()
def share_from_first(model: nn.Module) -> None:
    """Give every process the weights and buffers of the first."""
    for tensor in tensors_of(model).values():
        distributed.broadcast(tensor, 0)


def _synchronises(options: Finetune) -> bool:
    return options.sync_bn and processes() > 1


def _on_cuda(model: nn.Module) -> bool:
    return bool(next(model.parameters()).device.type == "cuda")


class _Student(nn.Module):
    """The model with the attribute that timm's distillation needs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.pretrained_cfg = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}  # no normalisation

    def forward(self, input: Tensor) -> Any:
        return self.model(input)


def _teacher_of(model: nn.Module) -> nn.Module:
    """A teacher for timm's distillation, whose own class, up to timm 1.0.23, only builds networks by name."""
    from timm.task import DistillationTeacher

    class Teacher(DistillationTeacher):
        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.model = model

        def normalize_input(self, input: Tensor, *_: object) -> Tensor:
            return input  # student and teacher get the same images

        def forward(self, input: Tensor, return_features: bool = False) -> Any:
            return self.model(input)

    return Teacher()
