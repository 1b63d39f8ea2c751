"""Site: one activation call of a model; Sites: all of them, in order of execution."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from fnmatch import fnmatchcase
from typing import Any, overload

import regex

from surgery.errors import BadValue, UnknownName, nearest
from surgery.look.look import Look
from surgery.text import drawn_by, html_table, table

Value = str | int | bool | None
Pattern = Value | Sequence[Value]

NO_CALL = "none"  # value of `activation` where none is called
BLOCK = "block"  # value of `activation` of a block as a whole

LONGEST_PATTERN = 1000  # characters
PATIENCE = 0.1  # seconds for one pattern on one text: some patterns would take years

_PATTERNS = ("site", "owner", "module", "block")
_COLUMNS = ("site", "activation", "role", "block", "position", "fed by", "feeds", "channels", "modes")


@dataclass(frozen=True, slots=True, repr=False)
class Site:
    """One activation call, named by where the code makes it.

    `owner` is the dotted path of the module whose forward contains the call ("" is the model itself). Inside it
    the call is the `ordinal`-th call of `callee` in the source of `method`, in `iteration` of a loop (None
    outside loops), in the `run`-th execution of that method within one forward, of `runs`.

    For display it is the `turn`-th of `turns` calls of `target` (the child's name, or the function's) in one run of
    the owner, whose class is `owner_kind`. `module` is the path of the module that was called, None for a function.
    `by_reference`: the code holds another reference to the module (a plain list, a bound method), so a replacement
    at that path would not be called.

    `activation` is what it computes, a name of the closed list or of the catalogue, with its parameters in `options`.
    `inplace`: it overwrites its input; `overwrites`: that input is read again afterwards.

    `role` is "gate" (the output only multiplies other data, or leads to nothing but gates), "head" (a squashing
    function whose result the model returns, also after a top-k, or that ranks and filters what it returns),
    "weight" (its input does not depend on the model's: it is computed from parameters and constants), "unknown" (a
    squashing function that may be a gate, because its input or its consumers cannot be traced; or a call whose result
    is not used), or else "nonlinearity".

    `block` is the smallest module, never the whole model, whose forward itself joins paths of data; in a transformer
    layer its child that contains the call; in a network without joins the convolutions between two pools,
    "features#2"; None outside all blocks. `block_kind` is its class ("stage" between pools), `joins_by` the kind of its
    last join, "add" or "concat". The call is number `position` of the `positions` nonlinearities in it, in eval mode.
    `branch` is the operand of the block's concat, counted from 0, that this call leads to (nested concats of the same
    module are flattened); None if it leads to none or to several.

    `fed_by` and `feeds` are the kinds of the nearest producers and consumers ("conv", "norm", "add", "activation",
    "input", "output", "choice" for what makes masks or indices, ...). They look through shape operations, dropout,
    copies into parts of other tensors, and products or sums with constants or weights. `fed_by` has "unknown" where
    the input cannot be traced back to the model's (it passed through numpy or Python, or through an operation outside
    torch), and is "weight" for a bare parameter; `feeds` has "unknown" where the result cannot be followed.
    `weights` are the parameters of the convolutions and linear layers that feed the call, also through
    norms, joins, pools and scalings; `norm` is the path of the norm whose output is the input of the call, else None.

    `shape`, `channels`, `channel_axis`, `dtype` and `device` describe the input of the call on the
    example, in eval mode if it runs there: the batch included, axes counted from 0; one value per sample is one
    channel. `other_channels` are the numbers of channels in train mode, where these differ.
    `channels_vary` says that the number holds for this example only: height, width, tokens or the batch are part of
    it, as behind a `flatten`, and no layer fixes their size, neither in front (`linear`, a norm, a pool to a size)
    nor behind (the `linear` that reads them as they are). Sizes that a reshape splits off height or width count, too.
    `modes` are those in which the call happens, "eval" and "train".
    `locked` says why this call cannot get a module of its own, None if it can.
    """

    owner: str
    method: str
    callee: str
    ordinal: int
    iteration: int | None
    run: int

    runs: int
    target: str
    turn: int
    turns: int
    owner_kind: str
    module: str | None
    activation: str
    inplace: bool
    role: str
    block: str | None
    block_kind: str | None
    position: int | None
    positions: int | None
    joins_by: str | None
    branch: int | None
    fed_by: tuple[str, ...]
    feeds: tuple[str, ...]
    weights: tuple[str, ...]
    shape: tuple[int, ...]
    channels: int
    channel_axis: int
    dtype: str
    device: str
    modes: tuple[str, ...]
    options: tuple[tuple[str, float], ...] = ()
    overwrites: bool = False
    locked: str | None = None
    by_reference: bool = False
    other_channels: tuple[int, ...] = ()
    norm: str | None = None
    channels_vary: bool = False

    @property
    def key(self) -> tuple[str, str, str, int, int | None, int]:
        """What identifies the call in this model and in a fresh one of the same code."""
        return (self.owner, self.method, self.callee, self.ordinal, self.iteration, self.run)

    @property
    def path(self) -> str:
        """Dotted path of what is called, owner and target."""
        return f"{self.owner}.{self.target}" if self.owner else self.target

    def __str__(self) -> str:
        turn = f" {self.turn}/{self.turns}" if self.turns > 1 else ""
        run = f" run {self.run}/{self.runs}" if self.runs > 1 else ""
        return f"{self.path}{turn}{run}"

    @property
    def is_call(self) -> bool:
        """Whether an activation is called here; False behind the classifier and for a block as a whole."""
        return self.activation not in (NO_CALL, BLOCK)

    def __repr__(self) -> str:
        if self.activation == BLOCK:
            return f"<Site {self}: {self.block_kind}{'' if self.locked else ', can be dropped'}>"
        if self.activation == NO_CALL:
            return f"<Site {self}: behind the classifier, {self.channels} channels>"
        place = f" of {self.block}" if self.block else ""
        return f"<Site {self}: {self.activation}, {self.role}{place}, {self.channels} channels>"


def matches(pattern: Pattern, value: object) -> bool:
    """True if `pattern` matches `value`: equal, by fnmatch, or as a regular expression after "re:".

    `*` crosses dots. A tuple or list of patterns matches if one of them does; a tuple of values if one of them is
    matched. None matches a missing value: `block=None` means outside any block.

    Raises:
        BadValue: what follows "re:" is not a regular expression, or takes too long.
    """
    if isinstance(pattern, tuple | list):
        return any(matches(part, value) for part in pattern)
    if isinstance(value, tuple):
        return any(matches(pattern, part) for part in value)
    if isinstance(pattern, str) and isinstance(value, str):
        if pattern.startswith("re:"):
            return _fits(pattern, value)
        return pattern == value or fnmatchcase(value, pattern)
    return pattern == value


def computes(pattern: Pattern, activation: str) -> bool:
    """True if `pattern` matches the name of an activation, also if it is spelt like its class: "LeakyReLU"."""
    if isinstance(pattern, tuple | list):
        return any(computes(part, activation) for part in pattern)
    if not isinstance(pattern, str) or pattern.startswith("re:"):
        return matches(pattern, activation)
    spelt, name = pattern.casefold(), activation.casefold()
    return spelt.replace("_", "") == name.replace("_", "") or matches(spelt, name)


def is_named(site: Site, facts: Mapping[str, Pattern]) -> bool:
    """True if one of these facts names the call, its owner or its module in full, without wildcards."""
    return any(_spelt_out(facts[key], _fact(key)(site)) for key in ("site", "owner", "module") if key in facts)


def _spelt_out(pattern: Pattern, value: object) -> bool:
    if isinstance(pattern, tuple | list):
        return any(_spelt_out(part, value) for part in pattern)
    return pattern is not None and (pattern in value if isinstance(value, tuple) else pattern == value)


def _fits(pattern: str, value: str) -> bool:
    simpler = "a simpler one, or a pattern with * and ?"
    if len(pattern) > LONGEST_PATTERN:
        raise BadValue("This regular expression is too long.", asked=f"{len(pattern)} characters", try_=simpler)
    try:
        return regex.fullmatch(pattern.removeprefix("re:"), value, timeout=PATIENCE) is not None
    except (regex.error, RecursionError, OverflowError) as error:
        raise BadValue(f"This is not a regular expression: {error}.", asked=repr(pattern)) from error
    except TimeoutError as error:
        raise BadValue(
            "This regular expression takes too long.", asked=f"{pattern!r}, more than {PATIENCE} s on {value!r}",
            try_=simpler,
        ) from error  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class Sites(Sequence[Site]):
    """Every activation call of one forward, in order of execution; prints as a table.

    `unseen` says, per mode, why that mode could not be run. `example` is what the model was run on. `scores` is the
    site behind the classifier whose output the model returns, where a call can be inserted; None without such a site.
    `blocks` are the basic modules as a whole, see `drop`: `str(block)` is its path, and `block.locked` says why it
    cannot be dropped, None if it can.
    `look` is what all this was read off; copies and pickles are without it.
    """

    items: tuple[Site, ...]
    example: Any = None
    model_kind: str = ""
    unseen: tuple[tuple[str, str], ...] = ()
    everything: tuple[Site, ...] = field(default=(), repr=False)
    scores: Site | None = None
    blocks: tuple[Site, ...] = ()
    look: Look | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """All but the look itself, which is good for this model in this process."""
        return vars(self) | {"look": None}

    @property
    def places(self) -> tuple[Site, ...]:
        """What a rule can edit: every call, the place behind the classifier, and the blocks."""
        return (*self.items, *(() if self.scores is None else (self.scores,)), *self.blocks)

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Site]:
        return iter(self.items)

    @overload
    def __getitem__(self, index: int) -> Site: ...
    @overload
    def __getitem__(self, index: slice) -> Sites: ...
    def __getitem__(self, index: int | slice) -> Site | Sites:
        return self._only(self.items[index]) if isinstance(index, slice) else self.items[index]

    def where(self, **facts: Pattern) -> Sites:
        """Only the sites with these facts, for example `where(block="layer3.*", activation="relu")`.

        Keys are the fields of `Site`, and `site` for its path (with or without its turn). Values are patterns, see
        `matches`; an `activation` may be spelt like its class: "ReLU". A plain path of a `block`, an `owner` or a
        `module` that names none of them means all inside it: `block="layer1"` for "layer1.0", "layer1.1" and so
        on. Where there is a block of that name, it is that block alone.

        Raises:
            BadValue: a key that is not a fact of a site, or a broken regular expression.
            UnknownName: a pattern for a path (`site`, `owner`, `module`, `block`) that matches no site of the model.
        """
        kept = self.items
        for key, pattern in facts.items():
            values = _fact(key)
            if key in _PATTERNS:
                known = {value for site in self.everything or self.items for value in _texts(values(site))}
                wanted = pattern if isinstance(pattern, tuple | list) else (pattern,)
                pattern = tuple(path for given in wanted for path in expanded(key, given, known))
            fits = computes if key == "activation" else matches
            kept = tuple(site for site in kept if fits(pattern, values(site)))
        return self._only(kept)

    def by_block(self) -> dict[str, Sites]:
        """The sites of each block, blocks in order of their first site; sites outside blocks are left out."""
        names = dict.fromkeys(site.block for site in self.items if site.block is not None)
        return {name: self._only(tuple(s for s in self.items if s.block == name)) for name in names}

    def to_json(self) -> str:
        """All facts of all sites as one JSON array."""
        return json.dumps([asdict(site) for site in self.items], indent=1)

    def _only(self, items: tuple[Site, ...]) -> Sites:
        return replace(self, items=items, everything=self.everything or self.items)

    def __repr__(self) -> str:
        return f"<Sites: {self._notes()[0]}>"

    def __str__(self) -> str:
        return "\n".join([*table(_COLUMNS, self._rows()), *self._notes()])

    def _repr_html_(self) -> str:
        return html_table(_COLUMNS, self._rows(), below=[*self._notes(), drawn_by("sites")])

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (
                str(site),
                site.activation + ("_" if site.inplace else ""),
                site.role,
                f"{site.block} ({site.block_kind})" if site.block is not None else "-",
                f"{site.position}/{site.positions}" if site.position else "-",
                "+".join(site.fed_by) or "-",
                "+".join(site.feeds) or "-",
                str(site.channels),
                "+".join(site.modes) + (" locked" if site.locked else ""),
            )
            for site in self.items
        ]

    def _notes(self) -> list[str]:
        count = f"{len(self.items)} activation call{'s' if len(self.items) != 1 else ''} in {self.model_kind}"
        return [count, *(f"not seen in {mode} mode: {reason}" for mode, reason in self.unseen)]


def _fact(key: str) -> Callable[[Site], Any]:
    if key == "site":
        return lambda site: (site.path, str(site))
    known = [field.name for field in fields(Site)]
    if key not in known:
        raise BadValue(f"{key!r} is not a fact of a site.", there="site, " + ", ".join(known), try_=nearest(key, known))
    return lambda site: getattr(site, key)


def expanded(key: str, pattern: Value, known: set[str]) -> tuple[Value, ...]:
    """A pattern that fits a path of the model, or the paths inside the one that it names.

    Raises:
        UnknownName: there is neither.
    """
    if pattern is None or any(matches(pattern, value) for value in known):
        return (pattern,)
    # A call does not contain other sites; stages of a plain network are "features#2".
    inside = (f"{pattern}.", f"{pattern}#") if isinstance(pattern, str) and key != "site" else ()
    found = tuple(value for value in known if value.startswith(inside))
    if not found:
        raise UnknownName(
            f"no site has a {key} like {pattern!r}.",
            there=", ".join(sorted(known)[:6]) + (", ..." if len(known) > 6 else ""),
            try_=nearest(str(pattern), known),
        )
    return found


def _texts(value: object) -> tuple[str, ...]:
    parts = value if isinstance(value, tuple) else (value,)
    return tuple(part for part in parts if isinstance(part, str))
