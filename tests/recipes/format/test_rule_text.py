"""Rules as text: the same rules as from the functions, and a clear one-line error otherwise."""

from typing import Any

import pytest

import surgery
from recipes.format.rule_text import patterns_from_text, rule_from_text
from surgery.errors import BadValue, SurgeryError, UnknownName


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("erase_relu", surgery.erase_relu()),
        ("erase_relu:", surgery.erase_relu()),
        ("erase_relu:location=last,share=0.5", surgery.erase_relu(location="last", share=0.5)),
        ("erase_relu:location=-1, order=back , stem=true", surgery.erase_relu(location=-1, order="back", stem=True)),
        ("erase_relu:stem=True,keep_final=false,expect=16", surgery.erase_relu(stem=True, expect=16)),
        ("erase_relu:location='last'", surgery.erase_relu()),
        ("swap:to=silu,block=layer3.*", surgery.swap("silu", block="layer3.*")),
        ("swap:to=silu,block=('layer3.*','layer4.*')", surgery.swap("silu", block=("layer3.*", "layer4.*"))),
        (r"swap:to=silu,site=re:layer[3,4]\..*", surgery.swap("silu", site=r"re:layer[3,4]\..*")),
        ("swap:to=silu,target=0,position=1", surgery.swap("silu", target="0", position=1)),
        ("swap:to=leaky_relu,negative_slope=0.2", surgery.swap("leaky_relu", negative_slope=0.2)),
        ("swap:to=leaky_relu,params={'negative_slope': 0.2}", surgery.swap("leaky_relu", negative_slope=0.2)),
        ("swap:to=silu,remaining=True", surgery.swap("silu", remaining=True)),
        ("erase:block=layer4.*,position=1", surgery.erase(block="layer4.*", position=1)),
    ],
)
def test_a_text_is_the_rule_it_says(text: str, rule: surgery.Rule) -> None:
    assert rule_from_text(text) == rule


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("erase_rellu", UnknownName, "erase_relu"),
        ("", UnknownName, "unknown rule ''"),
        ("erase_relu:locatoin=last", UnknownName, "hint:      location"),
        ("swap:to=sliu", UnknownName, "silu"),
        ("swap:to=silu,blok=layer3.*", UnknownName, "block"),
        ("swap:block=layer3.*", BadValue, "the rule swap needs to=VALUE"),
        ("erase_relu:last", BadValue, "KEY=VALUE, not 'last'"),
        ("erase_relu:share=0.5,share=1.0", BadValue, "given twice"),
        ("erase_relu:share=2", BadValue, "0 to 1"),
        ("erase_relu:location=somewhere", BadValue, "position in a basic module"),
    ],
)
def test_a_mistake_is_named(text: str, error: type[SurgeryError], says: str) -> None:
    with pytest.raises(error) as caught:
        rule_from_text(text)
    assert says in str(caught.value)


def test_a_value_is_never_run(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    monkeypatch.setattr("os.system", ran.append)
    for value in ("__import__('os').system('true')", "exit()", "[].__class__", "(" * 500):
        with pytest.raises(SurgeryError):
            rule_from_text(f"erase_relu:location={value}")
    assert not ran


@pytest.mark.parametrize(
    ("texts", "patterns"),
    [
        ([], {}),
        (["block=layer3.*"], {"block": "layer3.*"}),
        (["position=1", "inplace=true", "target=0"], {"position": 1, "inplace": True, "target": "0"}),
        (["activation=relu", "activation=silu"], {"activation": ("relu", "silu")}),
        (["site=re:layer[34].*", "positions=(2,3)"], {"site": "re:layer[34].*", "positions": (2, 3)}),
    ],
)
def test_conditions_become_patterns(texts: list[str], patterns: dict[str, Any]) -> None:
    assert patterns_from_text(texts) == patterns


def test_a_condition_without_a_pattern_is_refused() -> None:
    with pytest.raises(BadValue, match=r"KEY=PATTERN, not 'layer3\.\*'"):
        patterns_from_text(["layer3.*"])


def test_erase_puts_nothing_in() -> None:
    with pytest.raises(UnknownName, match="'to'"):
        rule_from_text("erase:to=silu")
