"""Pick: which sites a rule selects, such as the ReLUs that EraseReLU erases. Pure functions, without a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import floor
from typing import Any

from surgery.errors import CannotEdit
from surgery.look.site import Pattern, Site, Sites, computes, expanded, is_named, matches
from surgery.plan.rules import Location, Order, Rule

Unit = list[Site]  # the sites to edit in one basic module

_UNKNOWN = "possibly a gate: its input or its consumers cannot be traced; name it by site, owner or module"
_ROLES = {"gate": "a gate", "head": "a head", "weight": "an activation of weights", "unknown": _UNKNOWN}


def pick(rule: Rule, sites: Sites) -> tuple[list[Site], dict[Site, str]]:
    """The sites a rule picks, in order, and the reason for each site it considered and left alone."""
    return _PICKERS[rule.use](sites, **dict(rule.pick))


def pick_facts(sites: Sites, **facts: Any) -> tuple[list[Site], dict[Site, str]]:
    """`swap`: the sites with these facts. A site of unknown role is picked if `role` asks for it, or if it is named."""
    default = facts.get("role") == "nonlinearity" and "site" not in facts  # else the user asked for it
    found = sites.where(**facts | ({"role": ("nonlinearity", "unknown")} if default else {}))
    asked = "role" in facts and not default
    picked = [site for site in found if asked or site.role != "unknown" or is_named(site, facts)]
    wanted = ", ".join(f"{key}={value!r}" for key, value in facts.items())
    kept = [site for site in sites if site not in set(picked)]
    return picked, {site: _UNKNOWN if site.role == "unknown" else f"not {wanted}" for site in kept}


def pick_erased(
    sites: Sites,
    *,
    location: Location | int,
    share: float,
    order: Order,
    stem: bool,
    keep_final: bool,
    preactivation: str,
    vgg_odd: str,
    activation: Any,
) -> tuple[list[Site], dict[Site, str]]:
    """`erase_relu`: the ReLU at `location` of a fraction of the basic modules."""
    reasons: dict[Site, str] = {}
    units: list[Unit] = []
    members = [s for s in sites if s.position is not None]
    for block in dict.fromkeys(site.block for site in members):
        inside = [site for site in members if site.block == block]
        relus = [site for site in inside if computes(activation, site.activation)]
        found, reason = _FORMS[form_of(inside)](relus, location, preactivation, vgg_odd)
        units += found
        reasons |= {site: reason for site in inside}
    if keep_final and units:
        reasons |= {site: "in the final module, which keep_final keeps" for site in units.pop()}
    chosen = [units[k] for k in spread(len(units), share, order)]
    for unit in units:
        reasons |= {site: f"module not in the selected {100 * share:g} %" for site in unit}
    picked = [site for unit in chosen for site in unit]
    first = next((k for k, site in enumerate(sites) if site.position is not None), 0)
    before = [s for s in sites[:first] if s.role == "nonlinearity" and computes(activation, s.activation)]
    picked += before if stem else []
    for site in sites:
        elsewhere = "in the stem" if site in before else "outside any basic module"
        reasons[site] = _no_relu(site, activation) or reasons.get(site, elsewhere)
    taken = {site.key[:-1] for site in picked}  # further runs of the same code are the same call
    picked = [site for site in sites if site.key[:-1] in taken]
    return picked, {site: reasons[site] for site in sites if site.key[:-1] not in taken}


def _no_relu(site: Site, activation: Any) -> str | None:
    if site.role != "nonlinearity":
        return _ROLES[site.role]
    return None if computes(activation, site.activation) else f"is {site.activation}"


def form_of(inside: Sequence[Site]) -> str:
    """The form of a block: "plain", "concat", "pre-activation", "post-add", "linear" or "open".

    The last two have no ReLU at their join: "linear" if it adds, "open" if it concatenates.
    """
    first, last = inside[0], inside[-1]
    own = f"{first.block}."
    if first.joins_by is None:
        return "plain" if first.block_kind == "stage" else "linear"
    if first.joins_by == "concat" and any(_ends_branch(site) for site in inside):
        return "concat"
    if not any(weight.startswith(own) for weight in first.weights):
        return "pre-activation"
    if first.joins_by == "add" and "add" in last.fed_by and any(weight.startswith(own) for weight in last.weights):
        return "post-add"
    return "open" if first.joins_by == "concat" else "linear"


def spread(count: int, share: float, order: Order) -> list[int]:
    """The indices of the selected fraction of `count` modules: round half up, at least one if `share` is above 0."""
    taken = min(count, max(floor(share * count + 0.5), 1)) if share > 0 else 0
    if order == "front":
        return list(range(taken))
    if order == "back":
        return list(range(count - taken, count))
    return [floor((k + 0.5) * count / taken) for k in range(taken)]


def _ends_branch(site: Site) -> bool:
    return site.branch is not None and set(site.feeds) == {"concat"}


def _at(relus: Sequence[Site], location: Location | int) -> Unit:
    """The ReLU at a location, with the further runs of its code; empty if there are too few."""
    places = list(dict.fromkeys(site.key[:-1] for site in relus))
    count = len(places)
    number = (
        {"first": 1, "middle": (count + 1) // 2, "last": count}[location] if isinstance(location, str) else location
    )
    index = number - 1 if number > 0 else count + number
    return [site for site in relus if site.key[:-1] == places[index]] if 0 <= index < count else []


def _post_add(relus: list[Site], location: Location | int, *_: str) -> tuple[list[Unit], str]:
    unit = _at(relus, location)
    return [unit] if unit else [], f"not the {location} of its module"


def _preactivation(
    relus: list[Site], location: Location | int, preactivation: Location, _: str
) -> tuple[list[Unit], str]:
    return _post_add(relus, preactivation if location == "last" else location)


def _linear(relus: list[Site], location: Location | int, *_: str) -> tuple[list[Unit], str]:
    if location in ("last", -1):
        return [], "module already has a linear output"
    return _post_add(relus, location)


def _open(relus: list[Site], location: Location | int, *_: str) -> tuple[list[Unit], str]:
    return ([], "no ReLU ends a branch of its module") if location in ("last", -1) else _post_add(relus, location)


def _concat(relus: list[Site], location: Location | int, *_: str) -> tuple[list[Unit], str]:
    unit: Unit = []
    for branch in dict.fromkeys(site.branch for site in relus if _ends_branch(site)):
        unit += _at([site for site in relus if site.branch == branch], location)
    return [unit] if unit else [], f"not the {location} of a branch"


def _plain(relus: list[Site], location: Location | int, _: str, vgg_odd: str) -> tuple[list[Unit], str]:
    pairs = [relus[k : k + 2] for k in range(0, len(relus), 2)]
    odd = [pair for pair in pairs if len(pair) == 1] if vgg_odd == "keep" else []
    units = [_at(pair, location) for pair in pairs if pair not in odd]
    return [unit for unit in units if unit], f"not the {location} of a pair of convolutions"


_FORMS: dict[str, Callable[..., tuple[list[Unit], str]]] = {
    "post-add": _post_add, "pre-activation": _preactivation, "linear": _linear, "open": _open,
    "concat": _concat, "plain": _plain,
}  # fmt: skip


def pick_scores(sites: Sites, **_: Any) -> tuple[list[Site], dict[Site, str]]:
    """`rectify_scores`: the site behind the classifier."""
    return [] if sites.scores is None else [sites.scores], {}


def pick_dropped(sites: Sites, *, block: Pattern) -> tuple[list[Site], dict[Site, str]]:
    """`drop`: the blocks of these paths that can be dropped.

    Raises:
        CannotEdit: a block that is named in full cannot.
    """
    named = blocks_named(sites, block)
    for site in named:
        if site.locked is not None and is_named(site, {"site": block}):
            raise CannotEdit(f"{site} cannot be dropped: {site.locked}.", asked=f"drop({block!r})",
                             there=", ".join(str(one) for one in sites.blocks if one.locked is None)[:200])  # fmt: skip
    return (
        [site for site in named if site.locked is None],
        {site: f"cannot be dropped: {site.locked}" for site in named if site.locked is not None},
    )


def pick_blocks(sites: Sites, *, block: Pattern) -> tuple[list[Site], dict[Site, str]]:
    """`move_padding`: the blocks of these paths."""
    return blocks_named(sites, block), {}


def blocks_named(sites: Sites, pattern: Pattern) -> list[Site]:
    """The blocks whose paths match, or that are inside a path that names none of them; see `Sites.where`.

    Raises:
        UnknownName: there is none.
    """
    known = {str(block) for block in sites.blocks}
    wanted = pattern if isinstance(pattern, tuple | list) else (pattern,)
    patterns = tuple(path for given in wanted for path in expanded("block", given, known))
    return [site for site in sites.blocks if matches(patterns, str(site))]


_PICKERS: dict[str, Callable[..., tuple[list[Site], dict[Site, str]]]] = {
    "erase_relu": pick_erased,
    "swap": pick_facts,
    "rectify_scores": pick_scores,
    "drop": pick_dropped,
    "move_padding": pick_blocks,
}
