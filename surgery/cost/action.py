"""Action: one edit that a choice may make: a call erased or swapped, a block dropped or made ready to be merged."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from surgery.activations import row_of
from surgery.activations.registry import named
from surgery.errors import BadFile, BadValue, UnknownName, nearest
from surgery.look.site import Site, Sites
from surgery.plan.plan import is_within
from surgery.plan.rules import Rule, drop, move_padding, swap

What = Literal["keep", "erase", "affine", "merge", "drop", "swap"]
MENU: tuple[What, ...] = get_args(What)


@dataclass(frozen=True, slots=True)
class Action:
    """Do `what` at `place`: "erase", "affine" or "swap" at a call, "drop" or "merge" at the path of a block.

    `sites` are the calls that it edits or that disappear with the block, `block` is the block that they are in, and
    `to` what replaces them: a name of the catalogue, "" where nothing is left. To "merge" a block is to replace the
    nonlinearities inside it by affine maps, and to move its padding: `surgery.merge` makes one layer of it later.
    """

    what: What
    place: str
    sites: tuple[str, ...]
    block: str | None = None
    to: str = ""

    def __str__(self) -> str:
        return f"{self.what} {self.place}" + (f" to {self.to}" if self.what == "swap" else "")

    @property
    def touches(self) -> frozenset[str]:
        """What no other action may edit at the same time."""
        whole = {f"block {self.place}"} if self.what in ("drop", "merge") else set()
        return frozenset(self.sites) | whole

    def excludes(self, other: Action) -> bool:
        """Whether not both can be done."""
        inside = self.what == other.what == "drop" and (
            _within(self.place, other.place) or _within(other.place, self.place)
        )
        return inside or not self.touches.isdisjoint(other.touches)

    @property
    def extent(self) -> int:
        """How much of a block it concerns: 0 a call, 1 what is inside, 2 all of it."""
        return {"merge": 1, "drop": 2}.get(self.what, 0)

    def covers(self, other: Action) -> bool:
        """Whether this takes the place of another action, which it leaves nothing of."""
        inside = self.what == other.what == "drop" and _within(other.place, self.place)
        return inside or (self.extent > other.extent and other.touches <= self.touches)

    def to_data(self) -> dict[str, Any]:
        """As plain data, for a file."""
        return {"what": self.what, "place": self.place, "sites": list(self.sites), "block": self.block, "to": self.to}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Action:
        """The action that `to_data` described.

        Raises:
            BadFile: the data describe none.
        """
        try:
            what, sites = data["what"], tuple(map(str, data["sites"]))
            if what not in MENU:
                raise ValueError(what)
            return cls(what, str(data["place"]), sites, data["block"], str(data["to"]))
        except (KeyError, TypeError, ValueError) as error:
            raise BadFile("This is not an action of a choice.", asked=repr(data)[:100]) from error


def checked_menu(menu: Iterable[str]) -> tuple[What, ...]:
    """The entries of a menu, in a fixed order, each once; "keep" is always one of them.

    Raises:
        UnknownName: an entry is none of `MENU`.
        BadValue: there is nothing to do but to keep everything.
    """
    given = [menu] if isinstance(menu, str) else list(menu)
    for entry in given:
        if entry not in MENU:
            raise UnknownName(f"{entry!r} is not on the menu.", there=", ".join(MENU), try_=nearest(str(entry), MENU))
    wanted = tuple(entry for entry in MENU if entry in given or entry == "keep")
    if wanted == ("keep",):
        raise BadValue("The menu has nothing but to keep everything.", there=", ".join(MENU[1:]))
    return wanted


def checked_function(swap_to: str) -> str:
    """The name in the catalogue of the function that a choice may swap to.

    Raises:
        UnknownName: there is no such function.
        BadValue: it is not a nonlinearity, or has parameters, whose values a plan does not fix.
    """
    name, _ = named(swap_to)
    row = row_of(name)
    if row.learns or row.role != "nonlinearity":
        why = "has learned parameters" if row.learns else "is not a nonlinearity"
        raise BadValue(f"{name!r} {why}: a choice swaps to a fixed function.", asked=f"swap_to={swap_to!r}",
                       try_="relu, hardswish, relu6, ...")  # fmt: skip
    return name


def actions_at(
    groups: Iterable[tuple[Site, ...]], sites: Sites, menu: Iterable[What], swap_to: str, *, fitted: bool = True,
    mergeable: Container[str] = (),
) -> tuple[Action, ...]:  # fmt: skip
    """All actions of a menu, in order of execution; each of `groups` is a call that is edited as one, with all runs.

    A block comes before the calls in it. A call is not swapped for what it computes already. Unless affine maps will be
    `fitted`, they are for calls behind a norm: elsewhere they are the identity. `mergeable` are the blocks to merge.
    """
    wanted, listed = set(menu), list(groups)
    makes = {"erase": "identity", "affine": "affine", "swap": swap_to}
    order = {str(site): number for number, site in enumerate(sites)}
    found: list[tuple[tuple[int, int], Action]] = []
    for group in listed:
        names = tuple(map(str, group))
        for what, make in makes.items():
            same = what == "swap" and group[0].activation == make
            same = same or (what == "affine" and group[0].norm is None and not fitted)
            if what in wanted and not same:
                found.append(((order[names[0]], 1), _at_call(what, group[0], names, make)))
    for block in sites.blocks:
        within = tuple(str(site) for site in sites if is_within(site, str(block)))
        first = (min((order[name] for name in within), default=len(order)), 0)
        if "drop" in wanted and block.locked is None:
            found.append((first, Action("drop", str(block), within, str(block))))
        if "merge" in wanted and str(block) in mergeable:
            found.append((first, Action("merge", str(block), inner_sites(listed, str(block)), str(block), "affine")))
    return tuple(action for _, action in sorted(found, key=lambda pair: pair[0]))


def _at_call(what: Any, site: Site, names: tuple[str, ...], make: str) -> Action:
    return Action(what, names[0], names, site.block, make)


def inner_sites(groups: Iterable[tuple[Site, ...]], block: str) -> tuple[str, ...]:
    """The calls of a block that are erased to merge it: all of its nonlinearities but the one behind its sum.

    Empty if one of them cannot be edited, or if the block has none. A module without a sum is not the block of its
    calls; then it is those inside that are in no other block.
    """
    listed = list(groups)
    own = [group for group in listed if group[0].block == block]
    if not own:
        inside = [group for group in listed if group[0].block is None and is_within(group[0], block)]
        return tuple(str(site) for group in inside for site in group)
    inner = [group for group in own if not ("add" in group[0].fed_by and group[0].position == group[0].positions)]
    behind = len(own) - len(inner)
    whole = own and len(own) == (own[0][0].positions or 0) and behind <= 1
    return tuple(str(site) for group in inner for site in group) if whole else ()


def rules_of(actions: Iterable[Action]) -> tuple[Rule, ...]:
    """The rules that carry out actions: one for each function that is put in, one for the blocks that are dropped."""
    listed = list(actions)
    sites: dict[str, list[str]] = {}
    for action in listed:
        if action.to:
            sites.setdefault(action.to, []).extend(action.sites)
    rules = [swap(make, site=tuple(names)) for make, names in sites.items()]
    merged = tuple(action.place for action in listed if action.what == "merge")
    dropped = tuple(action.place for action in listed if action.what == "drop")
    rules += [drop(block=dropped)] if dropped else []
    rules += [move_padding(block=merged)] if merged else []
    return tuple(rules)


def _within(path: str, around: str) -> bool:
    return path.startswith(f"{around}.")
