"""Networks of libraries outside of the two zoos: which exist, how to build them, which cannot be swept."""

from __future__ import annotations

import importlib.util
import zlib
from typing import Any

import torch
from torch import nn

from surgery.errors import CannotLook
from tests.zoo import catalogue
from tests.zoo.catalogue import Excluded

LIBRARIES = ("torchvision", "smp", "transformers")
IMAGE = 64

# One encoder for every way of building one: torchvision's blocks, lukemelas' EfficientNet, a transformer, branches. One
# architecture has all of them, the others have the first.
SMP_ENCODERS = ("resnet18", "efficientnet-b0", "mit_b0", "mobileone_s0")
DPT_ENCODER = "tu-test_vit"  # its readout takes transformers of timm only

# The owner classes of calls that are left alone, as no edit of them can be proved, and why.
LEFT_ALONE: dict[str, str] = {
    "torchvision.models.detection.fcos.FCOSHead": "the sigmoid of its loss stands in a function of no module",
    "torchvision.models.detection.retinanet.RetinaNetClassificationHead": "the same",
    "torchvision.models.detection.roi_heads.RoIHeads": "the sigmoid of the masks stands in a function of no module",
    "transformers.models.videoprism.modeling_videoprism.VideoPrismAttention": "its tanh stands in a function that is "
    "given the module",
    "transformers.models.zoedepth.modeling_zoedepth.ZoeDepthRelativeDepthEstimationHead": "its forward makes its ReLUs",
}


def _group(reason: str, error: type[BaseException], message: str, names: str) -> dict[str, Excluded]:
    """The same for several networks of `transformers`."""
    return {f"transformers/{name}": Excluded(reason, error, message) for name in names.split()}


# What cannot be swept today. The sweep expects exactly these errors, so that what starts to work leaves the list.
UNBUILT: dict[str, Excluded] = {
    **_group(
        "needs natten, kernels that are built for one version of torch", ImportError, "requires the natten library",
        "DinatBackbone DinatForImageClassification DinatModel",
    ),
    **_group(
        "its default configuration leaves out what its neck needs", TypeError, "not subscriptable",
        "PPOCRV5ServerDetForObjectDetection PPOCRV6MediumDetForObjectDetection",
    ),
    **_group(
        "its neck fits no backbone that its configuration makes", CannotLook, "runs on this example neither in eval",
        "PPOCRV6SmallDetForObjectDetection",
    ),
}  # fmt: skip
UNSEEN: dict[str, Excluded] = {}
UNEDITED: dict[str, Excluded] = {}

# Networks that keep what they computed for the next call, so that calls are missing from then on, and what they keep.
REMEMBERING: dict[str, str] = {
    "transformers/OmDetTurboForObjectDetection": "the embeddings of the texts it was given",
}

# What a full sweep covered when this was written; less is a fault.
AT_LEAST: dict[str, int] = {
    "models of torchvision": 19,
    "models of smp": 15,
    "models of transformers": 205,
    "sites": 4800,  # 4,820 when counted
    "models edited": 115,
    "models saved": 50,
    "sites exchanged": 2000,
    "kinds of exchanges": 16,
    "owner classes erased": 90,
}

_TORCHVISION = (
    "fasterrcnn", "maskrcnn", "keypointrcnn", "retinanet", "fcos", "ssdlite", "deeplabv3_mobile", "fcn_resnet50",
    "lraspp", "mc3", "r2plus1d", "r3d", "s3d", "swin3d_t",
)  # fmt: skip
# Detectors of which a smaller or a simpler one runs the same code, or much of it: looked at, and not edited.
_LARGER = """
    fasterrcnn_mobilenet_v3_large_fpn fasterrcnn_resnet50_fpn fasterrcnn_resnet50_fpn_v2 maskrcnn_resnet50_fpn_v2
    keypointrcnn_resnet50_fpn retinanet_resnet50_fpn_v2
    ConditionalDetrForObjectDetection ConditionalDetrModel DabDetrForObjectDetection DabDetrModel
    Deimv2ForObjectDetection DFineForObjectDetection
    DeformableDetrForObjectDetection DeformableDetrModel EomtDinov3ForUniversalSegmentation
    GroundingDinoForObjectDetection GroundingDinoModel MMGroundingDinoForObjectDetection
    OneFormerForUniversalSegmentation
    PPDocLayoutV2ForObjectDetection PPDocLayoutV3ForObjectDetection PPDocLayoutV4ForObjectDetection
    RTDetrV2ForObjectDetection TableTransformerForObjectDetection TableTransformerModel
"""


