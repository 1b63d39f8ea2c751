"""Tiny configurations of the networks of `transformers`, made by rules from their default ones."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

NARROWER = 8  # widths are divided, not set: heads still divide them, and stages still double them
LAYERS = 2
QUERIES = 8
IMAGE = 64
WINDOW = 2  # divides the sides of the smallest feature maps of an image of this size
FRAMES = 4
IMAGE_TOKEN = 63  # stands in a text for a part of an image

_WIDTH = re.compile(
    r"(.*_)?(hidden_sizes?|hidden_dim|d_model|embed_dims?|dims?|intermediate_size|ffn_dim|dim_feedforward|channels"
    r"|feature_size|width|output_size|projection_size|d_latents|n_embd|embedding_size|channel_list|num_pos_feats"
    r"|inplanes|embed_dim_per_stage|mlp_hidden_size|encoder_sizes|features|d_in|d_out)"
)
_NO_WIDTH = re.compile(r"num_channels.*|query_dim|.*slice_dim|_?out_features")
_LAYERS = re.compile(r"(.*_)?(num_)?(hidden_|encoder_|decoder_|pooler_|attention_)*layers|n_layer|num_self_attends_.*")
_DEPTHS = re.compile(r"depths?|num_block_repeats|blocks_per_stage|stage_num_blocks|stage_numb_of_layers")
_QUERIES = re.compile(r"num_queries|two_stage_num_proposals|num_detection_tokens|num_latents|num_denoising")
_WINDOW = re.compile(r"window_size|window_size_per_stage")
_NUMBERS_OF_LAYERS = re.compile(r"(backbone_)?out_indices|extract_layers|intermediate_layers_indices|.*_attn_indexes")


# What no rule can know, by kind of configuration.
OVERRIDES: dict[str, dict[str, Any]] = {
    "bit": {"num_groups": 4},
    "blip_2_qformer": {"use_qformer_text_input": True},
    "chmv2": {"backbone_config": {"return_class_token": True}},
    "cohere2": {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4},
    "cohere2_vision": {"image_token_id": IMAGE_TOKEN},
    "cvt": {"depth": [1, 2, 3]},  # its rates of stochastic depth are read by stage, and there is one for every layer
    "depth_pro": {"patch_size": IMAGE, "intermediate_hook_ids": [1, 0]},
    "edgetam_vision_model": {
        "backbone_config": {
            "architecture": "repvit_m1",
            "model_args": {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]},
        },
        "backbone_channel_list": [384, 192, 96, 48],
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
    },
    "efficientloftr": {"out_features": [16, 16, 16, 32]},
    "efficientnet": {"width_coefficient": 0.25},
    "eomt": {"num_blocks": 1},
    "eomt_dinov3": {"num_blocks": 1},
    "lightglue": {"keypoint_detector_config": {"max_keypoints": 16}},
    "gemma3_text": {"vocab_size": 64},
    "llama4_vision_model": {"num_attention_heads": 4, "intermediate_size": 384},
    "lw_detr": {"projector_scale_factors": [1.0], "num_feature_levels": 1},
    "mlcd_vision_model": {"num_attention_heads": 4},
    "mllama_vision_model": {"num_attention_heads": 4, "intermediate_layers_indices": [0, 1]},
    "mobilenet_v1": {"depth_multiplier": 0.25},
    "mobilenet_v2": {"depth_multiplier": 0.25},
    "mobilevit": {"num_attention_heads": 2},
    "omdet-turbo": {
        "encoder_in_channels": [32, 48, 192],
        "apply_layernorm_after_vision_backbone": False,
    },
    "pp_doclayout_v2": {"class_thresholds": [0.5, 0.5], "class_order": [0, 1]},
    "pp_lcnet_v4": {"stem_channels": [3, 48, 96]},
    "pp_ocrv5_mobile_det": {"neck_out_channels": 96},
    "pp_ocrv6_small_det": {
        "neck_out_channels": 96,
        "layer_list_out_channels": [96, 96, 192, 384],
        "backbone_config": {"out_indices": [1, 2, 3, 4]},
    },
    "sam2_vision_model": {"backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]},
    "sam3_vision_model": {"backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]},
    "sapiens2": {
        "head_config": {
            "upsample_out_channels": [16, 16],
            "upsample_kernel_sizes": [4, 4],
            "conv_out_channels": [16],
            "conv_kernel_sizes": [1],
        }
    },
    "shieldgemma2": {
        "mm_tokens_per_image": 4,
        "image_token_index": IMAGE_TOKEN,
        "yes_token_index": 1,
        "no_token_index": 2,
    },
    "superglue": {"keypoint_detector_config": {"max_keypoints": 16}},
    "swin2sr": {"embed_dim": 24, "depths": [1, 1], "num_heads": [2, 2]},
    "timm_backbone": {"backbone": "test_resnet", "use_pretrained_backbone": False},
    "timm_wrapper": {"architecture": "test_resnet"},
}


def tiny(config: Any, **overrides: Any) -> Any:
    """The configuration of a small network of the same kind; `overrides` add what no rule can derive."""
    plain = type(config)()
    overrides = OVERRIDES.get(config.model_type, {}) | overrides
    settings: dict[str, Any] = {}
    for field in fields(config):
        value = getattr(config, field.name, None)
        if hasattr(value, "model_type"):
            settings[field.name] = tiny(value, **overrides.get(field.name, {}))
        elif not field.name.startswith("_"):
            small = shrunk(field.name, value)
            if small != getattr(plain, field.name, None) or isinstance(value, tuple):
                settings[field.name] = small
    settings |= _of_layers(config, plain)
    return type(config)(**settings | {name: value for name, value in overrides.items() if not isinstance(value, dict)})


def _of_layers(config: Any, plain: Any) -> dict[str, Any]:
    """The numbers of the layers whose results are handed on, and as many layers as they need."""
    names = [field.name for field in fields(config)]
    layers = config.num_hidden_layers if "num_hidden_layers" in names else None
    settings: dict[str, Any] = {}
    for name in (*names, "out_indices"):
        numbers = getattr(config, name, None) if _NUMBERS_OF_LAYERS.fullmatch(name) else None
        if not numbers:
            continue
        stages = len(getattr(config, "stage_names", ()))
        if layers is None or stages not in (0, layers + 1):  # stages, not layers: all of them are kept
            if numbers != getattr(plain, name):
                settings[name] = list(numbers)
        elif max(numbers) >= LAYERS:
            first = 1 if stages and name == "out_indices" else 0
            settings[name] = list(range(first, first + len(numbers)))
            settings["num_hidden_layers"] = max(LAYERS, len(numbers))
    return settings


def shrunk(name: str, value: Any) -> Any:
    """The same setting of a small network."""
    if isinstance(value, list | tuple):
        return [shrunk(name, part) for part in value]
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    if _DEPTHS.fullmatch(name):
        return 1
    if _LAYERS.fullmatch(name):
        return min(value, LAYERS)
    if _QUERIES.fullmatch(name):
        return min(value, QUERIES)
    if _WINDOW.fullmatch(name):
        return min(value, WINDOW)
    if name.endswith("image_size"):
        return min(value, IMAGE)
    if name in ("num_frames", "frames_per_clip"):
        return min(value, FRAMES)
    if _WIDTH.fullmatch(name) and not _NO_WIDTH.fullmatch(name):
        return value // NARROWER if value % NARROWER == 0 and value >= 64 else value
    return value
