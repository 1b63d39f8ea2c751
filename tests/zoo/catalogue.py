"""Every model of both zoos: how to build it, what to call it on, and which ones cannot be swept, with the reason."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import timm
import torch
import torchvision
from torch import nn
from torch.overrides import TorchFunctionMode

BATCH = 2


@dataclass(frozen=True)
class Excluded:
    """A model that is left out: why, and the error that building or running it raises today.

    The sweep expects exactly this error, so that a model that starts to work does not stay on the list.
    """

    reason: str
    error: type[BaseException]
    message: str


EXCLUDED: dict[str, Excluded] = {}


@dataclass(frozen=True)
class Small:
    """How a model is made small enough to be run with numbers many times."""

    size: int | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)


# The smallest model of every file of both zoos, and whatever else holds an owner class that they lack.
REPRESENTATIVES: dict[str, Small] = {}

# Owner classes whose calls the library refuses to edit, and why.
REFUSED_OWNERS: dict[str, str] = {}

# What a full sweep covered when this was written; less is a fault.
AT_LEAST: dict[str, int] = {}

_DETECTORS = ("fasterrcnn", "maskrcnn", "keypointrcnn", "retinanet", "fcos", "ssd")
_DENSE = ("deeplabv3", "fcn_", "lraspp")
_CLIPS = {"mc3_18": 8, "r2plus1d_18": 8, "r3d_18": 8, "s3d": 16, "mvit": 16, "swin3d": 8}


def names() -> list[str]:
    """All names of both zoos, as "zoo/name"."""
    torchvision_names = [f"torchvision/{name}" for name in torchvision.models.list_models()]
    return torchvision_names + [f"timm/{name}" for name in timm.list_models()]


def is_detector(name: str) -> bool:
    """Detectors take a list of pictures and cannot run on the meta device."""
    return name.startswith("torchvision/") and name.split("/")[1].startswith(_DETECTORS)


def has_default_example(name: str) -> bool:
    """True for classifiers: the library must come upon the right example by itself."""
    short = name.split("/")[1]
    other = (*_DETECTORS, *_DENSE, *_CLIPS, "raft")
    return name.startswith("timm/") or not short.startswith(other)


def build(name: str, **kwargs: Any) -> nn.Module:
    """The model of that name with random weights, on the current default device."""
    zoo, short = name.split("/")
    if zoo == "timm":
        return timm.create_model(short, pretrained=False, **kwargs)
    builder = torchvision.models.get_model_builder(short)
    kwargs = {"weights": None} | kwargs
    if is_detector(name) or short.startswith(_DENSE):
        kwargs |= {"weights_backbone": None}
    if is_detector(name) and not short.startswith("ssd"):
        kwargs |= {"min_size": 64, "max_size": 64}
    if "rcnn" in short:  # random weights find something everywhere: keep what the heads run on small
        kwargs |= {"rpn_post_nms_top_n_test": 20, "box_detections_per_img": 3}
    if short in ("googlenet", "inception_v3", "quantized_googlenet", "quantized_inception_v3"):
        kwargs |= {"init_weights": False}  # the truncated normal of these two takes most of a minute
    return builder(**kwargs)


def example(name: str, model: nn.Module, size: int | None = None) -> Any:
    """What to call the model on, made on the current default device; `size` overrides the pictures' side."""
    zoo, short = name.split("/")
    if zoo == "timm":
        return torch.rand(BATCH, *_timm_shape(model, size))
    if is_detector(name):
        return ([torch.rand(3, 64, 64), torch.rand(3, 64, 64)],)
    if short.startswith("raft"):
        return (torch.rand(BATCH, 3, 128, 128), torch.rand(BATCH, 3, 128, 128))
    clip = next((frames for start, frames in _CLIPS.items() if short.startswith(start)), None)
    if clip is not None:
        side = 224 if short.startswith(("s3d", "mvit")) else size or 112
        return torch.rand(1 if size else BATCH, 3, clip, side, side)
    if short.startswith(_DENSE):
        return torch.rand(BATCH, 3, size or 64, size or 64)
    side = 299 if "inception" in short else 224
    return torch.rand(BATCH, 3, size or side, size or side)


def _timm_shape(model: nn.Module, size: int | None) -> tuple[int, int, int]:
    channels, height, width = getattr(model, "pretrained_cfg", {}).get("input_size", (3, 224, 224))
    # Where a model insists on the size it was built for, its configuration may name that of other weights.
    height, width = getattr(getattr(model, "patch_embed", None), "img_size", None) or (height, width)
    return (channels, size or height, size or width)


def build_on_meta(name: str) -> nn.Module:
    """The same without numbers."""
    if name.startswith("torchvision/regnet"):
        # Their builder reads widths back from tensors: built for real, but nothing is written to the weights.
        with _NoInit():
            return build(name).to("meta")
    with torch.device("meta"):
        return build(name)


class _NoInit(TorchFunctionMode):
    """Leaves fresh tensors as the allocator gives them, so that their memory is never touched."""

    fills = frozenset({torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.fill_, torch.Tensor.zero_})

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.fills or getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))