def names() -> list[str]:
    """All networks as "library/name", of the libraries that are installed."""
    found = [
        name for name in catalogue.names() if name.startswith(tuple(f"torchvision/{family}" for family in _TORCHVISION))
    ]
    if importlib.util.find_spec("segmentation_models_pytorch"):
        from segmentation_models_pytorch import MODEL_ARCHITECTURES_MAPPING

        for architecture in MODEL_ARCHITECTURES_MAPPING:
            several = SMP_ENCODERS if architecture == "unet" else SMP_ENCODERS[:1]
            encoders = (DPT_ENCODER,) if architecture == "dpt" else several
            found += [f"smp/{architecture}/{encoder}" for encoder in encoders]
    if importlib.util.find_spec("transformers"):
        from tests.zoo import guests_transformers

        found += [f"transformers/{name}" for name in guests_transformers.names()]
    return found


def edited() -> list[str]:
    """Those that are edited, too: a class for every kind of configuration, every architecture, every encoder.

    Of torchvision the detectors, on targets; the others are edited in the sweep of the zoos. A network that remembers
    is not the same before and after.
    """
    found: dict[str, str] = {}
    larger = set(_LARGER.split())
    for name in names():
        library, short = name.split("/", 1)
        if short in larger or name in REMEMBERING:
            continue
        if library == "transformers":
            from tests.zoo import guests_transformers

            found[guests_transformers.kind_of(short)] = name  # the last by name are those with a head
        elif library == "smp" or catalogue.is_detector(name):
            found[name] = name
    return list(found.values())


def is_saved(name: str) -> bool:
    """Whether it is saved and loaded when it is edited: every second one, which takes as long as all its edits."""
    return zlib.crc32(name.encode()) % 2 == 0


def build(name: str) -> nn.Module:
    """The network of that name, small, with random weights."""
    library, short = name.split("/", 1)
    if library == "torchvision":
        return catalogue.build(name)
    if library == "smp":
        import segmentation_models_pytorch

        architecture, encoder = short.split("/")
        return segmentation_models_pytorch.create_model(architecture, encoder, encoder_weights=None, classes=3)
    from tests.zoo import guests_transformers

    return guests_transformers.build(short)


def example(name: str, model: nn.Module) -> Any:
    """What to call it on, in both modes: detectors get images of unequal size, and targets."""
    library, short = name.split("/", 1)
    if library == "transformers":
        from tests.zoo import guests_transformers

        return guests_transformers.example(model)
    if library == "smp":
        side = 128 if "deeplab" in short or "pan" in short else IMAGE
        return torch.rand(2, 3, side, side)
    if catalogue.is_detector(name):
        return ([torch.rand(3, 64, 64), torch.rand(3, 48, 72)], [_target(short), _target(short)])
    return catalogue.example(name, model, IMAGE)


def _target(short: str) -> dict[str, torch.Tensor]:
    target = {"boxes": torch.tensor([[4.0, 4.0, 40.0, 40.0], [8.0, 2.0, 30.0, 44.0]]), "labels": torch.tensor([1, 1])}
    if short.startswith("maskrcnn"):
        target["masks"] = torch.ones(2, 48, 64, dtype=torch.uint8)
    if short.startswith("keypointrcnn"):
        target["keypoints"] = torch.tensor([[[20.0, 20.0, 1.0]] * 17, [[15.0, 15.0, 1.0]] * 17])
    return target
