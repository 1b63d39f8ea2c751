"""Picture: points with their intervals, and a line through some of them, as SVG text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

Dot = tuple[float, float, tuple[float, float], bool]  # x, y, the interval of y, whether the line goes through it

_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 640, 400, 80, 40, 20, 60
_STEPS = 5  # ticks of an axis, about


def drawn(dots: Sequence[Dot], title: str, below: str, beside: str) -> str:
    """The SVG of dots in a plane, with their intervals, a title, and the names of the axes."""
    finite = [dot for dot in dots if math.isfinite(dot[1])]
    xs, ys = [x for x, *_ in finite], [high for _, _, (_, high), _ in finite if math.isfinite(high)]
    across = _Axis.over(min(xs, default=0.0), max(xs, default=1.0), _LEFT, _WIDTH - _RIGHT)
    up = _Axis.over(0.0, max(ys, default=1.0), _HEIGHT - _BOTTOM, _TOP)
    parts = [_text(_WIDTH / 2, 20, title, "middle", 14), _text(_WIDTH / 2, _HEIGHT - 12, below, "middle")]
    parts.append(f'<g transform="rotate(-90 16 {_HEIGHT / 2:g})">{_text(16, _HEIGHT / 2, beside, "middle")}</g>')
    for value in across.ticks:
        x = across.at(value)
        parts += [
            _line(x, _TOP, x, _HEIGHT - _BOTTOM, "#ddd"),
            _text(x, _HEIGHT - _BOTTOM + 18, f"{value:g}", "middle"),
        ]
    for value in up.ticks:
        y = up.at(value)
        parts += [_line(_LEFT, y, _WIDTH - _RIGHT, y, "#ddd"), _text(_LEFT - 8, y + 4, f"{value:g}", "end")]
    through = sorted((across.at(x), up.at(y)) for x, y, _, best in finite if best)
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in through)
    parts.append(f'<polyline points="{path}" fill="none" stroke="#06c" stroke-width="1.5"/>')
    for x, y, (low, high), best in finite:
        colour = "#06c" if best else "#999"
        if math.isfinite(high):
            parts.append(_line(across.at(x), up.at(low), across.at(x), up.at(high), colour))
        parts.append(f'<circle cx="{across.at(x):.1f}" cy="{up.at(y):.1f}" r="3" fill="{colour}"/>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>"]) + "\n"


class _Axis:
    """Where values lie on an axis, and its round values."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.high, self.start, self.end = low, high, start, end

    @classmethod
    def over(cls, low: float, high: float, start: float, end: float) -> _Axis:
        """The axis that shows these values."""
        return cls(low, high if high > low else low + 1.0, start, end)

    @property
    def ticks(self) -> list[float]:
        """Round values, about five of them."""
        rough = (self.high - self.low) / _STEPS
        power = 10 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
        first = math.ceil(self.low / step)
        count = math.floor(self.high / step) - first + 1
        return [round((first + number) * step, 12) for number in range(count)]

    def at(self, value: float) -> float:
        """The coordinate of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def _line(x: float, y: float, to_x: float, to_y: float, colour: str) -> str:
    return f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}" stroke="{colour}"/>'


def _text(x: float, y: float, text: str, anchor: str, size: int = 12) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{escape(text)}</text>'
