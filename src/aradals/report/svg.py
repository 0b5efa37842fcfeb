"""A small kit for drawing charts as SVG: scales, axes, marks and legends.

An SVG is a fragment for inline use: it scales with its container, its text stays text, and it has no ids. Colors and
strokes come from the classes of the page's style sheet, so that the same drawing fits light and dark pages. The
attribute ``data-tip`` of a mark has the text that the page's script shows on hover.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 360.0
"""Width of every figure: text of 11 units is readable on a phone, and two figures side by side fill a screen."""

CHARACTER = 6.4
"""Mean width of a character of a label, in units."""


@dataclass(frozen=True)
class Scale:
    """A linear map from values to units of the drawing."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the position of ``value``; values beyond an end get the position of the end."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """Choose about ``count`` round values from ``low`` to ``high``."""
        rough = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
        # Adding 0.0 turns -0.0 into 0.0.
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(index * step, 12) + 0.0 for index in range(first, last + 1)]


class Drawing:
    """Elements of an SVG of `WIDTH` units and the given height, in the order of painting."""

    def __init__(self, height: float) -> None:
        self.height = height
        self._elements: list[str] = []

    def add(self, tag: str, classes: str, text: str = "", tip: str = "", **attributes: float | str) -> None:
        """Add an element; underscores in the names of ``attributes`` become hyphens."""
        values = {"class": classes, **{name.replace("_", "-"): value for name, value in attributes.items()}}
        if tip:
            values["data-tip"] = tip
        written = "".join(f' {name}="{_attribute(value)}"' for name, value in values.items() if value != "")
        self._elements.append(f"<{tag}{written}>{escape(text)}</{tag}>" if text else f"<{tag}{written}/>")

    def text(self, x: float, y: float, text: str, classes: str = "", turn: bool = False) -> None:
        """Write text at a point: class ``mid`` centers the text, ``end`` ends the text there, ``turn`` turns it."""
        around = {"transform": f"rotate(-90 {_number(x)} {_number(y)})"} if turn else {}
        self.add("text", classes, text, x=x, y=y, **around)

    def line(self, x1: float, y1: float, x2: float, y2: float, classes: str) -> None:
        """Draw a straight line; if an end is unknown, draw nothing."""
        if all(map(math.isfinite, (x1, y1, x2, y2))):
            self.add("path", classes, d=f"M{_number(x1)} {_number(y1)}L{_number(x2)} {_number(y2)}")

    def polyline(self, points: Iterable[tuple[float, float]], classes: str, tip: str = "") -> None:
        """Draw straight lines through the known points."""
        known = [f"{_number(x)} {_number(y)}" for x, y in points if math.isfinite(x + y)]
        if len(known) > 1:
            self.add("path", f"line {classes}", tip=tip, d="M" + "L".join(known))

    def area(self, points: Sequence[tuple[float, float]], classes: str) -> None:
        """Draw a filled polygon."""
        self.add("path", f"area {classes}", d="M" + "L".join(f"{_number(x)} {_number(y)}" for x, y in points) + "Z")

    def rectangle(self, x: float, y: float, width: float, height: float, classes: str, tip: str = "") -> None:
        """Draw a rectangle with its upper left corner at (x, y)."""
        self.add("rect", classes, tip=tip, x=x, y=y, width=width, height=height)

    def mark(self, shape: int, x: float, y: float, classes: str, tip: str = "", size: float = 3.2) -> None:
        """Draw a filled circle, square, diamond or triangle by ``shape``; draw nothing if the place is unknown."""
        if not math.isfinite(x + y):
            return
        if shape % 4 == 0:
            self.add("circle", f"mark {classes}", tip=tip, cx=x, cy=y, r=size)
            return
        # (offset, offset) from the center
        corners = (
            [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
            [(0.0, -1.3), (1.3, 0.0), (0.0, 1.3), (-1.3, 0.0)],
            [(0.0, -1.2), (1.2, 1.0), (-1.2, 1.0)],
        )[shape % 4 - 1]
        points = "L".join(f"{_number(x + size * dx)} {_number(y + size * dy)}" for dx, dy in corners)
        self.add("path", f"mark {classes}", tip=tip, d=f"M{points}Z")

    def title(self, text: str) -> None:
        """Above everything."""
        self.text(WIDTH / 2, 14, text, "title mid")

    def y_axis(self, scale: Scale, left: float, right: float, label: str, count: int = 5) -> None:
        """Draw grid lines, numbers on their left, and the vertical name of the axis."""
        for tick in scale.ticks(count):
            self.line(left, scale(tick), right, scale(tick), "grid")
            self.text(left - 5, scale(tick) + 3.6, f"{tick:g}", "end")
        self.text(10, (scale.start + scale.end) / 2, label, "mid", turn=True)

    def x_axis(self, scale: Scale, top: float, bottom: float, label: str, ticks: Sequence[float] = ()) -> None:
        """Draw grid lines, numbers below them, and the name of the axis."""
        for tick in ticks or scale.ticks():
            self.line(scale(tick), top, scale(tick), bottom, "grid")
            self.text(scale(tick), bottom + 13, f"{tick:g}", "mid")
        self.text((scale.start + scale.end) / 2, bottom + 28, label, "mid")

    def legend(self, top: float, entries: Sequence[tuple[str, str, str]]) -> None:
        """Write names beside their marks, centered, in as many lines as `legend_lines` returns.

        Args:
            top: upper end of the first line.
            entries: (kind, classes, name); kind is ``line``, ``area``, ``tick`` or the number of a mark's shape.
        """
        for row, line in enumerate(_legend(entries)):
            x = (WIDTH - sum(map(_legend_width, line)) + 14) / 2
            y = top + 15 * row + 8
            for kind, classes, name in line:
                if kind == "line":
                    self.line(x, y, x + 16, y, f"line {classes}")
                elif kind == "area":
                    self.rectangle(x, y - 5, 16, 10, f"area {classes}")
                elif kind == "tick":
                    self.line(x + 8, y - 5, x + 8, y + 5, classes)
                else:
                    self.mark(int(kind), x + 8, y, classes)
                self.text(x + 20, y + 3.8, name)
                x += _legend_width((kind, classes, name))

    def svg(self, label: str) -> str:
        """Return the fragment. ``label`` describes it for readers who cannot see it."""
        size = f"0 0 {_number(WIDTH)} {_number(self.height)}"
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{size}" role="img" tabindex="0" '
            f'aria-label="{_attribute(label)}">{"".join(self._elements)}</svg>'
        )


def legend_lines(entries: Sequence[tuple[str, str, str]]) -> int:
    """Count the lines of a legend, which are 15 units high."""
    return len(_legend(entries))


def _legend(entries: Sequence[tuple[str, str, str]]) -> list[list[tuple[str, str, str]]]:
    lines: list[list[tuple[str, str, str]]] = []
    for entry in entries:
        if lines and sum(map(_legend_width, [*lines[-1], entry])) <= WIDTH:
            lines[-1].append(entry)
        else:
            lines.append([entry])
    return lines


def _legend_width(entry: tuple[str, str, str]) -> float:
    return 34 + CHARACTER * len(entry[2])


def _attribute(value: float | str) -> str:
    return escape(value) if isinstance(value, str) else _number(value)


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
