"""The figures of a report: ``prepare_*`` turns results into plain values, ``draw_*`` turns those into SVG.

An SVG is a fragment for inline use: it scales with its container, its text stays text, and all its ids start
with ``identifier``, which must be unique on the page.
"""

from __future__ import annotations

import io
import math
import re
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from aradals.errors import MissingExtraError
from aradals.report.summary import (
    CLEAN,
    Condition,
    Results,
    condition_name,
    diagnosis_results,
    main_variants,
    measure,
    num_subsets,
    number,
    seeds_of,
    share_interval,
    shift_conditions,
    subset_name,
    variants,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Values = list[float]

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

MAX_CONDITIONS = 20
MAX_CLASSES = 15
MAX_LABEL = 26
MAX_TITLE = 42

SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"


@dataclass(frozen=True)
class SubsetPanel:
    """Confidence, accuracy and ECE of one variant by robustness subset; lists over subsets, NaN where unknown."""

    title: str
    confidence: Values
    confidence_low: Values
    confidence_high: Values
    accuracy: Values
    accuracy_low: Values
    accuracy_high: Values
    ece: Values
    ece_low: Values
    ece_high: Values
    noise_floor: Values


@dataclass(frozen=True)
class ReliabilityPanel:
    """Accuracy against confidence; lists over bins, NaN where a bin is empty."""

    title: str
    low: Values
    high: Values
    count: Values
    confidence: Values
    accuracy: Values
    accuracy_low: Values
    accuracy_high: Values


@dataclass(frozen=True)
class TargetPanel:
    """The course of the targets of one method: ``target_prob[r][i]`` held from ``epochs[i]`` on."""

    title: str
    epochs: list[int]
    target_prob: list[Values]
    lower_bound: float


@dataclass(frozen=True)
class ShiftSeries:
    """One variant in a dot plot; lists over conditions."""

    label: str
    calibrated: bool
    method_index: int
    values: Values
    low: Values
    high: Values
    noise_floor: Values


@dataclass(frozen=True)
class ShiftPanel:
    """A calibration error under every condition, clean first."""

    title: str
    conditions: list[str]
    series: list[ShiftSeries]


@dataclass(frozen=True)
class ClassPanel:
    """Classes by their share of the least robust subset, largest first."""

    title: str
    names: list[str]
    share: Values
    share_low: Values
    share_high: Values
    base_share: Values


def prepare_subsets(results: Results) -> list[SubsetPanel]:
    """One panel per variant, on clean data; means over seeds."""
    subsets = range(num_subsets(results))
    panels = []
    for variant in variants(results) if subsets else []:
        columns: dict[str, Values] = {}
        for key in ("confidence", "accuracy", "ece"):
            found = [measure(results, variant, key, subset=subset) for subset in subsets]
            columns |= {
                key: [each.value for each in found],
                f"{key}_low": [each.low for each in found],
                f"{key}_high": [each.high for each in found],
            }
        floor = [measure(results, variant, "ece_noise_floor", subset=subset).value for subset in subsets]
        panels.append(SubsetPanel(title=_label(variant.label, MAX_TITLE), noise_floor=floor, **columns))
    return panels


def prepare_reliability(results: Results) -> list[ReliabilityPanel]:
    """One panel per variant, on clean data, of the first seed (bins of several seeds share their examples)."""
    seeds = seeds_of(results)[:1]
    panels = []
    for variant in variants(results):
        for entry in results.get("reliability", []):
            if (
                (entry["method"], entry["calibrator"]) == (variant.method, variant.calibrator)
                and (entry["corruption"], entry["severity"]) == CLEAN
                and entry["seed"] in seeds
                and entry.get("subset") is None
            ):
                panels.append(reliability_panel(variant.label, entry["bins"]))
    return panels


def prepare_diagnosis_reliability(diagnosis: Results) -> list[ReliabilityPanel]:
    """All examples, then each robustness subset."""
    reliability = diagnosis["reliability"]
    by_subset = reliability.get("subsets") or []
    return [
        reliability_panel("all examples", reliability["overall"]),
        *(reliability_panel(subset_name(index, len(by_subset)), bins) for index, bins in enumerate(by_subset)),
    ]


def reliability_panel(title: str, bins: Sequence[Mapping[str, Any]]) -> ReliabilityPanel:
    """Bins as columns."""
    keys = ("low", "high", "count", "confidence", "accuracy", "accuracy_low", "accuracy_high")
    return ReliabilityPanel(_label(title, MAX_TITLE), **{key: [number(each.get(key)) for each in bins] for key in keys})


def prepare_targets(results: Results) -> list[TargetPanel]:
    """One panel per method whose targets were updated, of its first seed."""
    lower_bound = 1 / results["data"]["num_classes"]
    panels: dict[str, TargetPanel] = {}
    labels = {variant.method: variant.label for variant in variants(results) if variant.calibrator == "none"}
    for training in results.get("training", []):
        method, updates, settings = training["method"], training.get("updates") or [], training.get("settings", {})
        if method in panels or not updates or settings.get("update_rate") == 0:
            continue
        every = settings.get("update_every") or 1
        course = [update["target_prob"] for update in updates] + [training["target_prob"]]
        panels[method] = TargetPanel(
            title=_label(labels.get(method, method), MAX_TITLE),
            epochs=[index * every for index in range(len(course))],
            target_prob=[[number(value) for value in subset] for subset in zip(*course, strict=True)],
            lower_bound=lower_bound,
        )
    return list(panels.values())


def prepare_shift(results: Results) -> list[ShiftPanel]:
    """ECE and subset calibration error, clean and shifted; severities averaged where there are many conditions."""
    shifts = shift_conditions(results)
    if not shifts:
        return []
    groups: dict[str, list[Condition]] = {"clean": [CLEAN]}
    for shift in shifts:
        name = condition_name(shift) if len(shifts) <= MAX_CONDITIONS else shift[0].replace("_", " ")
        groups.setdefault(name, []).append(shift)
    shown = main_variants(results)
    methods = list(dict.fromkeys(variant.method for variant in shown))
    panels = []
    for key, floor, title in (
        ("ece", "ece_noise_floor", "ECE"),
        ("subset_calibration_error", "subset_noise_floor", "subset calibration error"),
    ):
        series = []
        for variant in shown:
            found = [measure(results, variant, key, conditions=group) for group in groups.values()]
            floors = [measure(results, variant, floor, conditions=group).value for group in groups.values()]
            series.append(
                ShiftSeries(
                    label=_label(variant.label, MAX_TITLE),
                    calibrated=variant.calibrator != "none",
                    method_index=methods.index(variant.method),
                    values=[each.value for each in found],
                    low=[each.low for each in found],
                    high=[each.high for each in found],
                    noise_floor=floors,
                )
            )
        if any(math.isfinite(value) for each in series for value in each.values):
            panels.append(ShiftPanel(title, [_label(name) for name in groups], series))
    return panels


def prepare_diagnosis_subsets(diagnosis: Results) -> list[SubsetPanel]:
    """The one panel of a diagnosis."""
    return prepare_subsets(diagnosis_results(diagnosis))


def prepare_classes(diagnosis: Results) -> ClassPanel | None:
    """The largest classes of the least robust subset; None without any."""
    rows = diagnosis.get("least_robust_classes", [])[:MAX_CLASSES]
    if not rows:
        return None
    intervals = [share_interval(row) for row in rows]
    return ClassPanel(
        title="classes of the least robust subset",
        names=[_label(str(row["name"])) for row in rows],
        share=[number(row["share"]) for row in rows],
        share_low=[low for low, _ in intervals],
        share_high=[high for _, high in intervals],
        base_share=[number(row["base_share"]) for row in rows],
    )


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


def _label(text: str, limit: int = MAX_LABEL) -> str:
    """Text for a figure: shortened in the middle, since names often differ at the end; no characters XML forbids."""
    text = "".join(character if character.isprintable() else " " for character in text)
    return text if len(text) <= limit else f"{text[: limit - limit // 2 - 1]}…{text[-(limit // 2) :]}"


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
