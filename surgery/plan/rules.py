"""Rule: which activation calls to change, and to what. Plain data that can be printed, compared and saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from torch import nn

from surgery.activations.functions.rectified_scores import Reading
from surgery.activations.recompute import Memory, check_memory
from surgery.activations.registry import named, parameters, row_of
from surgery.errors import BadValue, UnknownName, nearest
from surgery.look.site import Pattern, Site

Options = tuple[tuple[str, Any], ...]

Fading = bool | tuple[float, float]

Location = Literal["first", "middle", "last"]
Order = Literal["spread", "front", "back"]
StandIn = Literal["identity", "affine"]
Start = Literal["same", "own", "affine"]

_FACTS = ("site", *(field.name for field in fields(Site)))


@dataclass(frozen=True, slots=True, repr=False)
class Rule:
    """One instruction: `use` names the way of picking, `pick` holds its options, `make` names the replacement.

    `expect` is the number of sites it must pick (None: at least one), `optional` lets it pick none, `remaining` lets
    it pick only what no earlier rule took. `fade` introduces the new function gradually, see `set_progress`; a pair
    gives the part of the progress. `start` is "same" if the new function is initialised to match the one it replaces,
    "own" for its default initial values, "affine" if a fade starts as the affine stand-in of what it replaces.
    """

    use: str
    pick: Options
    make: str
    params: Options = ()
    fade: Fading = False
    expect: int | None = None
    optional: bool = False
    remaining: bool = False
    start: Start = "same"

    def __post_init__(self) -> None:
        _check_fade(self.fade)
        _one_of("start", self.start, get_args(Start))
        if self.start == "affine" and not self.fade:
            raise BadValue("Only a fade can start as an affine map.", asked=str(self), try_="fade=True")
        if self.expect is not None and (type(self.expect) is not int or self.expect < 0):
            raise BadValue("`expect` is a number of sites.", asked=f"expect={self.expect!r}", try_="0 or more")
        for name in ("optional", "remaining"):
            _switch(name, getattr(self, name))

    def __repr__(self) -> str:
        options = [f"{key}={value!r}" for key, value in (*self.pick, *self.params)]
        options += ["stand_in='affine'"] if self.use == "erase_relu" and self.make == "affine" else []
        options += [f"start={self.start!r}"] if self.start != "same" else []
        options += [f"{key}={getattr(self, key)!r}" for key in ("fade", "optional", "remaining") if getattr(self, key)]
        options += [f"expect={self.expect}"] if self.expect is not None else []
        return f"{self.use}({', '.join(([repr(self.make)] if self.use == 'swap' else []) + options)})"


@dataclass(frozen=True, slots=True)
class Recipe:
    """Named rules: what they do (`about`), their source (`source`), and the models they were checked on (`models`)."""

    name: str
    rules: tuple[Rule, ...]
    about: str = ""
    source: str = ""
    models: tuple[str, ...] = ()


def erase_relu(
    location: Location | int = "last",
    share: float = 1.0,
    order: Order = "spread",
    *,
    stem: bool = False,
    keep_final: bool = False,
    preactivation: Literal["first", "last"] = "last",
    vgg_odd: Literal["keep", "erase"] = "keep",
    activation: Pattern = ("relu", "relu6"),
    stand_in: StandIn = "identity",
    start: Literal["same", "affine"] = "same",
    fade: Fading = False,
    expect: int | None = None,
    optional: bool = False,
    remaining: bool = False,
) -> Rule:
    """Erase one ReLU of every basic module, the last one by default.

    Basic modules follow from structure: a block that adds its paths (ResNet, ResNeXt, RegNet), the branches
    of one that concatenates them (Inception, Fire, shuffle units: the ReLU that ends each branch), a layer that
    concatenates its inputs (DenseNet), a pair of convolutions between pools (VGG). A block that ends in a linear
    convolution (MobileNetV2) does not have a last ReLU to erase.

    Args:
        location: "first", "middle" (of n the ceil(n / 2)-th) or "last", or an integer counted from 1 (negative from the
            end), among the ReLUs of a module, or of each branch that ends in a concat.
        share: fraction of the modules to treat, in [0, 1]; round half up, at least one module if above 0.
        order: which modules are selected: evenly "spread", from the "front" or from the "back" of the network.
        stem: erase the ReLUs before the first module, too.
        keep_final: leave the last module unchanged, so that the features before the head stay non-negative.
        preactivation: in blocks that start with norm and ReLU, the "last" one (before the last convolution) or the
            "first" one counts as the last; the paper is not explicit, see Source.
        vgg_odd: the third convolution of a stage of three has no partner: "keep" or "erase" its ReLU.
        activation: which activations count as a ReLU, as a pattern.
        stand_in: what replaces the ReLU: the "identity", or an "affine" map per channel, the best linear fit to the
            ReLU for the output distribution of the norm in front. It keeps most of a trained network's accuracy without
            training; see `fit_affine` and `recalibrate`.
        start: what a fade starts as: the "same" function as before, or the "affine" map.
        fade: turn the ReLUs into their stand-in gradually, driven by `set_progress`; a pair such as (0.1, 0.8) gives
            the part of the progress.

    Raises:
        BadValue: an argument outside its range.

    Source: Dong et al., "EraseReLU", arXiv 1709.07634, abstract (last ReLU of all modules); the location, share and
    order axes are its ablations; pre-activation and odd convolutions are our reading.
    """
    counted = isinstance(location, int) and not isinstance(location, bool) and location != 0
    if not counted and location not in get_args(Location):
        raise BadValue(
            "`location` is a position in a basic module.", asked=f"location={location!r}",
            try_="'first', 'middle', 'last', or an integer counted from 1 (negative from the end)",
        )  # fmt: skip
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
        raise BadValue("`share` is a fraction of the modules.", asked=f"share={share!r}", try_="0 to 1")
    _one_of("order", order, get_args(Order))
    _one_of("preactivation", preactivation, ("first", "last"))
    _one_of("vgg_odd", vgg_odd, ("keep", "erase"))
    _one_of("stand_in", stand_in, get_args(StandIn))
    _one_of("start", start, ("same", "affine"))
    _switch("stem", stem)
    _switch("keep_final", keep_final)
    pick = {
        "location": location, "share": float(share), "order": order, "stem": stem, "keep_final": keep_final,
        "preactivation": preactivation, "vgg_odd": vgg_odd, "activation": _hashable(activation),
    }  # fmt: skip
    return Rule("erase_relu", tuple(pick.items()), stand_in, (), _hashable(fade), expect, optional, remaining, start)


def swap(
    to: str | type[nn.Module] | nn.Module,
    *,
    params: Mapping[str, Any] | None = None,
    start: Start = "same",
    memory: Memory = "keep",
    fade: Fading = False,
    expect: int | None = None,
    optional: bool = False,
    remaining: bool = False,
    **facts: Any,
) -> Rule:
    """Replace activations by `to`, everywhere or at the sites with these `facts`.

    `to` is a name of `surgery.activations.names()`, in upper or lower case, or a module that computes one, or its
    class: `swap("GELU")`, `swap(nn.GELU)`, `swap(nn.GELU(approximate="tanh"))`. A keyword that is a fact of `Site`
    selects: `block="layer3"` (all blocks in it), `block="layer3.*"`, `activation="relu"`, `site="layer1.0.relu 3/3"`,
    `role="gate"`, as in `Sites.where`. Any other keyword, or one in `params`, goes to the builder of `to`:
    `swap("leaky_relu", negative_slope=0.1)`. Only nonlinearities are picked, unless `role` or `site` asks for gates,
    heads or activations of weights. A call of unknown role is picked only if `role` asks for it, or if `site`, `owner`
    or `module` names it in full: a wildcard does not, nor does the path of a module around it.

    With `start="same"` a function with parameters is initialised to match the one it replaces, exactly if possible and
    else as closely as possible; parameters given here take precedence. With `start="own"` it has its default initial
    values. Either way the report gives its maximum error against what it replaces, on the inputs of the example given
    to `find_sites` or `transform`; without one, on the range of a norm in front (its bias plus and minus four times its
    weight), else on random inputs. `fade` introduces it gradually, see `set_progress`.

    A learned function keeps its input for the backward pass. With `memory="recompute"` it does not where the layers in
    front keep enough to compute it again: behind a batch norm, and behind the sum of a residual block whose branches
    end in batch norms, or whose shortcut a convolution of the block reads. Training then takes about the memory of
    ReLUs, and the time of one more pass per function; gradients are the same. Elsewhere the input is kept as usual:
    behind other layers or norms, or a batch norm whose bias is frozen; in a checkpointed part of a model, where little
    is kept anyway; and in a compiled model, whose compiler decides what to keep.

    Channels share its parameters where the number of channels is not fixed: where the same code calls it at several
    widths, or where it depends on the size of the example, as behind a `flatten` (`Site.channels_vary`). The report
    says so; `per="channel"` raises an error there, and so does a function whose parameters cannot be shared.

    Raises:
        UnknownName: `to` is not in the catalogue, or a keyword is neither a fact nor a parameter.
        BadValue: `to` is not a name or a module, has learned parameters, or belongs behind a classifier; `memory` is
            "recompute" for a function that cannot; or a flag is neither True nor False.
    """
    to, read = named(to)
    if row_of(to).role == "head":
        raise BadValue(f"{to!r} belongs behind a classifier.", asked=f"swap({to!r})", try_="rectify_scores()")
    pick = {key: _hashable(value) for key, value in facts.items() if key in _FACTS}
    given = {key: value for key, value in facts.items() if key not in _FACTS} | dict(params or {})
    given = read | given
    known = parameters(to)
    if check_memory(memory):
        if "memory" not in known:
            raise BadValue(
                f"{to!r} cannot recompute its input: the learned functions of the catalogue can.",
                asked="memory='recompute'", try_="memory='keep'",
            )  # fmt: skip
        given["memory"] = memory
    for key in given:
        if key not in known:
            raise UnknownName(
                f"{key!r} is neither a fact of a site nor a parameter of {to!r}.",
                there=f"parameters of {to}: {', '.join(known) or 'none'}", try_=nearest(key, (*_FACTS, *known)),
            )  # fmt: skip
    if "role" not in pick and "site" not in pick:
        pick["role"] = "nonlinearity"
    settings = tuple(sorted(given.items()))
    return Rule("swap", tuple(pick.items()), to, settings, _hashable(fade), expect, optional, remaining, start)


def rectify_scores(
    reading: Reading = "scores", *, expect: int | None = None, optional: bool = False, remaining: bool = False
) -> Rule:
    """Classify with a ReLU: insert one behind the classifier whose output the model returns; predict with arg max.

    The paper allows two readings: "scores" passes max(0, scores) to softmax cross-entropy; "shares" passes the
    logarithm of the normalised rectified scores, so that cross-entropy is the negative log of the correct class's part.

    Raises:
        BadValue: an unknown reading.

    Source: Agarap 2018, "Deep learning using rectified linear units", arXiv 1803.08375, section 2.
    """
    _one_of("reading", reading, get_args(Reading))
    settings: Options = (("reading", reading),)
    return Rule("rectify_scores", (), "rectified_scores", settings, False, expect, optional, remaining)


def drop(block: Pattern, *, expect: int | None = None, optional: bool = False, remaining: bool = False) -> Rule:
    """Drop residual blocks whole: each becomes the identity, so that what enters it goes on unchanged.

    `block` is a pattern for the paths of `find_sites(model).blocks`, as in `Sites.where`. A block can be dropped if its
    forward adds what it computes to its own input, as the blocks of a ResNet without a projection and the layers of a
    transformer do. A block named in full that cannot is an error, a wildcard leaves it alone; the plan says why.
    An activation behind the sum goes, too.

    Raises:
        BadValue: `block` is not a path, a pattern, or several of them.

    Source: Veit et al. 2016, "Residual networks behave like ensembles of relatively shallow networks", arXiv
    1605.06431, section 4, which removes single blocks of trained networks.
    """
    return Rule("drop", (("block", _paths(block)),), "dropped", (), False, expect, optional, remaining)


def move_padding(
    block: Pattern = "*", *, expect: int | None = None, optional: bool = False, remaining: bool = False
) -> Rule:
    """Move the zero padding of convolutions in a row to the first of them, so that they can be merged exactly.

    Only convolutions with nothing but linear layers between them are touched, in the blocks that `block` names, by
    default everywhere: erase the activations between them first, in the same plan or an earlier one. Shapes stay the
    same. What the network computes changes at the borders of the images, and training gets used to that; see `merge`.

    Raises:
        BadValue: `block` is not a path, a pattern, or several of them.

    Source: Kim et al. 2023, "Efficient latency-aware CNN depth compression", arXiv 2301.12187, whose code moves
    the padding before fine-tuning.
    """
    return Rule("move_padding", (("block", _paths(block)),), "moved_padding", (), False, expect, optional, remaining)


def erase(*, stand_in: StandIn = "identity", **options: Any) -> Rule:
    """Erase activations at the sites with these facts: `swap` to the identity, or to another `stand_in`.

    >>> print(erase(block="layer4.*", position=1))
    swap('identity', block='layer4.*', position=1, role='nonlinearity')
    """
    if "to" in options:
        raise UnknownName("erase has no option 'to'.", try_="swap")
    _one_of("stand_in", stand_in, get_args(StandIn))
    return swap(stand_in, **options)


def _paths(pattern: Pattern) -> Pattern:
    """A pattern for paths, or several, checked."""
    listed = pattern if isinstance(pattern, tuple | list) else (pattern,)
    if not listed or not all(isinstance(part, str) for part in listed):
        raise BadValue("`block` is the path of a block, or a pattern.", asked=f"block={pattern!r}", try_="'layer3.*'")
    return _hashable(pattern)  # type: ignore[no-any-return]


def _hashable(value: Any) -> Any:
    """A list, such as a file gives, as a tuple: rules can be hashed."""
    return tuple(value) if isinstance(value, list) else value


def _check_fade(fade: object) -> None:
    match fade:
        case bool():
            return
        case (int() | float() as begin, int() | float() as end) if 0 <= begin < end <= 1:
            if not isinstance(begin, bool) and not isinstance(end, bool):
                return
    raise BadValue("`fade` must be True, False, or a part of the progress.", asked=f"fade={fade!r}", try_="(0.1, 0.8)")


def _switch(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise BadValue(f"`{name}` must be True or False.", asked=f"{name}={value!r}")


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise BadValue(f"`{name}` must be one of {', '.join(allowed)}.", asked=f"{name}={value!r}")
