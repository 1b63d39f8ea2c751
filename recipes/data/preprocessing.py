"""Preprocessing: its settings as one checked value: size, colours, resizing and cropping."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from recipes.data.augment import DEVIATION, MEAN, Colour
from recipes.format.settings import CROP_MODES, INTERPOLATIONS, CropMode, Interpolation
from surgery.errors import BadValue, UnknownName, nearest

LARGEST_SIDE = 4096  # pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """How pictures become what a network is fed; names, and what they are by default, are those of timm.

    Large pictures are resized to `size / crop_pct` pixels and cropped to squares of `size`, with `crop_mode` "center"
    by their shorter side, "squash" to a square at once, "border" by their longer side, with a border. Small pictures
    are fed whole. `mean` and `std` (standard deviation) are per channel, of pixels from 0 to 1.

    Raises:
        BadValue: a number out of its range, or a word that is none of those.
    """

    size: int = 224
    mean: Colour = MEAN
    std: Colour = DEVIATION
    interpolation: Interpolation = "bilinear"
    crop_pct: float = 0.875
    crop_mode: CropMode = "center"

    def __post_init__(self) -> None:
        if type(self.size) is not int or not 1 <= self.size <= LARGEST_SIDE:
            raise BadValue(f"size must be a number of pixels from 1 to {LARGEST_SIDE}.", asked=f"size={self.size!r}")
        for name, least in (("mean", -math.inf), ("std", 0.0)):
            value = getattr(self, name)
            if not (_is_colour(value) and min(value) > least):
                what = "finite numbers, one per channel" + (", above 0" if name == "std" else "")
                raise BadValue(f"{name} must be three {what}.", asked=f"{name}={value!r}")
        if not (_is_number(self.crop_pct) and 0 < self.crop_pct <= 2):  # above 1, pictures get a border
            problem = "crop_pct must be a fraction of an image, above 0 and at most 2."
            raise BadValue(problem, asked=f"crop_pct={self.crop_pct!r}")
        for name, words in (("interpolation", INTERPOLATIONS), ("crop_mode", CROP_MODES)):
            if getattr(self, name) not in words:
                raise BadValue(f"{name} must be one of {', '.join(words)}.", asked=repr(getattr(self, name)))

    def changed(self, given: Preprocessing | Mapping[str, Any]) -> Preprocessing:
        """The same with other settings, where they are given, such as those that `facts` tells.

        Raises:
            UnknownName: there is no such setting.
            BadValue: as the class itself, or no table of settings.
        """
        if isinstance(given, Preprocessing):
            return given
        if not isinstance(given, Mapping):
            raise BadValue("preprocessing must be a table of settings, or a Preprocessing.", asked=repr(given))
        known = [one.name for one in fields(self)]
        for name in given:
            if name not in known:
                problem = f"unknown preprocessing setting {name!r}."
                raise UnknownName(problem, there=", ".join(known), try_=nearest(str(name), known))
        plain: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in given.items()}
        return replace(self, **plain)

    def facts(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {name: list(one) if isinstance(one, tuple) else one for name, one in asdict(self).items()}

    def __str__(self) -> str:
        crop = f"{self.crop_mode} crop of {self.crop_pct:.3g}"
        colour = f"mean {_told(self.mean)}, standard deviation {_told(self.std)}"
        return f"{self.size} x {self.size} pixels, {self.interpolation}, {crop}, {colour}"


def asked_size(size: int | None, given: Preprocessing | Mapping[str, Any] | None) -> int | None:
    """How many pixels a side a caller asks for who may say so in two places, None if in neither.

    A table asks for the size that it names; a whole `Preprocessing` has one in any case, which is for large pictures.

    Raises:
        BadValue: two sizes that are not one.
    """
    named = given.get("size") if isinstance(given, Mapping) else None
    if size is not None and named is not None and size != named:
        raise BadValue("two different sizes.", asked=f"{size} pixels a side, and preprocessing of {named!r}")
    return named if size is None else size


def _is_colour(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 3 and all(map(_is_number, value))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _told(colour: Colour) -> str:
    return f"({', '.join(f'{one:.4g}' for one in colour)})"
