"""Alignment: which activation calls of two networks correspond, such as a network before and after an edit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from surgery.look.site import Site
from surgery.model import is_inside

Pair = tuple[Site | None, Site | None]


def aligned(before: Iterable[Site], after: Iterable[Site], merged: Sequence[str] = ()) -> list[Pair]:
    """Pairs of calls that correspond, in order of execution; None where one network does not have it.

    Calls correspond that the same module makes, in the same order; of several, those most alike. In `merged` blocks
    weights say nothing: those in front of a call were those of another one.
    """
    old, new = list(before), list(after)
    groups = dict.fromkeys((site.owner, site.run) for site in old)
    found: dict[Site, Site] = {}
    for group in groups:
        own, others = ([site for site in sites if (site.owner, site.run) == group] for sites in (old, new))
        found |= _matched(own, others, not any(is_inside(group[0], block) for block in merged))
    known = set(found.values())
    pairs: list[Pair] = [(site, found.get(site)) for site in old]
    place = next((number for number, pair in enumerate(pairs) if pair[1] is not None), len(pairs))
    for site in new:
        if site in known:
            place = next(number for number, pair in enumerate(pairs, 1) if pair[1] == site)
        else:
            pairs.insert(place, (None, site))  # behind what is called before it
            place += 1
    return pairs


def _matched(old: Sequence[Site], new: Sequence[Site], by_weights: bool) -> dict[Site, Site]:
    """The pairs of two orders that together are most alike and do not cross; of equals the later ones."""
    best = [[0] * (len(new) + 1) for _ in range(len(old) + 1)]
    for i, one in enumerate(old, 1):
        for j, other in enumerate(new, 1):
            best[i][j] = max(best[i - 1][j], best[i][j - 1], best[i - 1][j - 1] + _likeness(one, other, by_weights))
    matched: dict[Site, Site] = {}
    i, j = len(old), len(new)
    while i and j:
        likeness = _likeness(old[i - 1], new[j - 1], by_weights)
        if likeness and best[i][j] == best[i - 1][j - 1] + likeness:
            i, j = i - 1, j - 1
            matched[old[i]] = new[j]
        elif best[i][j] == best[i - 1][j]:
            i -= 1
        else:
            j -= 1
    return matched


def _likeness(old: Site, new: Site, by_weights: bool) -> int:
    """How much two calls of a module are alike; what an edit elsewhere changes counts less, the function not at all."""
    fed = by_weights and _own_weights(old) == _own_weights(new) != ()
    return 2 * (old.target == new.target) + 2 * fed + 2 * (old.feeds == new.feeds) + (old.shape == new.shape)


def _own_weights(site: Site) -> tuple[str, ...]:
    """The weights that feed a call from inside the module that makes it: edits elsewhere leave them as they are."""
    return tuple(name for name in site.weights if is_inside(name, site.owner)) if site.owner else site.weights
