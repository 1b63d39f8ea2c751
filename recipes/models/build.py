"""Build: models by name (`timm/NAME`, `torchvision/NAME`, `cifar/NAME`), with or without weights."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any
from warnings import warn

from recipes.models.names import ModelName, in_folder, resolve, saved_folder, timm, torchvision
from recipes.models.weights import NewHead as NewHead
from recipes.models.weights import classes_of, first_line, load_body, load_weights, misfit, read_weights, weights_only
from surgery.errors import BadFile, BadValue, SurgeryError
from surgery.serialization.save_load import edit_like, load

if TYPE_CHECKING:
    from torch import nn


def build(name: str | Path | ModelName, pretrained: bool | str | Path = False, **kwargs: Any) -> nn.Module:
    """Build a model by name, in training mode, on the CPU.

    `name` is `timm/NAME` (with or without a tag for its weights), `torchvision/NAME`, `cifar/resnet20` (32, 44, 56,
    110), `cifar/resnet18` or `cifar/vgg16_bn`; the prefix may be omitted if the name is unique. Or it is a folder
    written by `surgery.save`, or `hf-hub:USER/NAME`, and comes with its edits and weights.

    `pretrained` is False (random weights), True (the published weights, which the catalogue's own code may download) or
    the path of a safetensors file with exactly the weights of this model. All other arguments are passed to the
    catalogue's builder. If `num_classes` is not that of the weights, everything but the classifier is loaded, with the
    warning `NewHead`; a file may differ in nothing else. Nothing but tensors is unpickled.

    Raises:
        UnknownName: there is no such model, or no such tag.
        BadValue: a name without prefix is ambiguous, the weights do not exist, or a saved folder is given other
            arguments than it was saved with, `num_classes` excepted.
        BadFile, WrongModel: a file cannot be read, or contains the weights of another model.
    """
    named = resolve(name)
    if named.folder is not None:
        return _build_saved(named, pretrained, kwargs)
    full, published = named.full, pretrained is True
    try:
        with weights_only() if published else nullcontext():
            model = _of_catalogue(named, published, kwargs)
    except OSError as error:
        if not published:
            raise
        raise SurgeryError(
            f"the weights of {full} could not be fetched.",
            asked=first_line(error),
            try_="a connection, or pretrained=FILE with a safetensors file",
        ) from error
    except UnpicklingError as error:
        raise BadFile(f"the weights file of {full} contains more than weights.", asked=first_line(error)) from error
    if not isinstance(pretrained, bool):
        _load_file(model, named, Path(pretrained), kwargs)
    return model


def load_model(folder: str | Path, example: Any = None) -> nn.Module:
    """Load an edited model from a saved folder: build it by its name, repeat the edits, load the weights.

    `folder` was written by `surgery.save` or by a run; `hf-hub:USER/NAME` downloads one that `push_to_hub` uploaded.
    `example` is for models that were saved with one, see `surgery.load`. A model whose head was replaced after it was
    built is loaded with `surgery.load`, into a model with the same head.

    Raises:
        BadFile: `folder` was not written by `surgery.save`, or does not name a model.
        WrongModel: the installed catalogue builds another model under this name.
    """
    return _loaded(in_folder(saved_folder(folder) or Path(folder)), example)


def input_size(name: str | Path | ModelName | nn.Module) -> int | None:
    """The side, in pixels, of the only image size that a model accepts; None if it accepts several.

    `name` is as for `build`, or a model. It is read from the configuration of timm's models and from torchvision's
    vision transformers; other models are assumed to accept any size.

    Raises:
        UnknownName, BadValue, BadFile: as `build`.
    """
    import torch

    if isinstance(name, torch.nn.Module):
        return _own_size(name)
    named = resolve(name)
    if named.catalogue == "cifar":
        return None
    try:
        with torch.device("meta"):
            return _own_size(_of_catalogue(named))
    except (RuntimeError, NotImplementedError):  # a builder that computes with its weights
        return _own_size(_of_catalogue(named))


def _of_catalogue(named: ModelName, published: bool = False, kwargs: Mapping[str, Any] | None = None) -> nn.Module:
    """The unedited model of this name; built like the saved one, if it is in a folder, unless `kwargs` are given."""
    given = named.kwargs if kwargs is None else kwargs
    return _BUILDERS[named.catalogue](named.short, published, dict(given))


def _load_file(model: nn.Module, named: ModelName, file: Path, kwargs: dict[str, Any]) -> None:
    """Load exactly the weights of the model or, if it has another number of classes, all but the classifier."""
    weights = read_weights(file)
    asked, there = kwargs.get("num_classes"), classes_of(model, weights)
    if asked is None or there in (None, asked):
        load_weights(model, file)
    elif misfit(_of_catalogue(named, False, kwargs | {"num_classes": there}), weights):
        load_weights(model, file)  # raises: what differs is not the classifier alone
    else:
        load_body(model, weights)
        warn(NewHead(named.full, asked, there), stacklevel=3)


def _build_saved(named: ModelName, pretrained: bool | str | Path, kwargs: dict[str, Any]) -> nn.Module:
    saved = named.kwargs
    same = {key for key, value in kwargs.items() if key == "num_classes" or (key in saved and saved[key] == value)}
    other = [key for key in kwargs if key not in same]
    if other or not isinstance(pretrained, bool):
        raise BadValue(
            f"{named.folder} is loaded with the arguments it was saved with.",
            asked=", ".join([*other, *(() if isinstance(pretrained, bool) else ("pretrained",))]),
            there=", ".join(f"{key}={value!r}" for key, value in saved.items()) or "no arguments",
            try_="the folder alone, or the name of its model",
        )
    if kwargs.get("num_classes", saved.get("num_classes")) == saved.get("num_classes"):
        return _loaded(named)
    return _with_other_classes(named, kwargs["num_classes"])


def _with_other_classes(named: ModelName, classes: int) -> nn.Module:
    """The model in a saved folder with a new classifier, unless it has this many classes."""
    assert named.folder is not None
    plain, model = _of_catalogue(named), _of_catalogue(named, kwargs={**named.kwargs, "num_classes": classes})
    was, now = ({name: value.shape for name, value in built.state_dict().items()} for built in (plain, model))
    saved = load(named.folder, plain)
    if was == now:
        return saved
    if was.keys() != now.keys():
        raise BadValue(
            f"{named.folder} cannot be loaded with another classifier.", asked=f"{classes} classes",
            there=f"other weights in {named.full} then", try_="the number of classes it was saved with",
        )  # fmt: skip
    load_body(edit_like(model, named.folder), saved.state_dict())
    head = next(shape for name, shape in was.items() if shape != now[name])
    warn(NewHead(str(named.folder), classes, head[0]), stacklevel=4)
    return model


def _loaded(named: ModelName, example: Any = None) -> nn.Module:
    """The model in a saved folder, with its edits and weights."""
    assert named.folder is not None
    return load(named.folder, _of_catalogue(named), example)


def _own_size(model: nn.Module) -> int | None:
    settings = getattr(model, "pretrained_cfg", None)
    if isinstance(settings, dict):
        patches = getattr(model, "patch_embed", None)
        if not getattr(patches, "strict_img_size", settings.get("fixed_input_size", False)):
            return None
        sizes = (getattr(module, "img_size", None) for module in (patches, getattr(model, "stem", None), model))
        return int(next((size[0] for size in sizes if size), settings["input_size"][-1]))
    if type(model).__module__.partition(".")[0] == "torchvision":
        # A vision transformer keeps its size; a MaxViT cuts its last maps, 32 times smaller, into parts of one size.
        size, part = getattr(model, "image_size", None), getattr(model, "partition_size", None)
        return size if isinstance(size, int) else part * 32 if isinstance(part, int) else None
    return None


def _build_timm(short: str, published: bool, kwargs: dict[str, Any]) -> nn.Module:
    if published:
        config = timm().models.get_pretrained_cfg(short)
        if config is None or not config.has_weights:
            raise BadValue(f"timm publishes no weights for {short}.", try_="pretrained=False, or a safetensors file")
        asked = kwargs.get("num_classes") or config.num_classes  # 0 asks for no classifier at all
        if asked != config.num_classes:
            warn(NewHead(f"timm/{short}", asked, config.num_classes), stacklevel=3)
    model: nn.Module = timm().create_model(short, pretrained=published, **kwargs)
    return model


def _build_torchvision(short: str, published: bool, kwargs: dict[str, Any]) -> nn.Module:
    catalogue = torchvision().models
    if published and "num_classes" in kwargs:
        classes = len(catalogue.get_model_weights(short).DEFAULT.meta["categories"])
        if kwargs["num_classes"] != classes:
            return _with_new_head(short, classes, kwargs)
    known = inspect.signature(catalogue.get_model_builder(short)).parameters
    settings: dict[str, Any] = {"weights": "DEFAULT" if published else None}
    if not published and "weights_backbone" in known:
        # By default, the detection and segmentation builders download a trained backbone.
        settings["weights_backbone"] = None
    if not published and short.removeprefix("quantized_") in ("googlenet", "inception_v3"):
        # Their default, without the warning that it will change.
        settings["init_weights"] = True
    model: nn.Module = catalogue.get_model(short, **settings | kwargs)
    return model


def _with_new_head(short: str, classes: int, kwargs: dict[str, Any]) -> nn.Module:
    """A model of torchvision with pretrained weights but a new classifier, which its builders refuse to build."""
    source = _build_torchvision(short, True, {key: value for key, value in kwargs.items() if key != "num_classes"})
    # Arguments that these builders change to fit the weights.
    changed = {key: getattr(source, key) for key in ("transform_input", "aux_logits") if hasattr(source, key)}
    changed |= {"init_weights": False} if "transform_input" in changed else {}
    model = _build_torchvision(short, False, changed | kwargs)
    weights = source.state_dict()
    if model.state_dict().keys() != weights.keys():
        raise BadValue(
            f"the weights of torchvision/{short} are those of a model with other parts.",
            try_="the arguments that they were made with, such as aux_loss=True",
        )
    load_body(model, weights)
    warn(NewHead(f"torchvision/{short}", kwargs["num_classes"], classes), stacklevel=4)
    return model


def _build_cifar(short: str, published: bool, kwargs: dict[str, Any]) -> nn.Module:
    from recipes.models.cifar_resnet import CifarResNet
    from recipes.models.cifar_resnet18 import CifarResNet18
    from recipes.models.cifar_vgg import CifarVGG

    if published:
        raise BadValue(f"cifar/{short} has no published weights to fetch.", try_="the path of a safetensors file")
    if short.startswith("vgg"):
        return CifarVGG(**kwargs)
    if short == "resnet18":
        return CifarResNet18(**kwargs)
    return CifarResNet(int(short.removeprefix("resnet")), **kwargs)


_BUILDERS = {"timm": _build_timm, "torchvision": _build_torchvision, "cifar": _build_cifar}
