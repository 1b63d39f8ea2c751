"""Picture: an SVG that parses, with a dot for every point."""

from __future__ import annotations

import math
from xml.etree import ElementTree

from surgery.budget.picture import drawn

DOTS = [(1.0, 0.5, (0.4, 0.6), True), (2.0, 0.1, (0.0, 0.2), True), (2.5, 0.3, (0.2, 0.4), False)]


def tags(svg: str, name: str) -> list[ElementTree.Element]:
    return ElementTree.fromstring(svg).findall(f".//{{http://www.w3.org/2000/svg}}{name}")


def test_every_point_is_drawn_and_the_best_are_joined() -> None:
    svg = drawn(DOTS, "a < b", "ms", "KL")
    circles = tags(svg, "circle")
    assert [circle.get("fill") for circle in circles] == ["#06c", "#06c", "#999"]
    (line,) = tags(svg, "polyline")
    assert line.get("points", "").split() == [f"{circle.get('cx')},{circle.get('cy')}" for circle in circles[:2]]
    assert {"a < b", "ms", "KL"} <= {text.text for text in tags(svg, "text")}


def test_larger_is_to_the_right_and_higher() -> None:
    first, second, _ = tags(drawn(DOTS, "", "", ""), "circle")
    assert float(first.get("cx", 0)) < float(second.get("cx", 0)) and float(first.get("cy", 0)) < float(
        second.get("cy", 0)
    )


def test_infinite_damage_is_left_out_and_one_point_is_enough() -> None:
    assert len(tags(drawn([(1.0, math.inf, (math.inf, math.inf), True), DOTS[0]], "", "", ""), "circle")) == 1
    assert len(tags(drawn([], "", "", ""), "circle")) == 0


def test_the_same_points_give_the_same_text() -> None:
    assert drawn(DOTS, "a", "b", "c") == drawn(DOTS, "a", "b", "c")
