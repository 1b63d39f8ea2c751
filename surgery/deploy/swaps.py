"""Swaps: rules that put the nearest function of a target where it lacks one, takes it apart, or is wrong."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from surgery.activations.support import support
from surgery.dataflow.trace import CallRecord
from surgery.deploy.advice import candidates, is_well_off, layout_of
from surgery.deploy.agreement import target_named
from surgery.deploy.distances import Distances, nearest_of
from surgery.deploy.probe import function_at
from surgery.errors import BadValue
from surgery.isolation.leftovers import no_leftovers
from surgery.isolation.meta_copy import scratch_copy
from surgery.look.finder import find_sites
from surgery.look.listen import trace_forward
from surgery.look.site import Site
from surgery.model import in_mode
from surgery.plan.rules import Fading, Rule, swap
from surgery.repair.batches import batch_errors, batches_of, check_repeatable
from surgery.rng import seeded
from surgery.schedule.progress import check_settled


def rules_for(
    model: nn.Module, target: str, batches: Iterable[Any], precision: str = "fp32", *, fade: Fading = False
) -> list[Rule]:
    """Rules that swap each function that a target lacks for the nearest one that it has.

    By `surgery.deploy.table()`: a function is swapped where it fails, is wrong, or is taken apart into more than
    four operators; in int8 also where it is computed in float. Near is a small root mean square of the difference,
    relative to that of the function's own output, on what its calls receive in eval mode on these `batches` (tensors,
    pairs, or dicts, as for `fit_affine`). Only nonlinearities are swapped, for functions without parameters. `fade`
    introduces them gradually, for a fine-tuning. A rule names its sites where others of the same function are well off,
    as those on images of one that is lacking on tokens. The batches are iterated twice.

    Raises:
        UnknownName: no such target.
        BadValue: the table has no measurement of this target in this precision; there are no batches of images, or one
            fails in the model; or the model still fades.
    """
    name = target_named(target).name
    check_repeatable(batches)
    if not support().matching(target=name, precision=precision):
        known = sorted({cell.precision for cell in support().matching(target=name)})
        raise BadValue(f"Nothing was measured on {name} in {precision}.", there=", ".join(known) or "nothing")
    sites = find_sites(model, next(iter(batches_of(batches, model))).images)
    check_settled(sites)
    there = [site for site in sites if site.role == "nonlinearity" and "eval" in site.modes]
    lacking = [site for site in there if not _is_there(site, name, precision)]
    if not lacking:
        return []
    apart = _distances(model, lacking, batches, name, precision)
    nearest = {activation: nearest_of(distances) for activation, distances in apart.items()}
    return [
        swap(other, activation=activation, fade=fade, **_only_these(activation, lacking, there))
        for activation, other in nearest.items()
    ]


def _only_these(activation: str, lacking: list[Site], there: list[Site]) -> dict[str, Any]:
    """The facts of the sites that lack this activation, where others with it do not."""
    named, every = (tuple(str(site) for site in sites if site.activation == activation) for sites in (lacking, there))
    return {"site": named} if named != every else {}


def _is_there(site: Site, target: str, precision: str) -> bool:
    cell = support().cell(site.activation, target, precision=precision, layout=layout_of(site))
    return cell is None or is_well_off(cell.verdict, len(cell.operators))


def _distances(
    model: nn.Module, sites: list[Site], batches: Iterable[Any], target: str, precision: str
) -> dict[str, dict[str, float]]:
    """For each activation that has candidates, the distance of each, summed over the calls."""
    distances = {site.key: Distances(function_at(model, site), candidates(site, target, precision)) for site in sites}

    def look(record: CallRecord, entered: Tensor) -> None:
        if record.key in distances:
            distances[record.key].add(entered)

    alone = in_mode(scratch_copy(model, meta=False), "eval")
    for number, batch in enumerate(batches_of(batches, model), 1):
        with batch_errors(number, model, batch.images), seeded(), no_leftovers(model) as tracking:
            trace_forward(alone, (batch.images,), {}, look, tracking=tracking)
    found: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for site in sites:
        for other, distance in distances[site.key].relative.items():
            found[site.activation][other] += distance
    return found
