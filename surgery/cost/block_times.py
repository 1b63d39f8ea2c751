"""Block times: how long each block of a network takes, alone and in deployed form, after everything on a menu."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from surgery.cost.action import MENU, Action, actions_at, checked_function, checked_menu, rules_of
from surgery.cost.conditions import Conditions, checked
from surgery.cost.deployed import Arguments, arguments_of, deployed, running
from surgery.cost.editable import Group, editable_groups
from surgery.cost.paddings import paddings_of
from surgery.cost.stopwatch import Function, Timing, in_turns
from surgery.cost.table import NETWORK, LatencyTable, Row, kept
from surgery.edit.replacement import new_activation, same_activation
from surgery.errors import BadFile, BadValue
from surgery.look.example import Example
from surgery.look.finder import find_sites
from surgery.look.site import Site, Sites
from surgery.model import check_plain, dtype_of, home_of
from surgery.plan.plan import Edit
from surgery.progress import Progress, Say
from surgery.transforms import transform

ROUNDS = 15
_PLAIN = (bool, int, float, str, tuple, type(None))


def time_blocks(
    model: nn.Module,
    example: Any = None,
    menu: Iterable[str] = MENU,
    *,
    runtime: str = "eager",
    layout: str = "channels_last",
    dtype: torch.dtype | None = None,
    swap_to: str = "relu",
    rounds: int = ROUNDS,
    path: str | Path | None = None,
    progress: Say | None = None,
) -> LatencyTable:
    """Time the whole network, and each of its blocks alone after every action of a menu; the model stays unchanged.

    Everything is timed in deployed form, with batch norms folded and linear neighbours merged, on what enters the block
    when the network runs on `example` (see `find_sites`; its first axis is the batch): minimum and median of `rounds`
    rounds, in which the block as it is and after each action take turns. Blocks of the same layers and shapes are timed
    once. Calls outside all blocks are timed alone, on the runtime "eager" only: others fuse them with what is around.

    `runtime` is "eager", "compiled" (`torch.compile`) or "onnxruntime", `layout` "channels_last" or "contiguous",
    `dtype` that of the model by default. With `path`, a JSON file, rows are kept as they are measured, and the same
    call goes on from there.

    Raises:
        UnknownName: an entry of the menu, a runtime, a layout or a function that does not exist.
        BadValue: `rounds` is less than 1, or the example is not a batch.
        BadFile: `path` is a table of another network, or of other conditions.
        NotInstalled: ONNX Runtime is not installed.
    """
    wanted = checked_menu(menu)
    runs_on, arranged = checked(runtime, layout)
    swap_to = checked_function(swap_to)
    check_plain(model)
    if type(rounds) is not int or rounds < 1:
        raise BadValue("`rounds` is a number of rounds.", asked=f"rounds={rounds!r}", try_="at least 1")
    sites = find_sites(model, example)
    groups = editable_groups(model, sites)
    mergeable = paddings_of(model, sites, groups) if "merge" in wanted else {}
    actions = actions_at(groups, sites, wanted, swap_to, mergeable=mergeable)
    dtype = dtype or dtype_of(model) or torch.float32
    home = home_of(model)
    sample = sites.example.on(home)
    conditions = Conditions.here(runs_on, arranged, dtype, batch_of(sample), home)
    table = _opened(path, type(model).__name__, conditions)
    _time_network(table, model, sample, rounds, home)
    _time_places(table, model, sites, actions, sample, rounds, progress)
    if runs_on == "eager":
        _time_calls(table, model, sites, groups, actions, rounds, progress)
    return table


def batch_of(sample: Example) -> int:
    """The size of the batch.

    Raises:
        BadValue: the example has no batch axis.
    """
    first = next(iter((*sample.args, *sample.kwargs.values())), None)
    if not isinstance(first, torch.Tensor) or not first.dim():
        raise BadValue("The example is not a batch.", asked=str(sample), try_="a tensor (N, ...)")
    return first.shape[0]


def in_a_block(action: Action, model: nn.Module) -> bool:
    """Whether an action concerns a block that is a module, which is then timed as a whole."""
    return bool(action.block) and action.block in dict(model.named_modules(remove_duplicate=False))


def _opened(path: str | Path | None, kind: str, conditions: Conditions) -> LatencyTable:
    """The table at a path, or an empty one."""
    if path is None or not Path(path).exists():
        return LatencyTable(kind, conditions, path=None if path is None else Path(path))
    table = LatencyTable.load(path)
    check_fits(table, kind, conditions, str(path))
    return replace(table, path=Path(path))


def check_fits(table: LatencyTable, kind: str, conditions: Conditions, name: str = "the table") -> None:
    """Check that a table is one of this class of network and of these conditions.

    Raises:
        BadFile: it is not.
    """
    apart = conditions.differences(table.conditions)
    if table.model != kind or apart:
        problems = [*([f"{table.model}, not {kind}"] if table.model != kind else []), *apart]
        raise BadFile(f"{name} was measured for something else.", asked="; ".join(problems),
                      try_="another path, or the same network and options")  # fmt: skip


def _time_network(table: LatencyTable, model: nn.Module, sample: Example, rounds: int, home: torch.device) -> None:
    if kept(NETWORK) not in table.rows:
        whole = running(deployed(model, sample), (sample.args, sample.kwargs), table.conditions)
        table.put([(kept(NETWORK), Row(NETWORK, "keep", in_turns({"keep": whole}, rounds, home)["keep"]))])


def _time_places(
    table: LatencyTable, model: nn.Module, sites: Sites, actions: Sequence[Action], sample: Example, rounds: int,
    say: Say | None,
) -> None:  # fmt: skip
    """Time the blocks that are modules, each once as it is and after each action in it."""
    by_block: dict[str, list[Action]] = {}
    for action in actions:
        if action.block is not None and in_a_block(action, model):
            by_block.setdefault(action.block, []).append(action)
    left = [block for block, inside in by_block.items() if not all(str(action) in table.rows for action in inside)]
    if not left:
        return
    home = home_of(model)
    networks = _networks(model, sites, by_block)
    before = deployed(model, sample)
    arguments = arguments_of(before, left, sample)
    bar = Progress(say, "blocks timed", len(left))
    known: dict[str, dict[str, Timing]] = {}
    for block in left:
        if block in arguments:
            edited = {str(action): networks.get(_variant(action, by_block[block])) for action in by_block[block]}
            modules = {name: network.get_submodule(block) for name, network in edited.items() if network is not None}
            modules = {"keep": before.get_submodule(block)} | modules
            timings = _timed(modules, arguments[block], table.conditions, rounds, home, known)
            table.put(_rows(block, by_block[block], timings, rounds))
        bar.step(block)


def _rows(block: str, actions: Sequence[Action], timings: Mapping[str, Timing], rounds: int) -> list[tuple[str, Row]]:
    gone = Timing(0.0, 0.0, rounds)
    rows = [(kept(block), Row(block, "keep", timings["keep"]))]
    for action in actions:
        timing = gone if action.what == "drop" else timings.get(str(action))
        if timing is not None:
            rows.append((str(action), Row(block, action.what, timing)))
    return rows


Variant = tuple[str, int]  # what is done in a block, and at which of its calls


def _variant(action: Action, inside: Sequence[Action]) -> Variant:
    """Which of the edited networks has this action: those of different blocks are done in one network."""
    same = [other for other in inside if other.what == action.what]
    return action.what, same.index(action)


def _networks(model: nn.Module, sites: Sites, by_block: Mapping[str, Sequence[Action]]) -> dict[Variant, nn.Module]:
    """Edited networks in deployed form: in each, one action is done in every block."""
    variants: dict[Variant, list[Action]] = {}
    for inside in by_block.values():
        for action in inside:
            if action.what != "drop":
                variants.setdefault(_variant(action, inside), []).append(action)
    found: dict[Variant, nn.Module] = {}
    for variant, actions in variants.items():
        edited, _ = transform(model, rules_of(actions), sites.example)
        found[variant] = deployed(edited, sites.example)
    return found


def _timed(
    modules: Mapping[str, nn.Module], arguments: Arguments, conditions: Conditions, rounds: int, home: torch.device,
    known: dict[str, dict[str, Timing]],
) -> dict[str, Timing]:  # fmt: skip
    """The times of a block and its edited forms; those of blocks of the same layers and shapes are the same."""
    shapes = [tuple(part.shape) for part in arguments[0] if isinstance(part, torch.Tensor)]
    likeness = f"{shapes} {list(map(_layers, modules.values()))}"
    if likeness not in known:
        functions: dict[str, Function] = {
            name: running(module, arguments, conditions) for name, module in modules.items()
        }
        known[likeness] = in_turns({str(place): functions[name] for place, name in enumerate(functions)}, rounds, home)
    return {name: known[likeness][str(place)] for place, name in enumerate(modules)}


def _layers(module: nn.Module) -> str:
    """What a block consists of: its classes, their plain values, printed or not, and the shapes of their tensors."""
    parts = [
        (name, type(part), {key: value for key, value in vars(part).items() if isinstance(value, _PLAIN)})
        for name, part in module.named_modules(remove_duplicate=False)
    ]
    return f"{parts} {[(name, tuple(tensor.shape)) for name, tensor in module.state_dict().items()]}"


def _time_calls(
    table: LatencyTable, model: nn.Module, sites: Sites, groups: Sequence[Group], actions: Sequence[Action],
    rounds: int, say: Say | None,
) -> None:  # fmt: skip
    """Time the calls outside blocks alone: as they are, and what would replace them."""
    outside = [action for action in actions if action.what not in ("drop", "merge") and not in_a_block(action, model)]
    left = [action for action in outside if str(action) not in table.rows]
    site_of = {str(group[0]): group[0] for group in groups}
    bar = Progress(say, "calls timed", len(left))
    for place in dict.fromkeys(action.place for action in left):
        here = [action for action in left if action.place == place]
        functions = _calls(model, sites, site_of[place], here)
        entering = torch.rand(site_of[place].shape, device=home_of(model))
        runs = {name: running(module, ((entering,), {}), table.conditions) for name, module in functions.items()}
        timings = in_turns(runs, rounds, home_of(model))
        rows = [(kept(place), Row(place, "keep", timings["keep"]))]
        rows += [(str(action), Row(place, action.what, timings[str(action)])) for action in here]
        table.put(rows)
        for action in here:
            bar.step(str(action))


def _calls(model: nn.Module, sites: Sites, site: Site, actions: Sequence[Action]) -> dict[str, nn.Module]:
    """What is called at a site, and what each action would put there; affine maps are folded into a norm in front."""
    made = {"keep": same_activation(model, Edit(site, "identity"))}
    for action in actions:
        folded = action.what == "affine" and site.norm is not None
        edit = Edit(site, "identity" if folded else action.to)
        made[str(action)] = nn.Identity() if edit.make == "identity" else new_activation(model, edit, {}, {}, sites)
    return {name: module.eval() for name, module in made.items()}
