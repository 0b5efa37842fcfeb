"""The figures of a report: each panel of `aradals.report.panels` as SVG.

Classes name roles, and the style sheet of the page gives them colors: ``over`` (confidence, overconfidence), ``under``
(accuracy, underconfidence), ``c0`` to ``c3`` (calibrators and other series), ``gray`` (what chance explains).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import pairwise

from aradals.report.panels import (
    BoxPanel,
    ClassPanel,
    DotPanel,
    ReliabilityPanel,
    SubsetPanel,
    TargetPanel,
)
from aradals.report.svg import CHARACTER, WIDTH, Drawing, Scale, legend_lines

VISIBLE_GAP = 0.005
"""The legend does not name the shade of smaller gaps, because nobody can see it."""

MIN_COUNT = 10
"""Bins of a reliability diagram with fewer predictions are hollow and pale, because they show almost nothing."""

MIN_BOX = 5
"""Fewer values than these are drawn as points without a box, because their quartiles mean little."""

LEFT, RIGHT = 48.0, WIDTH - 12


def draw_subsets(panel: SubsetPanel, *, lowest: float = 0.0, highest: float = 1.0, highest_ece: float = 1.0) -> str:
    """Draw accuracy and confidence by subset with the gap shaded, and below them the ECE with its noise floor.

    Args:
        panel: the panel to draw.
        lowest: lower end of the upper axis, the same for panels that are to be compared.
        highest: upper end of the upper axis, the same for these panels, too.
        highest_ece: upper end of the lower axis, the same for these panels, too.
    """
    drawing = Drawing(356)
    subsets = list(range(len(panel.accuracy)))
    x = Scale(-0.4, max(len(subsets) - 0.6, 0.4), LEFT, RIGHT)
    y = Scale(lowest, highest, 196, 28)
    y_ece = Scale(0.0, highest_ece, 300, 216)
    drawing.title(panel.title)
    drawing.y_axis(y, LEFT, RIGHT, "fraction")
    drawing.y_axis(y_ece, LEFT, RIGHT, "ECE", 3)
    for left, right in pairwise(subsets):
        _shade(drawing, x, y, panel, left, right)
    entries = [("0", "over", "confidence"), ("1", "under", "accuracy")]
    entries += [
        ("area", classes, name)
        for sign, classes, name in ((1, "over", "overconfident"), (-1, "under", "underconfident"))
        if any(sign * gap > VISIBLE_GAP for gap in panel.gap)
    ]
    for shape, classes, name in ((0, "over", "confidence"), (1, "under", "accuracy")):
        values, low, high = (getattr(panel, f"{name}{end}") for end in ("", "_low", "_high"))
        for subset in subsets:
            drawing.line(x(subset), _at(y, low[subset]), x(subset), _at(y, high[subset]), f"range {classes}")
        drawing.polyline([(x(subset), _at(y, values[subset])) for subset in subsets], classes)
        for subset in subsets:
            tip = f"subset {subset}: {name} {_estimate(values[subset], low[subset], high[subset])}"
            tip += f"; gap {100 * panel.gap[subset]:+.1f} points"
            drawing.mark(shape, x(subset), _at(y, values[subset]), classes, tip)
    for subset in subsets:
        drawing.line(
            x(subset), _at(y_ece, panel.ece_low[subset]), x(subset), _at(y_ece, panel.ece_high[subset]), "range ink"
        )
    drawing.polyline([(x(subset), _at(y_ece, panel.ece[subset])) for subset in subsets], "ink")
    drawing.polyline([(x(subset), _at(y_ece, panel.noise_floor[subset])) for subset in subsets], "gray dashed")
    for subset in subsets:
        tip = f"subset {subset}: ECE {_estimate(panel.ece[subset], panel.ece_low[subset], panel.ece_high[subset])}"
        tip += f", noise floor {_fraction(panel.noise_floor[subset])}"
        drawing.mark(2, x(subset), _at(y_ece, panel.ece[subset]), "ink", tip, size=2.8)
        if len(subsets) == 1:  # a line through one point would be invisible
            drawing.mark(0, x(subset), _at(y_ece, panel.noise_floor[subset]), "gray", size=2.4)
        if subset % (1 + len(subsets) // 13) == 0:
            drawing.text(x(subset), 313, str(subset), "mid")
    drawing.text((LEFT + RIGHT) / 2, 328, "robustness subset (0 = least robust)", "mid")
    entries += [("2", "ink", "ECE"), ("line", "gray dashed", "noise floor")]
    drawing.height = 336 + 15 * legend_lines(entries)
    drawing.legend(336, entries)
    return drawing.svg(f"Accuracy, confidence and ECE by robustness subset: {panel.title}")


def draw_reliability(panel: ReliabilityPanel) -> str:
    """Draw a reliability diagram with Wilson intervals, and below it the histogram of confidence.

    Bins with fewer than `MIN_COUNT` predictions are hollow and pale.
    """
    entries = [("line", "gray dashed", "calibrated"), ("line", "gap", "gap"), ("1", "under", "accuracy")]
    drawing = Drawing(396)
    x, y, y_share = Scale(-0.02, 1.02, LEFT, RIGHT), Scale(-0.02, 1.02, 250, 28), Scale(0, 1, 340, 270)
    ticks = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    drawing.title(panel.title)
    drawing.y_axis(y, LEFT, RIGHT, "accuracy", 6)
    drawing.y_axis(y_share, LEFT, RIGHT, "share", 2)
    for tick in ticks:
        drawing.line(x(tick), 28, x(tick), 250, "grid")
    drawing.line(x(0), y(0), x(1), y(1), "line gray dashed")
    total = sum(count for count in panel.count if math.isfinite(count)) or 1
    for index, (confidence, accuracy, low, high, count) in enumerate(
        zip(panel.confidence, panel.accuracy, panel.accuracy_low, panel.accuracy_high, panel.count, strict=True)
    ):
        pale = "" if count >= MIN_COUNT else " pale"
        if not pale:
            drawing.line(x(confidence), _at(y, accuracy), x(confidence), _at(y, confidence), "gap")
        if math.isfinite(accuracy):
            drawing.line(x(confidence), _at(y, low), x(confidence), _at(y, high), f"range under{pale}")
            tip = f"{count:,.0f} predictions: confidence {confidence:.3f}, accuracy {_estimate(accuracy, low, high)}"
            drawing.mark(1, x(confidence), _at(y, accuracy), f"under{' hollow' if pale else ''}{pale}", tip)
        if count > 0:
            left, right, share = x(panel.low[index]), x(panel.high[index]), count / total
            tip = f"confidence {panel.low[index]:.2f} to {panel.high[index]:.2f}: {count:,.0f} predictions"
            tip += f", {100 * share:.1f} %"
            drawing.rectangle(left, y_share(share), right - left - 1, 340 - y_share(share), "bar", tip)
    drawing.x_axis(x, 270, 340, "confidence", ticks)
    drawing.legend(378, entries)
    return drawing.svg(f"Reliability diagram: {panel.title}")


def draw_targets(panel: TargetPanel) -> str:
    """Draw the true-class target probability of each subset over the epochs, from red (least robust) to blue."""
    drawing = Drawing(270)
    values = [value for course in panel.target_prob for value in course if math.isfinite(value)]
    low, high = (0.0 if panel.near_bound else min(values, default=0.0)), max(values, default=1.0)
    padding = max(0.05 * (high - low), 0.005)
    x = Scale(panel.epochs[0], max(panel.epochs[-1], panel.epochs[0] + 1), LEFT, RIGHT - 14)
    y = Scale(max(0.0, low - padding), min(1.0, high + padding), 220, 28)
    drawing.title(panel.title)
    drawing.y_axis(y, LEFT, RIGHT - 14, "target of the true class")
    drawing.x_axis(x, 28, 220, "epoch", [tick for tick in x.ticks() if tick == int(tick)])
    if panel.near_bound:
        drawing.line(LEFT, y(panel.lower_bound), RIGHT - 14, y(panel.lower_bound), "line over dashed")
        drawing.text(LEFT + 4, y(panel.lower_bound) - 4, "lower bound 1/K")
    count = len(panel.target_prob)
    for subset, course in enumerate(panel.target_prob):
        shade = f"r{round(9 * subset / max(count - 1, 1))}"
        points = [(x(epoch), _at(y, value)) for epoch, value in zip(panel.epochs, course, strict=True)]
        name = f"subset {subset}: " if count > 1 else ""
        drawing.polyline(points, shade)
        for epoch, value, (left, top) in zip(panel.epochs, course, points, strict=True):
            drawing.mark(0, left, top, shade, f"{name}{_fraction(value)} from epoch {epoch} on", size=1.8)
        if count > 1 and subset in (0, count - 1):
            drawing.text(RIGHT - 9, points[-1][1] + 4, str(subset))
    if count > 1:
        drawing.text((LEFT + RIGHT) / 2, 264, f"red: subset 0, the least robust; blue: subset {count - 1}", "mid")
    return drawing.svg(f"Targets by robustness subset over the epochs: {panel.title}")


def draw_dots(panel: DotPanel, *, limits: tuple[float, float] | None = None) -> str:
    """Draw one row for each method or class, with marks and intervals; a gray tick is the noise floor of its mark.

    Args:
        panel: the panel to draw.
        limits: ends of the axis, the same for panels that are to be compared.
    """
    entries = [(str(shape), f"c{shape % 4} {_fill(shape)}", each.name) for shape, each in enumerate(panel.series)]
    if any(math.isfinite(value) for each in panel.series for value in each.noise_floor):
        entries.append(("tick", "gray", "noise floor"))
    top = 26.0 + 15 * legend_lines(entries)
    height = max(18.0, 7.0 * len(panel.series) + 6)
    bottom = top + height * len(panel.rows) + 4
    drawing = Drawing(bottom + 34)
    left = 12 + min(156.0, CHARACTER * max(map(len, panel.rows), default=0))
    low, high = limits or dot_limits([panel])
    x = Scale(low, high, left, RIGHT)
    drawing.title(panel.title)
    drawing.legend(22, entries)
    for row in range(1, len(panel.rows), 2):
        drawing.rectangle(0, top + height * row, WIDTH, height, "stripe")
    drawing.x_axis(x, top, bottom, f"difference in {panel.quantity}" if panel.signed else panel.quantity)
    if low <= 0 <= high and panel.signed:
        drawing.line(x(0), top, x(0), bottom, "axis")
    for row, name in enumerate(panel.rows):
        drawing.text(left - 6, top + height * (row + 0.5) + 3.8, name, "end")
        for shape, series in enumerate(panel.series):
            value, low_end, high_end, floor = (
                values[row] for values in (series.values, series.low, series.high, series.noise_floor)
            )
            y = top + height * (row + (shape + 1) / (len(panel.series) + 1))
            classes = f"c{shape % 4} {_fill(shape)}"
            drawing.line(_at(x, low_end), y, _at(x, high_end), y, f"range c{shape % 4}")
            if math.isfinite(floor):
                drawing.line(x(floor), y - 3.5, x(floor), y + 3.5, "gray")
            sign = "+" if panel.signed else ""
            tip = f"{name}, {series.name}: {panel.quantity} {_estimate(value, low_end, high_end, sign)}"
            tip += f", noise floor {_fraction(floor)}" if math.isfinite(floor) else ""
            drawing.mark(shape, _at(x, value), y, classes, tip)
    return drawing.svg(f"{panel.title}, by row: {', '.join(panel.rows)}")


def dot_limits(panels: Sequence[DotPanel]) -> tuple[float, float]:
    """Choose the ends of an axis for all values and intervals; errors start at zero unless that wastes half of it."""
    found = [
        value
        for panel in panels
        for each in panel.series
        for column in (each.values, each.low, each.high, each.noise_floor)
        for value in column
        if math.isfinite(value)
    ]
    low, high = min(found, default=0.0), max(found, default=1.0)
    if 0 < low < 0.5 * high and all(panel.quantity != "accuracy" for panel in panels):
        low = 0.0
    padding = 0.04 * (high - low) or 0.01
    return (low - padding if low != 0 else 0.0), high + padding


def draw_boxes(panel: BoxPanel, *, highest: float) -> str:
    """Draw, for each severity, a box of quartiles over corruption types, whiskers to the extremes, and the types.

    Args:
        panel: the panel to draw.
        highest: upper end of the axis, the same for panels that are to be compared.
    """
    drawing = Drawing(252)
    x, y = Scale(-0.5, len(panel.severities) - 0.5, LEFT, RIGHT), Scale(0, highest, 206, 28)
    drawing.title(panel.title)
    drawing.y_axis(y, LEFT, RIGHT, panel.quantity)
    for index, (severity, names, values) in enumerate(zip(panel.severities, panel.types, panel.values, strict=True)):
        drawing.text(x(index), 220, "clean" if severity == 0 else str(severity), "mid")
        if len(values) >= MIN_BOX:
            low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
            drawing.line(x(index), y(min(values)), x(index), y(max(values)), "range c0")
            tip = f"severity {severity}: median {_fraction(middle)}, quartiles {_fraction(low)} and {_fraction(high)}"
            drawing.rectangle(x(index) - 12, y(high), 24, max(1.0, y(low) - y(high)), "box", tip)
            drawing.line(x(index) - 12, y(middle), x(index) + 12, y(middle), "axis")
        for position, (name, value) in enumerate(zip(names, values, strict=True)):
            # Side by side, so that equal values do not hide each other.
            shift = 16 * ((position + 0.5) / len(values) - 0.5)
            drawing.mark(0, x(index) + shift, y(value), "c0 pale", f"{name} {severity}: {_fraction(value)}", size=2.2)
        if len(values) >= 2:
            mean = statistics.fmean(values)
            drawing.mark(
                2, x(index), y(mean), "c1", f"severity {severity}: mean {_fraction(mean)} over {len(values)} types"
            )
        elif values:
            drawing.mark(2, x(index), y(values[0]), "c1", f"{names[0]} {severity}: {_fraction(values[0])}")
    drawing.text((LEFT + RIGHT) / 2, 236, "severity", "mid")
    drawing.legend(238, [("2", "c1", "mean over corruption types"), ("0", "c0 pale", "one type")])
    return drawing.svg(f"{panel.quantity} by severity of corruption: {panel.title}")


def draw_classes(panel: ClassPanel) -> str:
    """Draw bars for shares of the least robust subset, with intervals, and ticks for shares of all examples."""
    top, height = 46.0, 20.0
    bottom = top + height * len(panel.names) + 4
    drawing = Drawing(bottom + 34)
    left = 12 + min(156.0, CHARACTER * max(map(len, panel.names)))
    x = Scale(0, 1.04 * max(100 * value for value in (*panel.share_high, *panel.base_share, 0.01) if value == value),
              left, RIGHT)  # fmt: skip
    drawing.title(panel.title)
    drawing.legend(22, [("area", "bar", "share of the subset"), ("tick", "axis", "share of all examples")])
    drawing.x_axis(x, top, bottom, "% of the examples")
    for row, name in enumerate(panel.names):
        y = top + height * (row + 0.5) + 2
        share, low, high, base = (
            100 * values[row] for values in (panel.share, panel.share_low, panel.share_high, panel.base_share)
        )
        drawing.text(left - 6, y + 3.8, name, "end")
        tip = f"{name}: {share:.1f} % of the subset ({low:.1f} to {high:.1f}), {base:.1f} % of all"
        drawing.rectangle(left, y - 6, x(share) - left, 12, "bar", tip)
        drawing.line(_at(x, low), y, _at(x, high), y, "range under")
        drawing.line(x(base), y - 8, x(base), y + 8, "axis")
    return drawing.svg(f"{panel.title}: {', '.join(panel.names)}")


def _shade(drawing: Drawing, x: Scale, y: Scale, panel: SubsetPanel, left: int, right: int) -> None:
    """Draw the area between confidence and accuracy from one subset to the next, in two parts if they cross."""
    values = [(panel.confidence[subset], panel.accuracy[subset]) for subset in (left, right)]
    if not all(map(math.isfinite, (*values[0], *values[1]))):
        return
    first, second = (confidence - accuracy for confidence, accuracy in values)
    corners = [(x(left), y(values[0][0]), y(values[0][1])), (x(right), y(values[1][0]), y(values[1][1]))]
    if first * second < 0:
        share = first / (first - second)
        crossing = tuple(a + share * (b - a) for a, b in zip(*corners, strict=True))
        corners.insert(1, (crossing[0], crossing[1], crossing[1]))
    for (x1, top1, bottom1), (x2, top2, bottom2) in pairwise(corners):
        classes = "over" if top1 + top2 <= bottom1 + bottom2 else "under"
        drawing.area([(x1, top1), (x2, top2), (x2, bottom2), (x1, bottom1)], classes)


def _at(scale: Scale, value: float) -> float:
    """Return the position of a value; NaN if the value is unknown."""
    return scale(value) if math.isfinite(value) else math.nan


def _fill(shape: int) -> str:
    """Style marks: the first series is filled, the calibrated series are hollow."""
    return "hollow" if shape else ""


def _estimate(value: float, low: float, high: float, sign: str = "") -> str:
    if not (math.isfinite(low) and math.isfinite(high)):
        return f"{value:{sign}.3f}"
    return f"{value:{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})"


def _fraction(value: float) -> str:
    return f"{value:.3f}"
