"""Models by name: `timm/NAME`, `torchvision/NAME` and `cifar/NAME`, fresh or with weights."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes._start import check_torchvision
from surgery.errors import BadFile, BadValue, SurgeryError, UnknownName, WrongModel, nearest

if TYPE_CHECKING:
    from torch import nn

CATALOGUES = ("timm", "torchvision", "cifar")


def build(name: str, pretrained: bool | str | Path = False, **kwargs: Any) -> nn.Module:
    """Build the model called `name`, in training mode, on the CPU.

    `name` is `timm/NAME` (with or without a tag for its weights), `torchvision/NAME` or `cifar/resnet20` (32, 44,
    56, 110); a bare name will do where only one of the three has it. `pretrained` is False (fresh weights), True (the
    catalogue's own weights, by its own code, which may download them) or the path of a safetensors file that holds
    exactly the weights of this model. Everything else, such as `num_classes`, goes to the catalogue's builder.

    Raises:
        UnknownName: no such model, or no such tag.
        BadValue: a bare name that several catalogues have, or weights that do not exist.
        BadFile, WrongModel: a file that cannot be read, or whose weights are not those of this model.
    """
    catalogue, short = full_name(name).split("/", 1)
    published = pretrained is True
    try:
        model = _BUILDERS[catalogue](short, published, kwargs)
    except OSError as error:
        if not published:
            raise
        raise SurgeryError(
            f"the weights of {catalogue}/{short} could not be fetched.",
            there=_first_line(error),
            try_="a connection, or pretrained=FILE with a safetensors file",
        ) from error
    if not isinstance(pretrained, bool):
        load_weights(model, pretrained)
    return model


def load_model(folder: str | Path) -> nn.Module:
    """Build the model that a saved folder names, make it the edited one, and load its weights.

    Raises:
        BadFile: no folder written by `surgery.save`, or one that names no model.
        WrongModel: the installed catalogue builds another model under this name.
    """
    import surgery
    from surgery.keep import read_steps

    named = read_steps(folder)["model"]
    if named is None:
        raise BadFile(
            f"{folder} does not say which model it is.", try_="surgery.load(folder, model=...), with a fresh model"
        )
    return surgery.load(folder, build(named["name"], **named["kwargs"]))


def full_name(name: str) -> str:
    """The name with its catalogue: `googlenet` is `torchvision/googlenet`.

    Raises:
        UnknownName: no catalogue has it.
        BadValue: several have it.
    """
    prefix, slash, rest = name.partition("/")
    if slash and prefix not in CATALOGUES:
        raise UnknownName(f"there is no catalogue {prefix!r}.", asked=name, there=", ".join(CATALOGUES))
    searched = (prefix,) if slash else CATALOGUES
    short = rest if slash else name
    found = [one for one in searched if _has(one, short)]
    if not found:
        close = [f"{one}/{near}" for one in searched for near in nearest(short, names(one)).split(", ") if near]
        raise UnknownName(
            f"there is no model {name!r}.",
            there=", ".join(f"{len(names(one))} in {one}" for one in searched),
            try_=", ".join(close) or "surgery sites timm/resnet18",
        )
    if len(found) > 1:
        both = ", ".join(f"{one}/{short}" for one in found)
        raise BadValue(f"the model name {name!r} exists {len(found)} times.", there=both, try_="one of them in full")
    return f"{found[0]}/{short}"


def names(catalogue: str) -> tuple[str, ...]:
    """Every model name of one catalogue, without its prefix."""
    if catalogue == "timm":
        return tuple(_timm().list_models())
    if catalogue == "torchvision":
        return tuple(_torchvision().models.list_models())
    if catalogue == "cifar":
        from recipes.cifar_resnet import DEPTHS

        return tuple(f"resnet{depth}" for depth in DEPTHS)
    raise UnknownName(f"there is no catalogue {catalogue!r}.", there=", ".join(CATALOGUES))


def load_weights(model: nn.Module, file: str | Path) -> None:
    """Load a safetensors file that holds exactly the weights of `model`: no more, no less, the same shapes.

    Raises:
        BadFile: not a readable safetensors file, or the weights of an edited model.
        WrongModel: the weights of another model.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    path = Path(file)
    if path.suffix != ".safetensors":
        raise BadFile(f"{path.name} is not a safetensors file.", try_="a file that ends in .safetensors")
    if not path.is_file():
        raise BadFile(f"there is no weights file {path}.")
    try:
        with safe_open(path, framework="pt") as opened:
            edited = "surgery" in (opened.metadata() or {})
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise BadFile(f"{path.name} cannot be read as safetensors.", there=_first_line(error)) from error
    if edited:
        # The names of an edited model's weights are those of the unedited one: they would load, and be wrong.
        raise BadFile(
            f"{path.name} holds the weights of an edited model.",
            try_="surgery.load(folder, model=...), with the folder that surgery.save wrote",
        )
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in weights.items()}
    # Counters of batch norm are absent from older files; torch fills them in.
    missing = [name for name in wanted if name not in given and not name.endswith("num_batches_tracked")]
    unknown = [name for name in given if name not in wanted]
    resized = [name for name in given if name in wanted and given[name] != wanted[name]]
    if missing or unknown or resized:
        facts = (("missing", missing), ("unknown", unknown), ("of another shape", resized))
        raise WrongModel(
            f"the weights in {path.name} are not those of this {type(model).__name__}.",
            there="; ".join(f"{_some(which)} {what}" for what, which in facts if which),
        )
    model.load_state_dict(weights, strict=True)


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
            there=", ".join(one.partition(".")[2] for one in tagged) or "no weights at all",
            try_=nearest(short, tagged),
        )
    return True


def _build_timm(short: str, published: bool, kwargs: dict[str, Any]) -> nn.Module:
    timm = _timm()
    if published:
        config = timm.models.get_pretrained_cfg(short)
        if config is None or not config.has_weights:
            raise BadValue(f"timm publishes no weights for {short}.", try_="pretrained=False, or a safetensors file")
    model: nn.Module = timm.create_model(short, pretrained=published, **kwargs)
    return model


def _build_torchvision(short: str, published: bool, kwargs: dict[str, Any]) -> nn.Module:
    catalogue = _torchvision().models
    known = inspect.signature(catalogue.get_model_builder(short)).parameters
    settings: dict[str, Any] = {"weights": "DEFAULT" if published else None}
    if not published and "weights_backbone" in known:
        # The detection and segmentation builders fetch a trained backbone unless told not to.
        settings["weights_backbone"] = None
    if not published and short.removeprefix("quantized_") in ("googlenet", "inception_v3"):
        # What they do when nothing is said, minus the warning that this will change.
        settings["init_weights"] = True
    model: nn.Module = catalogue.get_model(short, **settings | kwargs)
    return model


def _build_cifar(short: str, published: bool, kwargs: dict[str, Any]) -> nn.Module:
    from recipes.cifar_resnet import CifarResNet

    if published:
        raise BadValue(f"cifar/{short} has no published weights to fetch.", try_="the path of a safetensors file")
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


def _some(names: Iterable[str], shown: int = 3) -> str:
    listed = list(names)
    return ", ".join(listed[:shown]) + (f" and {len(listed) - shown} more" if len(listed) > shown else "")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
