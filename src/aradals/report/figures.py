"""The figures of a report: each panel of `aradals.report.panels` as SVG.

An SVG is a fragment for inline use: it scales with its container, its text stays text, and all its ids start
with ``identifier``, which must be unique on the page.
"""

from __future__ import annotations

import io
import math
import re
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from aradals.errors import MissingExtraError
from aradals.report.panels import ClassPanel, ReliabilityPanel, ShiftPanel, SubsetPanel, TargetPanel, Values

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart with every common kind of colour blindness; its yellow is too pale on white.
BLUE, VERMILLION, GREEN, ORANGE, SKY, PURPLE, BLACK = (
    "#0072b2", "#d55e00", "#009e73", "#e69f00", "#56b4e9", "#cc79a7", "#000000",
)  # fmt: skip
COLOURS = (VERMILLION, BLUE, GREEN, PURPLE, ORANGE, SKY, BLACK)
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "<", ">", "h")
GREY = "#767676"

VISIBLE_GAP = 0.005
"""Smaller gaps would name a shade in the legend that nobody can see."""

MIN_COUNT = 10
"""Bins of a reliability diagram with fewer predictions are drawn hollow and pale: they say next to nothing."""


SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"


def draw_subsets(panel: SubsetPanel, *, identifier: str, lowest: float = 0.0, highest_ece: float = 1.0) -> str:
    """Accuracy and confidence by subset with the gap shaded, and below it the ECE with its noise floor.

    Args:
        panel: what to draw.
        identifier: prefix of all ids.
        lowest: lower end of the upper axis, the same for panels that are to be compared.
        highest_ece: upper end of the lower axis, likewise.
    """

    def paint(figure: Figure) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2.2, 1))
        subsets = list(range(len(panel.accuracy)))
        gaps = [c - a for c, a in zip(panel.confidence, panel.accuracy, strict=True)]
        for sign, colour, name in ((1, VERMILLION, "overconfident"), (-1, BLUE, "underconfident")):
            if any(sign * gap > VISIBLE_GAP for gap in gaps):
                where = [sign * gap >= 0 for gap in gaps]
                upper.fill_between(
                    subsets, panel.confidence, panel.accuracy, where=where, interpolate=True, color=colour, alpha=0.18,
                    linewidth=0, label=name,
                )  # fmt: skip
        _line(
            upper, subsets, panel.confidence, panel.confidence_low, panel.confidence_high, VERMILLION, "o", "confidence"
        )
        _line(upper, subsets, panel.accuracy, panel.accuracy_low, panel.accuracy_high, BLUE, "s", "accuracy")
        upper.set_ylim(lowest, 1 + 0.03 * (1 - lowest))
        upper.locator_params(axis="y", nbins=6, steps=[1, 2, 5, 10])
        upper.legend(loc="lower right")
        upper.set_title(panel.title)
        _line(lower, subsets, panel.ece, panel.ece_low, panel.ece_high, BLACK, "D", "ECE")
        single = "_" if len(subsets) == 1 else ""  # a line through one point would not show
        lower.plot(subsets, panel.noise_floor, color=GREY, linestyle="--", marker=single, label="noise floor")
        lower.set_ylim(0, highest_ece)
        lower.locator_params(axis="y", nbins=5, steps=[1, 2, 5, 10])
        lower.set_ylabel("ECE")
        lower.legend(loc="upper right")
        lower.set_xlabel("robustness subset (0 = least robust)")
        lower.set_xticks(subsets[:: 1 + len(subsets) // 13])
        lower.set_xlim(-0.4, max(len(subsets) - 0.6, 0.4))

    return _draw(identifier, f"Accuracy, confidence and ECE by robustness subset: {panel.title}", (3.5, 3.7), paint)


def draw_reliability(panel: ReliabilityPanel, *, identifier: str) -> str:
    """A reliability diagram with Wilson intervals, and below it the histogram of confidence.

    Bins of fewer than `MIN_COUNT` predictions are hollow and pale.
    """

    def paint(figure: Figure) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
        upper.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=0.9, label="calibrated")
        for confidence, accuracy, low, high, count in zip(
            panel.confidence, panel.accuracy, panel.accuracy_low, panel.accuracy_high, panel.count, strict=True
        ):
            many = count >= MIN_COUNT
            alpha = 1.0 if many else 0.35
            if many:
                upper.vlines(confidence, accuracy, confidence, color=ORANGE, linewidth=4, alpha=0.45)
            upper.vlines(confidence, low, high, color=BLUE, linewidth=1, alpha=alpha)
            upper.plot(
                confidence, accuracy, "s", color=BLUE, markersize=3.5, markerfacecolor=BLUE if many else "white",
                alpha=alpha,
            )  # fmt: skip
        upper.plot([], [], color=ORANGE, linewidth=4, alpha=0.45, label="gap")
        upper.plot([], [], "s", color=BLUE, markersize=3.5, label="accuracy")
        upper.set_xlim(-0.02, 1.02)
        upper.set_ylim(-0.02, 1.02)
        upper.set_ylabel("accuracy")
        upper.set_title(panel.title)
        total = sum(count for count in panel.count if math.isfinite(count)) or 1
        widths = [high - low for low, high in zip(panel.low, panel.high, strict=True)]
        shares = [count / total for count in panel.count]
        lower.bar(panel.low, shares, widths, align="edge", color=SKY, edgecolor="white", linewidth=0.5)
        lower.set_ylim(0, 1)
        lower.set_ylabel("share of\nexamples")
        lower.set_xlabel("confidence")
        figure.legend(*upper.get_legend_handles_labels(), loc="outside lower center", ncols=3)

    return _draw(identifier, f"Reliability diagram: {panel.title}", (3.5, 4.1), paint)


def draw_targets(panel: TargetPanel, *, identifier: str) -> str:
    """The true-class target probability of each subset over the epochs, dark = least robust."""

    def paint(figure: Figure) -> None:
        from matplotlib import colormaps
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import BoundaryNorm, ListedColormap

        axes = figure.subplots()
        count = len(panel.target_prob)
        # The light end of the map is too pale on white.
        colours = [colormaps["viridis"](0.88 * index / max(count - 1, 1)) for index in range(count)]
        for course, colour in zip(panel.target_prob, colours, strict=True):
            axes.plot(panel.epochs, course, color=colour, linewidth=1.3)
        lowest = min((value for course in panel.target_prob for value in course if math.isfinite(value)), default=0)
        if lowest < panel.lower_bound + 0.1:
            axes.axhline(panel.lower_bound, color=VERMILLION, linestyle=":", linewidth=1)
            axes.text(panel.epochs[0], panel.lower_bound, " lower bound 1/K", color=VERMILLION, va="bottom", fontsize=7)
        axes.set_xlabel("epoch")
        axes.set_ylabel("target of the true class")
        axes.set_title(panel.title)
        axes.margins(x=0.02)
        axes.locator_params(axis="x", integer=True)
        axes.locator_params(axis="y", nbins=6, steps=[1, 2, 5, 10])
        if count > 1:
            norm = BoundaryNorm([index - 0.5 for index in range(count + 1)], count)
            bar = figure.colorbar(ScalarMappable(norm, ListedColormap(colours)), ax=axes, ticks=[0, count - 1])
            bar.set_label("subset (0 = least robust)")
            bar.ax.tick_params(length=0, which="both")

    return _draw(identifier, f"Targets by robustness subset over the epochs: {panel.title}", (3.5, 2.8), paint)


def draw_shift(panel: ShiftPanel, *, identifier: str) -> str:
    """Dots with intervals, one row per condition; a grey tick is the noise floor of the dot beside it."""
    count, rows = len(panel.series), len(panel.conditions)
    row_height = max(0.3, 0.1 * count + 0.1)

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for row in range(0, rows, 2):
            axes.axhspan(row - 0.5, row + 0.5, color="#f3f3f3", linewidth=0)
        for index, series in enumerate(panel.series):
            colour = COLOURS[series.method_index % len(COLOURS)]
            heights = [row + 0.76 * ((index + 0.5) / count - 0.5) for row in range(rows)]
            axes.hlines(heights, series.low, series.high, color=colour, linewidth=1.1)
            axes.plot(series.noise_floor, heights, "|", color=GREY, markersize=5)
            axes.plot(
                series.values, heights, MARKERS[series.method_index % len(MARKERS)], color=colour, markersize=4.2,
                markerfacecolor="white" if series.calibrated else colour, label=series.label,
            )  # fmt: skip
        axes.plot([], [], "|", color=GREY, markersize=5, linestyle="none", label="noise floor")
        axes.set_yticks(range(rows), panel.conditions)
        axes.set_ylim(rows - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.set_xlim(left=0)
        axes.locator_params(axis="x", nbins=6, steps=[1, 2, 5, 10])
        axes.set_xlabel(panel.title)
        figure.legend(loc="outside upper center", ncols=1 if count > 4 else 2)

    legend_height = 0.16 * (count + 1 if count > 4 else math.ceil((count + 1) / 2))
    title = f"{panel.title} by condition and method"
    return _draw(identifier, title, (4.4, 0.7 + legend_height + row_height * rows), paint)


def draw_classes(panel: ClassPanel, *, identifier: str) -> str:
    """Bars for the share of the least robust subset, with intervals, and a tick for the share of all examples."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        heights = list(range(len(panel.names)))
        axes.barh(heights, [100 * share for share in panel.share], height=0.62, color=SKY, label="share of the subset")
        axes.hlines(
            heights, [100 * low for low in panel.share_low], [100 * high for high in panel.share_high], color=BLUE,
            linewidth=1,
        )  # fmt: skip
        axes.plot(
            [100 * b for b in panel.base_share], heights, "|", color=BLACK, markersize=10, label="share of all examples"
        )
        axes.set_yticks(heights, panel.names)
        axes.set_ylim(len(heights) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.set_xlim(left=0)
        axes.set_xlabel("% of the examples")
        figure.legend(*(entry[::-1] for entry in axes.get_legend_handles_labels()), loc="outside upper center", ncols=2)

    return _draw(identifier, panel.title, (4.4, 0.9 + 0.24 * len(panel.names)), paint)


def _line(axes: Axes, x: list[int], y: Values, low: Values, high: Values, colour: str, marker: str, label: str) -> None:
    """A line with intervals; not `errorbar`, since an interval may lie beside its estimate."""
    axes.vlines(x, low, high, color=colour, linewidth=1)
    axes.plot(x, y, color=colour, marker=marker, markersize=3.5, linewidth=1.2, label=label)


def _draw(identifier: str, title: str, size: tuple[float, float], paint: Callable[[Figure], None]) -> str:
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "report") from error
    style: dict[str, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": identifier,
        "text.parse_math": False,
        "font.family": ["DejaVu Sans"],
        "font.size": 8,
        "axes.titlesize": 8.5,
        "axes.titleweight": "bold",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": "#555555",
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#e4e4e4",
        "grid.linewidth": 0.6,
        "legend.frameon": False,
        "legend.fontsize": 7,
        "savefig.transparent": True,
    }
    buffer = io.StringIO()
    with rc_context(cast(Any, style)), warnings.catch_warnings():
        # A glyph that is missing here is the browser's to draw.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        paint(figure)
        figure.savefig(buffer, format="svg")
    return _inline(buffer.getvalue(), identifier, title)


def _inline(document: str, identifier: str, title: str) -> str:
    """An SVG document as an HTML fragment: scalable, named, with ids of its own and without metadata."""
    root = ElementTree.fromstring(document)
    for child in list(root):
        if child.tag == f"{{{SVG}}}metadata":
            root.remove(child)
    for definitions in root.findall(f"{{{SVG}}}defs"):
        # Matplotlib's style sheet would apply to the whole page; its one rule is inherited just as well.
        for sheet in definitions.findall(f"{{{SVG}}}style"):
            definitions.remove(sheet)
    elements = list(root.iter())
    links = [value for element in elements for value in element.attrib.values() if "#" in value]
    used = set(re.findall(r"#([\w-]+)", " ".join(links)))
    for element in elements:
        for name, value in list(element.attrib.items()):
            if name == "id" and value not in used:
                del element.attrib[name]
            elif name == "id":
                element.set(name, f"{identifier}-{value}")
            elif name == f"{{{XLINK}}}href":
                element.set(name, value.replace("#", f"#{identifier}-", 1))
            elif "url(#" in value:
                element.set(name, value.replace("url(#", f"url(#{identifier}-"))
            elif name == "style":
                element.set(name, value.replace("'DejaVu Sans'", "'DejaVu Sans', sans-serif"))
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib |= {
        "role": "img",
        "aria-label": title,
        "style": "width: 100%; max-width: 100%; height: auto; stroke-linejoin: round; stroke-linecap: butt",
    }
    heading = ElementTree.Element(f"{{{SVG}}}title")
    heading.text = title
    root.insert(0, heading)
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    return re.sub(r">\s+<", "><", ElementTree.tostring(root, encoding="unicode"))
