"""Draft: a recipe file that lists the sites of a model as comments, to be edited by hand."""

from __future__ import annotations

import re

import surgery
from recipes.check.check import sites_of
from recipes.format.parse import parse
from recipes.format.write import FORMAT
from surgery.errors import NothingPicked
from surgery.look.site import Sites
from surgery.text import table


def draft(model: str) -> str:
    """Draft a recipe for the model called `model`: one working rule, and every site in comments.

    Raises:
        UnknownName, BadValue: an unknown model, or a name in several catalogues.
        NothingPicked: the model does not have activations that a rule could change.
    """
    from recipes.models.names import full_name

    name = full_name(model)
    sites = sites_of(name)
    rule, count = _first_rule(sites, name)
    head = [
        f"# A recipe for {name}, to be edited by hand.",
        "#",
        "#   surgery recipes check FILE.toml          what each rule would pick, without weights",
        f"#   surgery run FILE.toml --model {name} --data digits --output out",
        "#",
        f"# {len(sites)} activation calls, by block and in order of execution:",
        *_listed(sites),
        "",
        f"format = {FORMAT}",
        'about = "What this recipe does, in a sentence."',
        'source = ""',
        f'models = ["{name}"]',
        "",
        "# A rule: `use` is erase_relu, swap, erase or rectify_scores, the other keys are its arguments. Facts of a",
        "# site say where: site, block, activation, position, owner_kind ... are patterns, * crosses dots.",
        "[[rule]]",
        *rule,
        f'expect = {{ "{name}" = {count} }}',
        "",
        *_examples(sites),
    ]
    text = "\n".join(head) + "\n"
    parse(text, "draft")  # check that the draft is valid
    return text


def _first_rule(sites: Sites, name: str) -> tuple[list[str], int]:
    """The lines of a rule that picks something, and how many sites it picks."""
    try:
        count = len(surgery.make_plan(sites, surgery.erase_relu()).edits)
        return ['use = "erase_relu"', 'location = "last"   # or "first", "middle", 1, 2, -1', "share = 1.0"], count
    except NothingPicked:
        pass  # no ReLU at the end of a block to erase: a swap instead
    usual = next((site.activation for site in sites if site.role == "nonlinearity"), None)
    if usual is None:
        raise NothingPicked(
            f"{name} has no activation that a rule could change.", asked=f"{len(sites)} calls, all gates"
        )
    to = "prelu" if usual.startswith("relu") else "pwlu"
    count = len(surgery.make_plan(sites, surgery.swap(to, activation=usual)).edits)
    return ['use = "swap"', f'to = "{to}"', f'activation = "{usual}"'], count


def _examples(sites: Sites) -> list[str]:
    """Further tables as comments, to be uncommented."""
    site = next((site for site in sites if site.role == "nonlinearity"), None)
    where = f'site = "{site}"' if site is not None else 'activation = "relu"'
    return [
        "# [[rule]]",
        '# use = "swap"',
        '# to = "silu"          # a name of `surgery.activations.names()`; its parameters are keys, too',
        f"# {where}",
        "# remaining = true     # only what no rule above took",
        "",
        "# [pruning]            # as in: surgery recipes show resnet-ap",
        "# share = 0.2",
        "# ap_share = 0.02",
        "# rounds = 5",
        "",
        "# [finetune]           # options of timm's train.py: surgery finetune --help",
        "# epochs = 10",
        "# lr = 0.02",
    ]


def _listed(sites: Sites) -> list[str]:
    """The sites as comments, under the names of their blocks."""
    blocks = dict.fromkeys(site.block for site in sites)
    head = ("site", "activation", "role")
    rows = [(str(site), site.activation, site.role) for site in sites]
    printed = dict(zip(sites, table(head, rows)[1:], strict=True))
    lines = []
    for block in blocks:
        inside = [site for site in sites if site.block == block]
        kind = f" ({inside[0].block_kind})" if inside[0].block_kind else ""
        lines.append(f"# {'outside of any block' if block is None else block + kind}")
        lines += [f"#     {printed[site]}" for site in inside]
    return [re.sub(r"[^\x20-\x7e]", "?", line) for line in lines]  # names of children are arbitrary text
