"""Build: models by name (`timm/NAME`, `torchvision/NAME`, `cifar/NAME`), with or without weights."""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any
from warnings import warn

from recipes.models.weights import NewHead as NewHead
from recipes.models.weights import classes_of, first_line, load_body, load_weights, misfit, read_weights, weights_only
from recipes.optional import check_torchvision
from recipes.runs.hub import pull
from surgery.errors import BadFile, BadValue, SurgeryError, UnknownName, nearest
from surgery.serialization.model_folder import read_steps, steps_file

if TYPE_CHECKING:
    from torch import nn

CATALOGUES = ("timm", "torchvision", "cifar")
HUB = "hf-hub:"
FETCHING = ("pretrained", "weights", "weights_backbone", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay")


def build(name: str | Path, pretrained: bool | str | Path = False, **kwargs: Any) -> nn.Module:
    """Build a model by name, in training mode, on the CPU.

    `name` is `timm/NAME` (with or without a tag for its weights), `torchvision/NAME`, `cifar/resnet20` (32, 44, 56,
    110) or `cifar/vgg16_bn`; the prefix may be omitted if the name is unique. Or it is a folder written by
    `surgery.save`, or `hf-hub:USER/NAME`, and comes with its edits and weights.

    `pretrained` is False (random weights), True (the published weights, which the catalogue's own code may download) or
    the path of a safetensors file with exactly the weights of this model. All other arguments are passed to the
    catalogue's builder. If `num_classes` is not that of the weights, everything but the classifier is loaded, with the
    warning `NewHead`; a file may differ in nothing else. Nothing but tensors is unpickled.

    Raises:
        UnknownName: there is no such model, or no such tag.
        BadValue: a name without prefix is ambiguous, the weights do not exist, or a saved folder is given other
            arguments than it was saved with.
        BadFile, WrongModel: a file cannot be read, or contains the weights of another model.
    """
    if folder := saved_folder(name):
        return _build_saved(folder, pretrained, kwargs)
    full = full_name(name)
    catalogue, short = full.split("/", 1)
    published = pretrained is True
    try:
        with weights_only() if published else nullcontext():
            model = _BUILDERS[catalogue](short, published, kwargs)
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
        _load_file(model, full, Path(pretrained), kwargs)
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
    import surgery

    found = saved_folder(folder) or Path(folder)
    name, kwargs = _named(found)
    return surgery.load(found, build(name, **kwargs), example)


def saved_kwargs(folder: str | Path) -> dict[str, Any]:
    """The arguments for the builder of the model in a saved folder, such as `num_classes`.

    Raises:
        BadFile: `folder` was not written by `surgery.save`, or does not name a model.
    """
    return _named(saved_folder(folder) or Path(folder))[1]


def saved_folder(name: str | Path) -> Path | None:
    """The saved folder that a name refers to, None if it refers to a model of a catalogue.

    A name that starts with a catalogue, like `cifar/resnet20`, is never a folder; `./cifar/resnet20` is.

    Raises:
        BadValue: the name of a model without prefix is also that of a saved folder.
        SurgeryError: `hf-hub:USER/NAME` cannot be downloaded.
    """
    text = str(name)
    if text.startswith(HUB):
        return pull(text.removeprefix(HUB))
    path, in_full = Path(name), text.startswith(tuple(f"{catalogue}/" for catalogue in CATALOGUES))
    if (isinstance(name, str) and in_full) or not steps_file(path).is_file():
        return None
    if isinstance(name, str) and any(_has(catalogue, name) for catalogue in CATALOGUES):
        raise BadValue(f"{name!r} is a model and a folder here.", try_=f"./{name} for the folder, or CATALOGUE/{name}")
    return path


def input_size(name: str | Path | nn.Module) -> int | None:
    """The side, in pixels, of the only image size that a model accepts; None if it accepts several.

    `name` is as for `build`, or a model. It is read from the configuration of timm's models and from torchvision's
    vision transformers; other models are assumed to accept any size.

    Raises:
        UnknownName, BadValue, BadFile: as `build`.
    """
    import torch

    if isinstance(name, torch.nn.Module):
        return _own_size(name)
    folder = saved_folder(name)
    full, kwargs = _named(folder) if folder else (full_name(name), {})
    if full.startswith("cifar/"):
        return None
    try:
        with torch.device("meta"):
            return _own_size(build(full, **kwargs))
    except (RuntimeError, NotImplementedError):  # a builder that computes with its weights
        return _own_size(build(full, **kwargs))


def full_name(name: str | Path) -> str:
    """The name of a model with its catalogue: `torchvision/googlenet` for `googlenet`, also for a saved folder.

    Raises:
        UnknownName: it is neither in a catalogue nor a saved folder.
        BadValue: several catalogues have it.
        BadFile: a saved folder cannot be read, or does not name a model.
    """
    if folder := saved_folder(name):
        return _named(folder)[0]
    if isinstance(name, Path):
        raise BadFile(f"{name} is not a folder written by surgery.save.")
    prefix, slash, rest = name.partition("/")
    if slash and prefix not in CATALOGUES:
        raise UnknownName(
            f"unknown catalogue {prefix!r}, and no folder {name} written by surgery.save.",
            there=", ".join(CATALOGUES),
        )
    searched = (prefix,) if slash else CATALOGUES
    short = rest if slash else name
    found = [catalogue for catalogue in searched if _has(catalogue, short)]
    if not found:
        close = [
            f"{catalogue}/{near}"
            for catalogue in searched
            for near in nearest(short, names(catalogue)).split(", ")
            if near
        ]
        raise UnknownName(
            f"unknown model {name!r}.",
            there=", ".join(f"{len(names(catalogue))} models in {catalogue}" for catalogue in searched),
            try_=", ".join(close) or "surgery sites timm/resnet18",
        )
    if len(found) > 1:
        both = ", ".join(f"{catalogue}/{short}" for catalogue in found)
        raise BadValue(f"the model name {name!r} exists {len(found)} times.", there=both, try_="one of them in full")
    return f"{found[0]}/{short}"


def names(catalogue: str) -> tuple[str, ...]:
    """The names of all models of a catalogue, without its prefix."""
    if catalogue == "timm":
        return tuple(_timm().list_models())
    if catalogue == "torchvision":
        return tuple(_torchvision().models.list_models())
    if catalogue == "cifar":
        from recipes.models import cifar_resnet, cifar_vgg

        resnets = (f"resnet{depth}" for depth in cifar_resnet.DEPTHS)
        return (*resnets, *(f"vgg{depth}_bn" for depth in cifar_vgg.DEPTHS))
    raise UnknownName(f"unknown catalogue {catalogue!r}.", there=", ".join(CATALOGUES))


def _load_file(model: nn.Module, full: str, file: Path, kwargs: dict[str, Any]) -> None:
    """Load exactly the weights of the model or, if it has another number of classes, all but the classifier."""
    weights = read_weights(file)
    asked, there = kwargs.get("num_classes"), classes_of(model, weights)
    if asked is not None and there is not None and there != asked:
        catalogue, short = full.split("/", 1)
        if not misfit(_BUILDERS[catalogue](short, False, kwargs | {"num_classes": there}), weights):
            load_body(model, weights)
            warn(NewHead(full, asked, there), stacklevel=3)
            return
    load_weights(model, file)


def _build_saved(folder: Path, pretrained: bool | str | Path, kwargs: dict[str, Any]) -> nn.Module:
    saved = saved_kwargs(folder)
    other = {key: value for key, value in kwargs.items() if key not in saved or saved[key] != value}
    if other or not isinstance(pretrained, bool):
        raise BadValue(
            f"{folder} is loaded with the arguments it was saved with.",
            asked=", ".join([*other, *(() if isinstance(pretrained, bool) else ("pretrained",))]),
            there=", ".join(f"{key}={value!r}" for key, value in saved.items()) or "no arguments",
            try_="the folder alone, or the name of its model",
        )
    return load_model(folder)


def _named(folder: Path) -> tuple[str, dict[str, Any]]:
    """The full name of the model in a saved folder, and the arguments for its builder."""
    named = read_steps(folder)["model"]
    if named is None:
        raise BadFile(
            f"{folder} does not say which model it is.", try_="surgery.load(folder, model=...), with a fresh model"
        )
    name, kwargs = named.get("name"), named.get("kwargs")
    # A name that points to another folder or to the network is not followed: the file may be untrusted.
    if not isinstance(name, str) or not isinstance(kwargs, dict) or name.partition("/")[0] not in CATALOGUES:
        raise BadFile(f"{folder} does not name a model of {', '.join(CATALOGUES)}.", asked=repr(name))
    if fetching := [key for key in FETCHING if key in kwargs]:
        raise BadFile(f"{folder} asks for weights besides its own.", asked=", ".join(fetching))
    return name, kwargs


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


def _has(catalogue: str, short: str) -> bool:
    if catalogue != "timm":
        return short in names(catalogue)
    architecture, dot, tag = short.partition(".")
    if not _timm().is_model(architecture):
        return False
    tagged = _timm().list_pretrained(f"{architecture}.*") if dot else []
    if dot and short not in tagged:
        raise UnknownName(
            f"timm has no weights {tag!r} for {architecture}.",
            there=", ".join(full.partition(".")[2] for full in tagged) or "no weights at all",
            try_=nearest(short, tagged),
        )
    return True


def _build_timm(short: str, published: bool, kwargs: dict[str, Any]) -> nn.Module:
    timm = _timm()
    if published:
        config = timm.models.get_pretrained_cfg(short)
        if config is None or not config.has_weights:
            raise BadValue(f"timm publishes no weights for {short}.", try_="pretrained=False, or a safetensors file")
        asked = kwargs.get("num_classes") or config.num_classes  # 0 asks for no classifier at all
        if asked != config.num_classes:
            warn(NewHead(f"timm/{short}", asked, config.num_classes), stacklevel=3)
    model: nn.Module = timm.create_model(short, pretrained=published, **kwargs)
    return model


def _build_torchvision(short: str, published: bool, kwargs: dict[str, Any]) -> nn.Module:
    catalogue = _torchvision().models
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
    from recipes.models.cifar_vgg import CifarVGG

    if published:
        raise BadValue(f"cifar/{short} has no published weights to fetch.", try_="the path of a safetensors file")
    if short.startswith("vgg"):
        return CifarVGG(**kwargs)
    return CifarResNet(int(short.removeprefix("resnet")), **kwargs)


_BUILDERS = {"timm": _build_timm, "torchvision": _build_torchvision, "cifar": _build_cifar}


def _timm() -> Any:
    check_torchvision()
    import timm

    return timm


def _torchvision() -> Any:
    check_torchvision()
    import torchvision

    return torchvision
