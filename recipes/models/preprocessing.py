"""Preprocessing of a model, according to timm, torchvision, or the run that wrote its folder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.data.preprocessing import Preprocessing
from recipes.format.settings import CROP_MODES, INTERPOLATIONS
from recipes.models.names import ModelName, resolve, timm
from recipes.optional import check_torchvision
from recipes.runs.folder import RESULT
from recipes.runs.outcome import Outcome
from surgery.errors import BadFile, BadValue

if TYPE_CHECKING:
    from torch import nn


def preprocessing_of(model: str | Path | ModelName | nn.Module) -> Preprocessing | None:
    """The preprocessing of a model, edited or not; None if unknown.

    `model` is a name, as for `recipes.build`, or a model of timm. For a name of timm or torchvision it is that of the
    published weights, for a folder that a run wrote that of its training. `recipes.data.open_data` takes the result as
    `preprocessing`.

    Raises:
        UnknownName, BadValue, BadFile: as `recipes.build`.
        BadValue: a model of timm needs an interpolation or a crop that is not supported.
    """
    import torch

    if isinstance(model, torch.nn.Module):
        return _of_timm(getattr(model, "pretrained_cfg", None))
    named = resolve(model)
    if named.folder is not None and (found := _recorded(named.folder)):
        return found
    if named.catalogue == "timm":
        return _of_timm(timm().models.get_pretrained_cfg(named.short))
    return _of_torchvision(named.short) if named.catalogue == "torchvision" else None


def _recorded(folder: Path) -> Preprocessing | None:
    """The preprocessing recorded by the run that wrote a folder; None without a run, or if it was not recorded."""
    if not (folder / RESULT).is_file():
        return None
    try:
        recorded = Outcome.from_json((folder / RESULT).read_text(encoding="utf-8")).preprocessing
    except UnicodeDecodeError as error:
        raise BadFile(f"{folder / RESULT} is not text.", asked=str(error)) from error
    return Preprocessing().changed(recorded) if recorded else None


def _of_timm(config: Any) -> Preprocessing | None:
    """The preprocessing in timm's configuration of a model, with the defaults that timm fills in."""
    settings: Mapping[str, Any] = config.to_dict() if hasattr(config, "to_dict") else config
    if not isinstance(settings, Mapping) or not settings:
        return None
    check_torchvision()
    from timm.data.config import resolve_data_config

    asked = resolve_data_config(pretrained_cfg=dict(settings))  # type: ignore[no-untyped-call]
    fed: dict[str, Any] = {"size": asked["input_size"][-1], "crop_pct": asked["crop_pct"]}
    fed |= {key: tuple(map(float, asked[key])) for key in ("mean", "std") if len(asked[key]) == 3}
    words = (("interpolation", INTERPOLATIONS), ("crop_mode", CROP_MODES))
    for key, known in words:
        if asked[key] not in known:
            raise BadValue(
                f"the model needs images with {key}={asked[key]!r}, which is not supported.",
                there=", ".join(known), try_="a pretrained_cfg with one of these",
            )  # fmt: skip
        fed[key] = asked[key]
    return Preprocessing(**fed)


def _of_torchvision(short: str) -> Preprocessing | None:
    """The preprocessing for the default weights of a classifier."""
    check_torchvision()
    from torchvision import models

    try:
        transforms = models.get_model_weights(short).DEFAULT.transforms()
        size, larger = transforms.crop_size[0], transforms.resize_size[0]
    except (ValueError, AttributeError, TypeError):  # no weights, or those of another task
        return None
    return Preprocessing(
        size=size, crop_pct=_share(size, larger), interpolation=transforms.interpolation.value,
        mean=tuple(transforms.mean), std=tuple(transforms.std),
    )  # fmt: skip


def _share(size: int, larger: int) -> float:
    """`size / larger`, rounded such that timm computes `larger` from it."""
    share = size / larger
    return share if math.floor(size / share) == larger else math.nextafter(share, 0)
