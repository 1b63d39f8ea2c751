"""Selection: the option that a rule is copied with selects one call, or the calls of one block, and nothing else."""

from __future__ import annotations

import ast
import shlex
import tomllib

import pytest
from torch import Tensor, nn

import surgery
from recipes.format.parse import parse
from recipes.format.rule_text import rule_from_text
from surgery import Rule, Sites
from surgery.drawing.selection import FORMS, options_of_blocks, options_of_sites
from surgery.plan.pick import pick
from tests.models import HeadOnLevels, InceptionNet, ResidualNet, SqueezeExciteNet, ThriceInPlace
from tests.models.stated import Stated, picture

NAMES = ("a", "a*", "a?", "[a]", "<b>", "it's", 'say "hi"', "back\\slash", "$HOME", "re:a", "a, b", "é")


class Named(nn.Module):
    """A call for each name."""

    def __init__(self) -> None:
        super().__init__()
        self.acts = nn.ModuleDict({name: nn.ReLU() for name in NAMES})

    def forward(self, x: Tensor) -> Tensor:
        for act in self.acts.values():
            x = act(x + 1)
        return x


def rule_copied(form: str, option: str) -> Rule:
    """The rule that the text of a form describes, read as its reader reads it."""
    text = FORMS[form].replace("%s", option)
    if form == "Python":
        call = ast.parse(text, mode="eval").body
        assert isinstance(call, ast.Call) and ast.unparse(call.func) == "surgery.erase"
        return surgery.erase(**{str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords})
    if form == "recipe":
        (rule,) = parse({"format": 1, **tomllib.loads(text)}).rules
        return rule
    flag, rule_text = shlex.split(text)
    assert flag == "--rule"
    return rule_from_text(rule_text)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("model", [ResidualNet, InceptionNet, SqueezeExciteNet, HeadOnLevels, ThriceInPlace])
def test_the_rule_copied_picks_this_call_alone(model: type[Stated], form: str) -> None:
    sites = surgery.find_sites(model(), model.example)
    assert picked_alone(sites, form) == len(sites)


@pytest.mark.parametrize("form", FORMS)
def test_names_that_mean_something_elsewhere(form: str) -> None:
    sites = surgery.find_sites(Named(), picture())
    assert picked_alone(sites, form) == len(NAMES) == len(sites)


def picked_alone(sites: Sites, form: str) -> int:
    """How many calls can be copied; each of them must be all that its rule picks."""
    options = options_of_sites(sites)
    copied = [site for site in sites if options[site] is not None]
    for site in copied:
        assert pick(rule_copied(form, str(options[site])), sites)[0] == [site]
    return len(copied)


@pytest.mark.parametrize("form", FORMS)
def test_the_rule_of_a_block_picks_the_nonlinearities_in_it(form: str) -> None:
    sites = surgery.find_sites(ResidualNet(), ResidualNet.example)
    options = options_of_blocks(sites)
    assert list(options) == ["layer1.0", "layer1.1"]
    for block, option in options.items():
        assert pick(rule_copied(form, str(option)), sites)[0] == [site for site in sites if site.block == block]
