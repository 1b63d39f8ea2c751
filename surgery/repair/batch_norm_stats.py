"""Recalibrate: new statistics for the batch norms of an edited network, and a look at the images they come from."""

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
from surgery.look.finder import check_plain
from surgery.model import M
from surgery.repair.batches import check_repeatable, in_eval, run_through

FEW = 1000  # images below which the statistics are noisy
_ONE_CLASS = 32  # images of one and the same class that are no accident
# Transforms of torchvision and timm that draw nothing; of a class that is not among them nothing is known.
_STILL = {
    "CenterCrop", "CenterCropOrPad", "Compose", "ConvertImageDtype", "Grayscale", "ImageClassification",
    "MaybePILToTensor", "MaybeToTensor", "Normalize", "PILToTensor", "Pad", "Resize", "ResizeKeepRatio", "Sequential",
    "StandardTransform", "ToDtype", "ToImage", "ToNumpy", "ToPILImage", "ToPureTensor", "ToTensor",
}  # fmt: skip


def recalibrate(model: M, batches: Iterable[Any], *, force: bool = False) -> M:
    """Estimate the statistics of all batch norms anew, from images and without gradients, in place; returns the model.

    An edit that changes what enters a batch norm leaves it with means and variances of another network. Here they
    become the mean over all batches, each counted by how many values of a channel it holds, so that a small last batch
    weighs little: means are those of all images at once, variances the mean of those inside the batches. The norms
    alone are in train mode: dropout and dropped paths are off. Modes, momenta and the numbers of batches seen are as
    before; a norm with momentum None, which averages over all it ever saw, goes on from the new batches. Norms without
    statistics, and those that no forward reaches, stay as they are.

    `batches` are tensors (N, ...), pairs (images, labels) or dicts with an "image". What they should be: at least
    1,000 images in random order, in batches of 100 or more, with the augmentation of the training. Images sorted by
    class, or without augmentation, cost a network accuracy that it had.

    What can be seen is looked at first. Sorted images are refused: by the labels, where batches carry them, and by how
    far the means of batches at the last norm lie apart. Warnings are given for fewer than 1,000 images, and for a
    DataLoader that reads in order or whose transforms hold nothing random. Augmentation that happens elsewhere, such
    as on the tensors of a list, cannot be seen, nor can a missing one; nor can the order of a single batch.
    `force=True` goes on with images that would be refused, and saves one pass.

    Source: Wu and Johnson 2021, "Rethinking 'Batch' in BatchNorm", section 3 (PreciseBN).

    Raises:
        NothingPicked: the model has no batch norm with statistics, or none is reached.
        BadValue: the images are sorted; the batches can be read once only, hold no images, do not go through the model
            (as one value per channel, of which there is no variance), or make statistics that are not finite.
    """
    check_plain(model)
    check_repeatable(batches)
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not norms:
        raise NothingPicked(
            f"{type(model).__name__} has no batch norm that keeps statistics: there is nothing to estimate.",
            try_="surgery.fit_affine for stand-ins; other norms need nothing",
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
        warnings.warn(f"{images} images are few for the statistics of norms: use {FEW} or more.", stacklevel=2)
    return model


def _estimate(model: nn.Module, norms: list[_BatchNorm], batches: Iterable[Any]) -> int:
    """Run the batches with the norms in train mode, and return how many images there were."""
    for norm in norms:
        norm.training, norm.momentum = True, None  # None, until a weight is set: the mean over all batches
        norm.reset_running_stats()
    handles = [norm.register_forward_pre_hook(_Weigh()) for norm in norms]
    try:
        return sum(len(batch.images) for batch in run_through(model, batches))
    finally:
        for handle in handles:
            handle.remove()


class _Weigh:
    """Lets what enters a norm weigh as many values as it holds of a channel, beside all that entered before."""

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
        raise NothingPicked("No batch norm is reached in a forward.", there=f"{len(norms)} batch norms")
    _put_back(unreached, before)
    for norm, momentum in zip(norms, momenta, strict=True):
        if not all(bool(value.isfinite().all()) for _, value in _statistics(norm)):
            raise BadValue("The statistics come out infinite or NaN.", try_="images the model was made for")
        if momentum is not None and norm.num_batches_tracked is not None:
            norm.num_batches_tracked.copy_(before[id(norm), "num_batches_tracked"])


def _refuse_sorted(model: nn.Module, norms: list[_BatchNorm], batches: Iterable[Any]) -> None:
    """Refuse images in an order that random draws would not give."""
    spread, labels = _Spread(), []
    handles = [norm.register_forward_pre_hook(lambda _, args: spread.hear(args[0])) for norm in norms]
    try:
        for batch in run_through(model, batches):
            spread.end_batch()
            if batch.labels is not None:
                labels.append(batch.labels)
    finally:
        for handle in handles:
            handle.remove()
    whole = torch.cat(labels) if labels else torch.zeros(0)
    cures = "a shuffled loader over all classes; force=True if this is what you want"
    if len(whole) >= _ONE_CLASS and bool((whole == whole[0]).all()):
        raise BadValue("All images are of one class.", there=f"{len(whole)} with the label {int(whole[0])}", try_=cures)
    for ratio, what in ((_label_ratio(labels), "their labels"), (spread.ratio(), "the batch means at the last norm")):
        if ratio > _most(len(spread.means)):
            raise BadValue(
                "The images come sorted, and statistics of sorted images ruin a network.",
                there=f"{what} vary {ratio:.1f} times as much between batches as in random order", try_=cures,
            )  # fmt: skip


def _most(batches: int) -> float:
    """The largest ratio that is taken for random order; few batches can lie apart by accident.

    In random order the ratio is about 1, however many images there are; sorted, it grows with them.
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
    """How far the means of batches lie apart where the last norm of a forward begins: an F ratio over its channels."""

    def __init__(self) -> None:
        self.rows: Tensor | None = None
        self.counts: list[int] = []
        self.means: list[Tensor] = []
        self.squares: list[Tensor] = []

    def hear(self, x: Tensor) -> None:
        """Remember the mean of every image and channel (N, C); the last norm of a forward is heard last."""
        self.rows = x.detach().double().flatten(2).mean(2) if x.dim() > 2 else x.detach().double()

    def end_batch(self) -> None:
        """Add what was heard last."""
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
    """Warn of what a DataLoader, or one wrapped as timm does, shows of itself."""
    if isinstance(getattr(batches, "sampler", None), SequentialSampler):
        warnings.warn("The loader reads in the order of its data: shuffle them.", stacklevel=3)
    found = _transforms(getattr(batches, "dataset", None))
    if found and _STILL.issuperset(found):
        warnings.warn(
            f"The images are not augmented ({', '.join(found)}): give them the transforms of the training.",
            stacklevel=3,
        )


def _transforms(data: Any) -> list[str]:
    """The class names of the transforms of a data set, also inside subsets and compositions."""
    names, todo, seen = [], [(data, False)], set[int]()
    while todo:
        one, transforms = todo.pop(0)
        if one is None or id(one) in seen or ismethod(one):
            continue
        seen.add(id(one))
        names += [type(one).__name__] if transforms else []
        for attribute in ("dataset", "datasets", "transform", "transforms"):
            inside = getattr(one, attribute, None)
            parts = list(inside) if isinstance(inside, list | tuple | nn.Sequential | nn.ModuleList) else [inside]
            todo += [(part, transforms or attribute.startswith("transform")) for part in parts]
    return names
