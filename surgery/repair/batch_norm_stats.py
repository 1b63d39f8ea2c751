"""Batch norm statistics: re-estimate them for an edited network, and check the calibration images."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator
from inspect import ismethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import SequentialSampler

from surgery.errors import BadValue, NothingPicked
from surgery.model import M, check_plain, in_eval
from surgery.repair.batches import check_repeatable, run_through

FEW = 1000  # images below which the statistics are noisy
_ONE_CLASS = 32  # this many images of the same class are not a coincidence
# Deterministic transforms of torchvision and timm; classes that are not listed may be random.
_STILL = {
    "CenterCrop", "CenterCropOrPad", "Compose", "ConvertImageDtype", "Grayscale", "ImageClassification",
    "MaybePILToTensor", "MaybeToTensor", "Normalize", "PILToTensor", "Pad", "Resize", "ResizeKeepRatio", "Sequential",
    "StandardTransform", "ToDtype", "ToImage", "ToNumpy", "ToPILImage", "ToPureTensor", "ToTensor",
}  # fmt: skip


def recalibrate(model: M, batches: Iterable[Any], *, force: bool = False) -> M:
    """Re-estimate the statistics of all batch norms from images, without gradients, in place; returns the model.

    An edit that changes the inputs of a batch norm makes its running mean and variance stale. They are replaced by
    averages over all batches, weighted by the number of values per channel, so that a small last batch counts little:
    means are those of all images, variances the mean of the variances within batches. Only the norms are in train
    mode: dropout and stochastic depth are off. Modes, momenta and `num_batches_tracked` are as before; a norm with
    momentum None, which keeps a cumulative average, continues from the new batches. Norms without statistics, and
    those that are never called, stay unchanged.

    `batches` are tensors (N, ...), pairs (images, labels) or dicts with an "image": ideally at least 1,000 images in
    random order, in batches of 100 or more, with the augmentation of the training. Calibration statistics from images
    sorted by class, or without augmentation, reduce accuracy.

    The images are checked first. Sorted images raise an error: judged by the labels, if the batches have them, and by
    the spread of batch means at the last norm. Warnings are given for fewer than 1,000 images, and for a DataLoader
    that reads in order or whose transforms are deterministic. Augmentation elsewhere, such as on the tensors of a list,
    cannot be detected, nor its absence, nor the order within a single batch. `force=True` skips the check of the order,
    and saves one pass.

    Source: Wu and Johnson 2021, "Rethinking 'Batch' in BatchNorm", section 3 (PreciseBN).

    Raises:
        NothingPicked: the model does not have a batch norm with statistics, or none is called.
        BadValue: the images are sorted; the batches can be read only once, contain no images, fail in the model
            (for example with one value per channel, which has no variance), or give statistics that are not finite.
    """
    check_plain(model)
    check_repeatable(batches)
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not norms:
        raise NothingPicked(
            f"{type(model).__name__} does not have a batch norm with running statistics.",
            try_="surgery.fit_affine for stand-ins; other norms need no recalibration",
        )
    _warn_of_loader(batches)
    if not force:
        with in_eval(model):
            _refuse_sorted(model, norms, batches)
    before = {name: value.clone() for norm in norms for name, value in _statistics(norm)}
    momenta = [norm.momentum for norm in norms]
    try:
        with in_eval(model):
            images = _estimate(model, norms, batches)
        _keep_or_refuse(norms, momenta, before)
    except BaseException:
        _put_back(norms, before)
        raise
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    if images < FEW:
        warnings.warn(f"{images} images are few for calibration statistics: use {FEW} or more.", stacklevel=2)
    return model


def _estimate(model: nn.Module, norms: list[_BatchNorm], batches: Iterable[Any]) -> int:
    """Run the batches with the norms in train mode, and return the number of images."""
    for norm in norms:
        norm.training, norm.momentum = True, None  # None, until a weight is set: a cumulative average
        norm.reset_running_stats()
    handles = [norm.register_forward_pre_hook(_InputWeight()) for norm in norms]
    try:
        return sum(len(batch.images) for batch in run_through(model, batches))
    finally:
        for handle in handles:
            handle.remove()


class _InputWeight:
    """Weights the input of a norm by its number of values per channel, relative to all earlier inputs."""

    def __init__(self) -> None:
        self.total = 0

    def __call__(self, norm: nn.Module, args: tuple[Any, ...]) -> None:
        values = args[0].numel() // max(args[0].shape[1], 1) if args[0].dim() > 1 else 0
        self.total += values
        norm.momentum = values / self.total if values else None  # type: ignore[assignment]


def _statistics(norm: _BatchNorm) -> Iterator[tuple[tuple[int, str], Tensor]]:
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        value = getattr(norm, name)
        if value is not None:
            yield (id(norm), name), value


def _put_back(norms: Iterable[_BatchNorm], before: dict[tuple[int, str], Tensor]) -> None:
    for norm in norms:
        for name, value in _statistics(norm):
            value.copy_(before[name])


def _keep_or_refuse(
    norms: list[_BatchNorm], momenta: list[float | None], before: dict[tuple[int, str], Tensor]
) -> None:
    unreached = [norm for norm in norms if norm.num_batches_tracked is not None and not norm.num_batches_tracked]
    if len(unreached) == len(norms):
        raise NothingPicked("No batch norm is called in a forward.", there=f"{len(norms)} batch norms")
    _put_back(unreached, before)
    for norm, momentum in zip(norms, momenta, strict=True):
        if not all(bool(value.isfinite().all()) for _, value in _statistics(norm)):
            raise BadValue("The estimated statistics are infinite or NaN.", try_="images the model was made for")
        if momentum is not None and norm.num_batches_tracked is not None:
            norm.num_batches_tracked.copy_(before[id(norm), "num_batches_tracked"])


def _refuse_sorted(model: nn.Module, norms: list[_BatchNorm], batches: Iterable[Any]) -> None:
    """Check that the order of the images is plausible for a random order."""
    spread, labels = _Spread(), []
    handles = [norm.register_forward_pre_hook(lambda _, args: spread.add(args[0])) for norm in norms]
    try:
        for batch in run_through(model, batches):
            spread.end_batch()
            if batch.labels is not None:
                labels.append(batch.labels)
    finally:
        for handle in handles:
            handle.remove()
    whole = torch.cat(labels) if labels else torch.zeros(0)
    cures = "a shuffled loader over all classes; force=True if this is intended"
    if len(whole) >= _ONE_CLASS and bool((whole == whole[0]).all()):
        raise BadValue("All images are of one class.", asked=f"{len(whole)} with the label {int(whole[0])}", try_=cures)
    for ratio, what in ((_label_ratio(labels), "their labels"), (spread.ratio(), "the batch means at the last norm")):
        if ratio > _most(len(spread.means)):
            raise BadValue(
                "The images are sorted, and calibration statistics of sorted images ruin a network.",
                asked=f"{what} vary {ratio:.1f} times as much between batches as in random order", try_=cures,
            )  # fmt: skip


def _most(batches: int) -> float:
    """The largest ratio accepted as random order; with few batches it is larger by chance.

    In random order the ratio is about 1 for any number of images; in sorted order it grows with it.
    """
    return max(4.0, 1.0 + 8.0 / math.sqrt(max(batches - 1, 1)))


def _label_ratio(labels: list[Tensor]) -> float:
    """Chi-square of batches against classes over its degrees of freedom: about 1 in random order."""
    classes, which = torch.unique(torch.cat(labels), return_inverse=True) if labels else (torch.zeros(0), None)
    if which is None or len(classes) < 2 or len(labels) < 2:
        return 0.0
    counts = torch.stack([part.bincount(minlength=len(classes)) for part in which.split([len(x) for x in labels])])
    counts = counts.double()
    expected = counts.sum(1, keepdim=True) * counts.sum(0) / counts.sum()
    square = ((counts - expected).square() / expected).sum()
    return float(square) / ((len(labels) - 1) * (len(classes) - 1))


class _Spread:
    """The spread of batch means at the input of the last norm of a forward: an F ratio over its channels."""

    def __init__(self) -> None:
        self.rows: Tensor | None = None
        self.counts: list[int] = []
        self.means: list[Tensor] = []
        self.squares: list[Tensor] = []

    def add(self, x: Tensor) -> None:
        """Keep the mean of every image and channel (N, C); the last norm of a forward overwrites the others."""
        self.rows = x.detach().double().flatten(2).mean(2) if x.dim() > 2 else x.detach().double()

    def end_batch(self) -> None:
        """Add the means of the last norm."""
        if self.rows is not None:
            self.counts.append(len(self.rows))
            self.means.append(self.rows.mean(0))
            self.squares.append((self.rows - self.means[-1]).square().sum(0))
        self.rows = None

    def ratio(self) -> float:
        """Variance of the batch means over that within batches, times the batch size: about 1 in random order."""
        batches, images = len(self.counts), sum(self.counts)
        if batches < 2 or images <= batches:
            return 0.0
        means, counts = torch.stack(self.means), torch.tensor(self.counts, device=self.means[0].device).unsqueeze(1)
        between = (counts * (means - (counts * means).sum(0) / images).square()).sum(0) / (batches - 1)
        within = torch.stack(self.squares).sum(0) / (images - batches)
        moving = within > 0
        return float((between[moving] / within[moving]).mean()) if bool(moving.any()) else 0.0


def _warn_of_loader(batches: Any) -> None:
    """Warn about the order and the transforms of a DataLoader, or of one wrapped by timm."""
    if isinstance(getattr(batches, "sampler", None), SequentialSampler):
        warnings.warn("The loader reads its data in order: shuffle them.", stacklevel=3)
    found = _transforms(getattr(batches, "dataset", None))
    if found and _STILL.issuperset(found):
        warnings.warn(
            f"The images are not augmented ({', '.join(found)}): use the transforms of the training.",
            stacklevel=3,
        )


def _transforms(data: Any) -> list[str]:
    """The class names of the transforms of a data set, also inside subsets and compositions."""
    names, todo, seen = [], [(data, False)], set[int]()
    while todo:
        item, transforms = todo.pop(0)
        if item is None or id(item) in seen or ismethod(item):
            continue
        seen.add(id(item))
        names += [type(item).__name__] if transforms else []
        for attribute in ("dataset", "datasets", "transform", "transforms"):
            inside = getattr(item, attribute, None)
            parts = list(inside) if isinstance(inside, list | tuple | nn.Sequential | nn.ModuleList) else [inside]
            todo += [(part, transforms or attribute.startswith("transform")) for part in parts]
    return names
