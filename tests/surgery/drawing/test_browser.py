"""The page in a real browser: what pointing at a cell shows, what a click copies, where the keys lead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import surgery
from tests.browser import COMMANDS, Browser, installed, opened
from tests.models import ResidualNet
from tests.surgery.drawing.networks import REAL, four_hundred

COMMAND = installed()
pytestmark = pytest.mark.skipif(COMMAND is None, reason=f"no browser on the PATH: {', '.join(COMMANDS)}")

FOCUSED = "document.activeElement"


def until(value: str) -> str:
    """The script that waits until a value is there, and returns it."""
    return f"new Promise((found) => {{ const look = () => {value} ? found({value}) : setTimeout(look, 5); look(); }})"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rules = [surgery.erase(block="layer1.1", position=2), surgery.swap("prelu", block="layer1.0")]
    sites = surgery.find_sites(ResidualNet(), ResidualNet.example)
    return surgery.draw(surgery.make_plan(sites, rules), tmp_path_factory.mktemp("page") / "net.html")


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with opened(str(COMMAND), tmp_path_factory.mktemp("browser")) as browser:
        yield browser
        assert browser.problems == []


def test_pointing_at_a_cell_tells_what_is_known(window: Browser, page: Path) -> None:
    window.open(page)
    assert window.run("document.getElementById('card').hidden")
    window.point_at('[data-n="1"]')
    card = window.run("document.getElementById('card').innerText").splitlines()
    assert card[:5] == ["layer1.0.relu 1/2", "function", "relu, swapped for prelu", "why",
                        "rule 2: swap('prelu', block='layer1.0', role='nonlinearity')"]  # fmt: skip
    assert card[-1] == 'surgery.erase(site="layer1.0.relu 1/2")'
    assert window.run("document.querySelectorAll('.on').length") == 1, "its cell on the other side"
    window.point_at("h1")
    assert window.run("document.getElementById('card').hidden")


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("Python", 'surgery.erase(site="layer1.0.relu 2/2")'),
        ("recipe", '[[rule]]\nuse = "erase"\nsite="layer1.0.relu 2/2"'),
        ("command line", "--rule 'erase:site=\"layer1.0.relu 2/2\"'"),
    ],
)
def test_a_click_copies_the_rule(window: Browser, page: Path, form: str, expected: str) -> None:
    window.open(page)
    window.run(
        "navigator.clipboard.writeText = async (text) => { window.copied = text; };"
        f"[...document.querySelectorAll('label')].find((label) => label.textContent === '{form}').click()"
    )
    window.click('[data-n="2"]')
    assert window.run(until("window.copied")) == expected


def test_the_clipboard_holds_the_rule_of_a_block(window: Browser, page: Path) -> None:
    window.open(page)
    window.click('.block[aria-label="layer1.1"]')
    said = "document.getElementById('said').textContent"
    assert window.run(until(said)) == 'copied: surgery.erase(block="layer1.1")'
    assert window.run("navigator.clipboard.readText()") == 'surgery.erase(block="layer1.1")'


def test_the_keys_lead_everywhere(window: Browser, page: Path) -> None:
    window.open(page)
    window.run("document.getElementById('find').focus()")
    window.press("Tab")
    went = []
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "ArrowDown", "ArrowUp", "End", "Home"):
        window.press(key)
        went.append(window.run(f"{FOCUSED}.dataset.n || {FOCUSED}.textContent"))
    assert went == ["0", "1", "2", "4", "2", "2", "0"]
    window.press("End", control=True)
    assert window.run(f"{FOCUSED}.dataset.n") == "3", "the last that is still there after the edit"
    assert window.run(f"{FOCUSED}.getAttribute('aria-describedby')") == "card"
    window.press("Enter")
    assert "layer1.1.relu 1/2" in window.run(until("document.getElementById('said').textContent"))
    window.press("Escape")
    assert window.run("document.getElementById('card').hidden")


def test_a_screen_reader_is_told_the_same(window: Browser, page: Path) -> None:
    window.open(page)
    nodes = [node for node in window.send("Accessibility.getFullAXTree")["nodes"] if not node["ignored"]]
    named = [(node["role"]["value"], node.get("name", {}).get("value")) for node in nodes]
    assert [name for role, name in named if role == "gridcell"] == [
        "relu relu, kept", "relu relu, kept", *["layer1.0.relu 1/2 relu, swapped for prelu",
        "layer1.0.relu 2/2 relu, swapped for prelu"] * 2, "layer1.1.relu 1/2 relu, kept",
        "layer1.1.relu 2/2 relu, erased", "layer1.1.relu 1/2 relu, kept",
    ]  # fmt: skip
    assert {("grid", "Activation calls of ResidualNet"), ("table", "All activation calls"), ("rowgroup", "stem"),
            ("rowheader", "layer1.0"), ("searchbox", "Find"), ("status", "")} <= set(named)  # fmt: skip


def test_one_side_alone_and_what_is_looked_for(window: Browser, page: Path) -> None:
    window.open(page)
    visible = "[...document.querySelectorAll('[role=gridcell]')].filter((cell) => cell.offsetParent).length"
    assert window.run(visible) == 9
    window.click('[value="after"]')
    assert window.run(visible) == 4
    window.click("#find")
    window.type("layer1.1")
    assert window.run("document.querySelectorAll('.dim').length") == 6
    window.type(" ERASED")
    assert window.run("document.querySelectorAll('.dim').length") == 8


# Pairs of cells of one page that cover each other.
OVERLAPS = """(() => {
  const boxes = [...document.querySelectorAll("[role=gridcell], .block")].map((cell) => cell.getBoundingClientRect());
  return boxes.flatMap((one, place) => boxes.slice(place + 1).filter((other) => one.left < other.right - 0.5
    && other.left < one.right - 0.5 && one.top < other.bottom - 0.5 && other.top < one.bottom - 0.5)).length;
})()"""


@pytest.mark.parametrize(
    ("build", "counts"), [*REAL, pytest.param(four_hundred, (800,), id="four hundred", marks=pytest.mark.slow)]
)
def test_real_networks_can_be_looked_at(
    window: Browser, build: Callable[[], Any], counts: tuple[int, ...], tmp_path: Path
) -> None:
    window.open(surgery.draw(build(), tmp_path / "net.html"))
    assert window.run("document.querySelectorAll('[role=gridcell]').length") == counts[0]
    assert window.run("document.documentElement.scrollWidth") <= 1400 and window.run(OVERLAPS) == 0
    assert len(window.screenshot()) > 10_000
    last = window.run("[...document.querySelectorAll('[role=gridcell]')].at(-1).dataset.n")
    window.click(f'[data-n="{last}"]')
    site = window.run(f"document.getElementById('s{last}').textContent")
    assert window.run(until("document.getElementById('said').textContent")) == f'copied: surgery.erase(site="{site}")'


def test_without_scripts_the_table_tells_all(window: Browser, page: Path) -> None:
    window.send("Emulation.setScriptExecutionDisabled", value=True)
    window.open(page)
    window.send("Emulation.setScriptExecutionDisabled", value=False)
    assert window.run("[...document.querySelectorAll('.tools, #calls')].map((e) => e.offsetHeight > 0)") == [
        False,
        True,
    ]
    assert window.run("document.querySelectorAll('#calls tbody tr').length") == 5


def test_paper_has_the_calls_and_the_table_alone(window: Browser, page: Path) -> None:
    window.open(page)
    window.point_at('[data-n="1"]')
    window.send("Emulation.setEmulatedMedia", media="print")
    shown = "[...document.querySelectorAll('.tools, #card, #map, #calls')].filter((e) => e.getClientRects().length)"
    assert window.run(f"{shown}.map((element) => element.id)") == ["map", "calls"]
    window.send("Emulation.setEmulatedMedia", media="")


@pytest.mark.slow
def test_dark_and_light_differ_and_narrow_windows_do_not_scroll_sideways(window: Browser, page: Path) -> None:
    colours = []
    for dark in (False, True):
        window.open(page, width=420, dark=dark)
        colours.append(window.run("getComputedStyle(document.body).backgroundColor"))
        assert window.screenshot().startswith(b"\x89PNG")
        assert window.run("document.documentElement.scrollWidth") <= 420
    assert colours == ["rgb(251, 250, 248)", "rgb(26, 25, 23)"]
