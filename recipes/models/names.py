"""Names of models: what `timm/NAME`, `torchvision/NAME`, `cifar/NAME`, a bare name or a saved folder refers to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipes.optional import check_torchvision
from recipes.runs.hub import pull
from surgery.errors import BadFile, BadValue, UnknownName, nearest
from surgery.serialization.model_folder import read_steps, steps_file

CATALOGUES = ("timm", "torchvision", "cifar")
HUB = "hf-hub:"
FETCHING = ("pretrained", "weights", "weights_backbone", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay")


@dataclass(frozen=True, slots=True)
class ModelName:
    """A name that was looked up: `full` is the one in its catalogue, `folder` the saved folder it stands for, if any.

    `kwargs` are the arguments for the builder of a saved model, such as `num_classes`.
    """

    full: str
    folder: Path | None = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def catalogue(self) -> str:
        """The catalogue that has the model."""
        return self.full.partition("/")[0]

    @property
    def short(self) -> str:
        """Its name there."""
        return self.full.partition("/")[2]


def resolve(name: str | Path | ModelName) -> ModelName:
    """Look up the name of a model, unless that was done: `googlenet` is `torchvision/googlenet`.

    Raises:
        UnknownName: it is neither in a catalogue nor a saved folder.
        BadValue: several catalogues have it.
        BadFile: a saved folder cannot be read, or does not name a model.
    """
    if isinstance(name, ModelName):
        return name
    if folder := saved_folder(name):
        return in_folder(folder)
    if isinstance(name, Path):
        raise BadFile(f"{name} is not a folder written by surgery.save.")
    return ModelName(_in_catalogue(name))


def full_name(name: str | Path) -> str:
    """The name of a model with its catalogue: `torchvision/googlenet` for `googlenet`, also for a saved folder.

    Raises:
        UnknownName, BadValue, BadFile: as `resolve`.
    """
    return resolve(name).full


def family_of(full: str) -> str:
    """What models of one family share: the module of their catalogue that builds them.

    `full` is a name with its catalogue. `timm/resnet18` and `timm/resnet50` are of one family, and so are timm's
    MobileNetV2 and EfficientNet, which are blocks of one kind.
    """
    catalogue, _, short = full.partition("/")
    if catalogue == "timm":
        home = timm().model_entrypoint(short.partition(".")[0]).__module__
    elif catalogue == "torchvision":
        home = torchvision().models.get_model_builder(short).__module__
    else:
        home = f"{catalogue}.{'vgg' if short.startswith('vgg') else 'resnet'}"
    return str(home)


def in_folder(folder: Path) -> ModelName:
    """The name of the model in a saved folder, and the arguments for its builder.

    Raises:
        BadFile: it was not written by `surgery.save`, or does not name a model of a catalogue.
        UnknownName: the installed catalogue does not have this model.
    """
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
    return ModelName(_in_catalogue(name), folder, kwargs)


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


def names(catalogue: str) -> tuple[str, ...]:
    """The names of all models of a catalogue, without its prefix."""
    if catalogue == "timm":
        return tuple(timm().list_models())
    if catalogue == "torchvision":
        return tuple(torchvision().models.list_models())
    if catalogue == "cifar":
        from recipes.models import cifar_resnet, cifar_vgg

        resnets = (f"resnet{depth}" for depth in cifar_resnet.DEPTHS)
        return (*resnets, "resnet18", *(f"vgg{depth}_bn" for depth in cifar_vgg.DEPTHS))
    raise UnknownName(f"unknown catalogue {catalogue!r}.", there=", ".join(CATALOGUES))


def _in_catalogue(name: str) -> str:
    """A name with its catalogue."""
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


def _has(catalogue: str, short: str) -> bool:
    if catalogue != "timm":
        return short in names(catalogue)
    architecture, dot, tag = short.partition(".")
    if not timm().is_model(architecture):
        return False
    tagged = timm().list_pretrained(f"{architecture}.*") if dot else []
    if dot and short not in tagged:
        raise UnknownName(
            f"timm has no weights {tag!r} for {architecture}.",
            there=", ".join(full.partition(".")[2] for full in tagged) or "no weights at all",
            try_=nearest(short, tagged),
        )
    return True


def timm() -> Any:
    """The package timm, after a check that its torchvision works."""
    check_torchvision()
    import timm

    return timm


def torchvision() -> Any:
    """The package torchvision, after a check that it works."""
    check_torchvision()
    import torchvision

    return torchvision
