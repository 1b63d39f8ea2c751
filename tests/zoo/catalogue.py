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


# The smallest model of every file of both zoos, and the smallest one of every further owner class that needs a
# rewrite, run on small pictures: 64 pixels unless said otherwise. (One file has none: torchvision's MViT insists on
# clips that take minutes. No class of it needs a rewrite.)
_TORCHVISION_64 = """
    alexnet convnext_tiny deeplabv3_mobilenet_v3_large densenet121 efficientnet_b0 fcn_resnet50 googlenet
    lraspp_mobilenet_v3_large mc3_18 mnasnet0_5 mobilenet_v2 mobilenet_v3_small quantized_googlenet
    quantized_mobilenet_v2 quantized_mobilenet_v3_large quantized_resnet18 quantized_shufflenet_v2_x0_5 regnet_y_400mf
    resnet18 s3d shufflenet_v2_x0_5 squeezenet1_1 swin3d_t swin_t swin_v2_t vgg11
"""
_TIMM_64 = """
    convmixer_768_32 cpubone_nano crossvit_tiny_240 cs3darknet_focus_s csatv2 cspnext_tiny davit_tiny densenet121
    dla34 dla46x_c dla60_res2next dm_nfnet_f0 dpn48b edgenext_xx_small efficientnet_cc_b0_4e efficientvim_m1
    efficientvit_b0 efficientvit_m0 ese_vovnet19b_slim_dw fasternet_t0 fastvit_t8 focalnet_tiny_srf
    gemma4_vit_167m ghostnet_050 hgnetv2_b0 hrnet_w18_small iformer_t inception_next_atto lcnetv2_small
    legacy_seresnet18 legacy_seresnet50 legacy_seresnext26_32x4d legacy_xception lowformer_b0
    mobilenetv3_small_050 mobilenetv5_base mobilevitv2_050 mvitv2_tiny naflexvit_base_patch16_parfac_gap
    nasnetalarge nextvit_small pnasnet5large poolformerv2_s12 pvt_v2_b0 qwen3_vit_88m rdnet_tiny regnetx_002
    regnetz_b16_evos repghostnet_050 repvit_m1 res2next50 resnest50d_1s4x24d resnetv2_18 rexnet_100
    sam2_hiera_tiny samvit_base_patch16_224 selecsls42 sequencer2d_s shvit_s1 starnet_s050 swiftformer_xs
    test_byobnet test_convnext test_efficientnet_evos test_efficientnet_ln test_mambaout test_nfnet test_resnet
    test_vit tiny_vit_5m_224 tresnet_m twins_svt_small vgg11 vit_tiny_patch16_dinov3_qkvb xception41p
    xcit_nano_12_p8_224
"""
# These are built for the size they are called on.
_TIMM_BUILT_FOR_64 = """
    cait_xxs24_224 coat_tiny convit_tiny deit_tiny_distilled_patch16_224 efficientformerv2_s0 gcvit_xxtiny
    gmlp_ti16_224 hiera_tiny_224 levit_128s nest_tiny pit_ti_224 swin_tiny_patch4_window7_224 swinv2_cr_tiny_224
    swinv2_tiny_window8_256 test_coatnet test_vit_relpos tnt_s_legacy_patch16_224 visformer_tiny volo_d1_224
"""

REPRESENTATIVES: dict[str, Small] = {
    **{f"torchvision/{name}": Small(64) for name in _TORCHVISION_64.split()},
    **{f"timm/{name}": Small(64) for name in _TIMM_64.split()},
    **{f"timm/{name}": Small(64, {"img_size": 64}) for name in _TIMM_BUILT_FOR_64.split()},
    "timm/bat_resnext26ts": Small(),
    "timm/beit_base_patch16_224": Small(64, {"img_size": 64, "depth": 2}),
    "timm/deepseek_vit_412m": Small(126, {"depth": 2}),
    "timm/efficientformer_l1": Small(),
    "timm/inception_resnet_v2": Small(96),
    "timm/inception_v3": Small(96),
    "timm/inception_v4": Small(96),
    "timm/legacy_senet154": Small(64, {"layers": [1, 1, 1, 1]}),
    "torchvision/fasterrcnn_mobilenet_v3_large_fpn": Small(),
    "torchvision/fcos_resnet50_fpn": Small(),
    "torchvision/inception_v3": Small(),
    "torchvision/keypointrcnn_resnet50_fpn": Small(),
    "torchvision/maskrcnn_resnet50_fpn": Small(),
    "torchvision/maxvit_t": Small(),
    "torchvision/quantized_inception_v3": Small(),
    "torchvision/raft_small": Small(128),
    "torchvision/retinanet_resnet50_fpn": Small(),
    "torchvision/ssdlite320_mobilenet_v3_large": Small(),
    "torchvision/vit_b_16": Small(64, {"image_size": 64}),
}

# Owner classes whose calls the library refuses to edit, and why.
REFUSED_OWNERS: dict[str, str] = {
    "torchvision.models.detection.roi_heads.RoIHeads": "the sigmoid of the masks stands in a function of no module",
}

# What a full sweep covered when this was written; less is a fault.
AT_LEAST: dict[str, int] = {
    "models": 1492,
    "sites": 88_900,  # 88,981 when counted; heads of detectors run on what they detect
    "owner classes that need a rewrite": 41,
    "models edited": 140,
    "sites erased": 5500,  # 5,606 when counted
    "models swapped": 140,
}

# Looked at on smaller pictures than their own: an LSTM takes its steps one by one, on the meta device too.
_LOOKED_AT = {"sequencer2d": 64}
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
    """True for classifiers: the library must choose a suitable example itself."""
    short = name.split("/")[1]
    other = (*_DETECTORS, *_DENSE, *_CLIPS, "raft")
    return not short.startswith(tuple(_LOOKED_AT) if name.startswith("timm/") else other)


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
        size = size or next((side for start, side in _LOOKED_AT.items() if short.startswith(start)), None)
        return torch.rand(BATCH, *_timm_shape(model, size))
    if is_detector(name):
        return ([torch.rand(3, 64, 64), torch.rand(3, 64, 64)],)
    if short.startswith("raft"):
        pair = {"image1": torch.rand(BATCH, 3, 128, 128), "image2": torch.rand(BATCH, 3, 128, 128)}
        return pair | ({"num_flow_updates": 2} if size else {})
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
