"""The vision networks of `transformers`: every class of its own mappings, made tiny, and what to call it on."""

from __future__ import annotations

import inspect
from typing import Any

import torch
import transformers
from torch import nn
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tests.zoo.tiny import IMAGE, IMAGE_TOKEN, tiny

TASKS = """
    image image_classification semantic_segmentation instance_segmentation universal_segmentation image_segmentation
    object_detection depth_estimation keypoint_detection keypoint_matching mask_generation image_to_image
    masked_image_modeling video_classification zero_shot_object_detection zero_shot_image_classification backbone
"""
TOKENS = 8

# Where a class asks for more than the kind of its configuration says.
OF_CLASS: dict[str, dict[str, Any]] = {
    "BeitForSemanticSegmentation": {"out_indices": [1, 2, 3, 4], "num_hidden_layers": 4},
    "PerceiverForImageClassificationConvProcessing": {"num_cross_attention_heads": 1},
    "PerceiverForImageClassificationFourier": {"num_cross_attention_heads": 1},
}


def names() -> list[str]:
    """All classes, each once."""
    found: dict[str, None] = {}
    for task in TASKS.split():
        for classes in _mapping(task).values():
            found |= dict.fromkeys([classes] if isinstance(classes, str) else classes)
    return sorted(found)


def _mapping(task: str) -> dict[str, Any]:
    return dict(getattr(modeling_auto, f"MODEL_FOR_{task.upper()}_MAPPING_NAMES"))


def kind_of(name: str) -> str:
    """The kind of the configuration of a class."""
    return str(_config_class(name, getattr(transformers, name)).model_type)


def build(name: str) -> nn.Module:
    """A tiny model of that class with random weights."""
    kind = getattr(transformers, name)
    config = _config_class(name, kind)()
    return kind(tiny(config, **OF_CLASS.get(name, {})))


def _config_class(name: str, kind: Any) -> Any:
    if (own := getattr(kind, "config_class", None)) is not None:
        return own
    for task in TASKS.split():
        for model_type, classes in _mapping(task).items():
            if name in ([classes] if isinstance(classes, str) else classes):
                return CONFIG_MAPPING[model_type]
    raise KeyError(name)


def example(model: Any) -> dict[str, torch.Tensor]:
    """Keywords for the model: images or a clip, and a few words if it reads text."""
    config, wanted = model.config, inspect.signature(model.forward).parameters
    side = _first(config, "image_size", IMAGE)
    side = int(side[0] if isinstance(side, list | tuple) else side)
    given = _special(config, side)
    if "pixel_values_videos" in wanted:
        given["pixel_values_videos"] = torch.rand(2, _frames(config), 3, side, side)
    elif "pixel_values" not in given:
        given["pixel_values"] = torch.rand(2, 3, side, side)
    if "input_ids" in wanted:
        given.setdefault("input_ids", torch.arange(1, TOKENS + 1).repeat(2, 1))
    if "task_inputs" in wanted:
        given["task_inputs"] = torch.ones(2, config.task_seq_len, dtype=torch.long)
    return given


def _special(config: Any, side: int) -> dict[str, torch.Tensor]:
    """The inputs that are not plain images."""
    match config.model_type:
        case "timesformer" | "videomae" | "vivit":
            return {"pixel_values": torch.rand(2, _frames(config), 3, side, side)}
        case "efficientloftr" | "lightglue" | "superglue":
            return {"pixel_values": torch.rand(2, 2, 3, side, side)}
        case "cohere2_vision" | "shieldgemma2":
            return {"input_ids": torch.tensor([[1, 2, *4 * [IMAGE_TOKEN], 3, 4]]).repeat(2, 1)}
        case "depth_pro":
            return {"pixel_values": torch.rand(2, 3, 4 * side, 4 * side)}
        case "siglip2" | "siglip2_vision_model":
            return {
                "pixel_values": torch.rand(2, 16, 3 * _first(config, "patch_size", 16) ** 2),
                "pixel_attention_mask": torch.ones(2, 16, dtype=torch.long),
                "spatial_shapes": torch.tensor([[4, 4], [4, 4]]),
            }
        case "mllama_vision_model":
            tiles = config.max_num_tiles
            return {
                "pixel_values": torch.rand(2, 1, tiles, 3, side, side),
                "aspect_ratio_ids": torch.ones(2, 1, dtype=torch.long),
                "aspect_ratio_mask": torch.ones(2, 1, tiles, dtype=torch.long),
            }
        case "omdet-turbo":
            words = torch.arange(1, TOKENS + 1)
            return {
                "classes_input_ids": words.repeat(4, 1),
                "classes_attention_mask": torch.ones(4, TOKENS, dtype=torch.long),
                "tasks_input_ids": words.repeat(2, 1),
                "tasks_attention_mask": torch.ones(2, TOKENS, dtype=torch.long),
                "classes_structure": torch.tensor([2, 2]),
            }
    return {}


def _frames(config: Any) -> int:
    return int(_first(config, "num_frames", None) or _first(config, "frames_per_clip", 2))


def _first(config: Any, name: str, default: Any) -> Any:
    """The setting of a configuration, or of that of its vision tower."""
    for part in (config, getattr(config, "vision_config", None)):
        if (value := getattr(part, name, None)) is not None:
            return value
    return default
