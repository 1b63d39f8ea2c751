"""Preprocessing: size, colours, resizing and cropping of images, as one checked value."""

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
    """How images are prepared for a network; names and defaults are those of timm.

    Large images are resized to `size / crop_pct` pixels and then cropped to squares of `size`. `crop_mode` says what is
    resized to that: the shorter side ("center"), both sides ("squash"), or the longer side, after which a border fills
    the square ("border"). Small images are not cropped. `mean` and `std` (standard deviation) are per channel, of
    pixels in [0, 1].

    Raises:
        BadValue: a number is out of range, or a word is unknown.
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
        """A copy with the given settings replaced; `given` is a mapping such as `facts` returns.

        Raises:
            UnknownName: there is no such setting.
            BadValue: as the class itself, or `given` is not a mapping.
        """
        if isinstance(given, Preprocessing):
            return given
        if not isinstance(given, Mapping):
            raise BadValue("preprocessing must be a table of settings, or a Preprocessing.", asked=repr(given))
        known = [field.name for field in fields(self)]
        for name in given:
            if name not in known:
                problem = f"unknown preprocessing setting {name!r}."
                raise UnknownName(problem, there=", ".join(known), try_=nearest(str(name), known))
        plain: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in given.items()
        }
        return replace(self, **plain)

    def facts(self) -> dict[str, Any]:
        """All settings as plain data."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def __str__(self) -> str:
        crop = f"{self.crop_mode} crop of {self.crop_pct:.3g}"
        colour = f"mean {_rounded(self.mean)}, standard deviation {_rounded(self.std)}"
        return f"{self.size} x {self.size} pixels, {self.interpolation}, {crop}, {colour}"


def asked_size(size: int | None, given: Preprocessing | Mapping[str, Any] | None) -> int | None:
    """The requested side in pixels, given as `size` or in a mapping of settings; None if in neither.

    The size of a `Preprocessing` does not count: it has one in any case, which applies to large images.

    Raises:
        BadValue: both are given and differ.
    """
    named = given.get("size") if isinstance(given, Mapping) else None
    if size is not None and named is not None and size != named:
        raise BadValue("two different sizes.", asked=f"{size} pixels a side, and preprocessing of {named!r}")
    return named if size is None else size


def _is_colour(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 3 and all(map(_is_number, value))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _rounded(colour: Colour) -> str:
    return f"({', '.join(f'{channel:.4g}' for channel in colour)})"
