"""The figures of a report as axes of matplotlib, for notebooks and papers (extra: plots).

Each function draws one panel of `aradals.report.panels` and returns its axes. Fonts and sizes are those of
``matplotlib.rcParams``. Colors and marks are those of the HTML report; the marks tell series apart in gray print. Thin
lines are 95 % intervals. The legend stands below the axes, and ``ax.legend(...)`` puts it elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from aradals._internal.optional import optional_imports
from aradals.errors import InputError
from aradals.report.figures import MIN_BOX, MIN_COUNT, VISIBLE_GAP, dot_limits
from aradals.report.panels import (
    BoxPanel,
    DotPanel,
    ReliabilityPanel,
    TargetPanel,
    methods_panel,
    prepare_boxes,
    prepare_reliability,
    prepare_subsets,
    prepare_targets,
)
from aradals.report.view import label, reference, subset_name
from aradals.results.aggregate import places
from aradals.results.records import METRICS, Metric, Place, Results, Variant

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.container import BarContainer
    from matplotlib.text import Text

__all__ = ["by_subset", "methods", "reliability_diagram", "target_course", "under_shift"]

OVER, UNDER, GREEN, PURPLE = "#c9540a", "#0072b2", "#00805d", "#a4498a"
INK, SOFT, GRID, STRIPE = "#1b1b1b", "#595959", "#e6e6e2", "#f5f5f3"

COLORS, MARKS = (UNDER, OVER, GREEN, PURPLE), "osD^"
"""Marks of the series in a comparison of methods."""

SHADES = (
    "#d95f19", "#dd574c", "#db5470", "#d35591", "#c65aaf", "#b462c9", "#9d6bde", "#8076ea", "#5b81ef", "#188ceb",
)  # fmt: skip
"""Colors from the least to the most robust subset."""


def reliability_diagram(results: Results, variant: Variant | str | None = None, *, ax: Axes | None = None) -> Axes:
    """Draw accuracy against confidence on clean data, and above it the shares of the predictions.

    Bins with fewer than `aradals.report.figures.MIN_COUNT` predictions are hollow and pale.

    Args:
        results: a study, an evaluation or a diagnosis.
        variant: a method with its calibrator, or the name of a method as trained; default: the reference.
        ax: axes to draw in; default: those of a new figure.

    Raises:
        InputError: the variant has no reliability diagram.
        MissingExtraError: matplotlib is not installed.
    """
    shown = _variant(results, variant)
    panels = prepare_reliability(results, [shown])
    if not panels:
        raise _missing(f"a reliability diagram of {label(results, shown)}", "results that contain its bins")
    panel = panels[0]
    ax = _framed(ax, panel.title, "confidence", "accuracy")
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    ax.plot([0, 1], [0, 1], "--", color=SOFT, label="calibrated", zorder=1)
    _bins(ax, panel)
    _legend(ax, _histogram(ax, panel))
    return ax


def by_subset(results: Results, variant: Variant | str | None = None, *, ax: Axes | None = None) -> Axes:
    """Draw confidence and accuracy by robustness subset on clean data, with the gap between them shaded.

    Args:
        results: a study, an evaluation or a diagnosis.
        variant: a method with its calibrator, or the name of a method as trained; default: the reference.
        ax: axes to draw in; default: those of a new figure.

    Raises:
        InputError: the results have no robustness subsets.
        MissingExtraError: matplotlib is not installed.
    """
    panels = prepare_subsets(results, [_variant(results, variant)])
    if not panels:
        raise _missing("results by robustness subset", "an evaluation with scores, or `aradals diagnose`")
    panel = panels[0]
    ax = _framed(ax, panel.title, "subset (0 = least robust)", "fraction")
    subsets, gap = range(len(panel.accuracy)), np.array(panel.gap)
    _course(ax, subsets, panel.confidence, panel.confidence_low, panel.confidence_high, "o", OVER, "confidence")
    _course(ax, subsets, panel.accuracy, panel.accuracy_low, panel.accuracy_high, "s", UNDER, "accuracy")
    for excess, color, name in ((gap, OVER, "overconfident"), (-gap, UNDER, "underconfident")):
        ax.fill_between(
            subsets, panel.confidence, panel.accuracy, excess > 0, interpolate=True, color=color, alpha=0.2,
            linewidth=0, label=name if (excess > VISIBLE_GAP).any() else None,
        )  # fmt: skip
    ax.set(xlim=(-0.5, len(subsets) - 0.5), ylim=(0, 1), xticks=subsets[:: 1 + int(2 * len(subsets) / _room(ax))])
    _legend(ax)
    return ax


def under_shift(results: Results, variant: Variant | str | None = None, *, ax: Axes | None = None) -> Axes:
    """Draw the ECE by severity of corruption: each corruption type, their mean, and quartiles of five types or more.

    Args:
        results: a study or an evaluation.
        variant: a method with its calibrator, or the name of a method as trained; default: the reference.
        ax: axes to draw in; default: those of a new figure.

    Raises:
        InputError: the results have fewer than two shifted conditions.
        MissingExtraError: matplotlib is not installed.
    """
    panels = prepare_boxes(results, [_variant(results, variant)])
    if not panels:
        raise _missing("results under at least two shifts", "an evaluation with corruptions")
    panel = panels[0]
    ax = _framed(ax, panel.title, "severity of corruption", panel.quantity)
    _boxes(ax, panel)
    positions = range(len(panel.severities))
    ax.set(xlim=(-0.5, len(positions) - 0.5), ylim=(0, None))
    ax.set_xticks(positions, ["clean" if severity == 0 else str(severity) for severity in panel.severities])
    _legend(ax)
    return ax


def target_course(results: Results, method: str | None = None, *, ax: Axes | None = None) -> Axes:
    """Draw the target of the true class over the epochs, one line per robustness subset, of the first seed.

    Args:
        results: a study.
        method: name of a method; default: the first one whose targets were updated.
        ax: axes to draw in; default: those of a new figure.

    Raises:
        InputError: the targets of the method were never updated.
        MissingExtraError: matplotlib is not installed.
    """
    panels = prepare_targets(results)
    name = results.method(method).name if method is not None else next(iter(panels), None)
    if name not in panels:
        raise _missing(f"updates of the targets of {name or 'a method'}", ", ".join(panels) or "a study of AR-AdaLS")
    panel = panels[name]
    ax = _framed(ax, panel.title, "epoch", "true-class target")
    _courses(ax, panel)
    if panel.near_bound:
        ax.axhline(panel.lower_bound, color=SOFT, linestyle="--", label="lower bound 1/K")
        ax.set_ylim(bottom=0)
    _legend(ax)
    return ax


def methods(results: Results, metric: Metric = "ece", *, place: Place = "clean", ax: Axes | None = None) -> Axes:
    """Draw the main methods side by side, without and with each calibrator; a gray tick is the noise floor of a mark.

    Args:
        results: a study, an evaluation or a diagnosis.
        metric: the metric to compare.
        place: "clean", or "all_shifts" for the mean over all shifted conditions.
        ax: axes to draw in; default: those of a new figure.

    Raises:
        InputError: the results do not contain the metric or the place.
        MissingExtraError: matplotlib is not installed.
    """
    for what, value, known in (("metric", metric, METRICS), ("place", place, places(results))):
        if value not in known:
            raise InputError(expected=f"a {what} of the results", got=repr(value), hint=f"one of: {', '.join(known)}")
    panel = methods_panel(results, metric, place)
    if not panel.rows:
        raise _missing(f"values of {metric}", "another metric")
    ax = _framed(ax, panel.title, panel.quantity, "")
    _dots(ax, panel)
    ax.set(xlim=dot_limits([panel]), ylim=(len(panel.rows) - 0.5, -0.5))
    ax.set_yticks(range(len(panel.rows)), panel.rows)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
    _legend(ax)
    return ax


def _bins(ax: Axes, panel: ReliabilityPanel) -> None:
    columns = np.array([panel.confidence, panel.accuracy, panel.accuracy_low, panel.accuracy_high])
    count = np.array(panel.count)
    full, sparse = columns[:, count >= MIN_COUNT], columns[:, (count > 0) & (count < MIN_COUNT)]
    ax.vlines(full[0], full[1], full[0], colors=OVER, alpha=0.35, linewidth=5, label="gap", clip_on=False)
    for bins, alpha, face, name in ((full, 1.0, UNDER, "accuracy"), (sparse, 0.4, "white", f"n < {MIN_COUNT}")):
        x, y, low, high = bins
        ax.vlines(x, low, high, colors=UNDER, alpha=alpha, linewidth=1, clip_on=False)
        ax.plot(
            x, y, "s", color=UNDER, alpha=alpha, markerfacecolor=face, clip_on=False, label=name if len(x) else None
        )  # fmt: skip


def _histogram(ax: Axes, panel: ReliabilityPanel) -> BarContainer:
    """Draw the shares of the predictions above the axes."""
    low, width = np.array(panel.low), np.array(panel.high) - np.array(panel.low)
    share = np.array(panel.count) / max(1, sum(panel.count))
    above = ax.inset_axes((0, 1.03, 1, 0.15))
    bars = above.bar(low, share, width, align="edge", color=UNDER, alpha=0.45, edgecolor="white", label="share")
    above.set(xlim=(0, 1), xticks=[])
    above.set_yticks([share.max()], [f"{100 * share.max():.0f} %"])
    above.spines[["top", "left", "right"]].set_visible(False)
    return bars


def _boxes(ax: Axes, panel: BoxPanel) -> None:
    for position, values in enumerate(panel.values[1:], start=1):
        # Side by side, so that equal values do not hide each other.
        beside = position + 0.45 * ((np.arange(len(values)) + 0.5) / max(len(values), 1) - 0.5)
        ax.plot(beside, values, "o", color=UNDER, alpha=0.4, label="one type" if position == 1 else None)
    boxed = {position: values for position, values in enumerate(panel.values) if len(values) >= MIN_BOX}
    if boxed:
        line = {"color": UNDER}
        ax.boxplot(
            list(boxed.values()), positions=list(boxed), widths=0.6, whis=(0, 100), manage_ticks=False,
            patch_artist=True, boxprops={"facecolor": UNDER + "38", "edgecolor": UNDER}, whiskerprops=line,
            capprops=line, medianprops={"color": INK},
        )  # fmt: skip
    means = [float(np.mean(values)) if values else math.nan for values in panel.values]
    ax.plot(range(len(means)), means, "D-", color=OVER, label="mean over types")


def _courses(ax: Axes, panel: TargetPanel) -> None:
    """Mark and name the two ends, so that they differ without color."""
    last = len(panel.target_prob) - 1
    every = max(1, len(panel.epochs) // 8)
    for subset, course in enumerate(panel.target_prob):
        shade, end = SHADES[round(9 * subset / max(last, 1))], subset in (0, last)
        ax.plot(
            panel.epochs, course, color=shade, marker={0: "o", last: "s"}.get(subset), markevery=every,
            label=subset_name(subset, last + 1) if end and last else None, zorder=2.5 if end else 2,
        )  # fmt: skip


def _dots(ax: Axes, panel: DotPanel) -> None:
    for row in range(1, len(panel.rows), 2):
        ax.axhspan(row - 0.5, row + 0.5, color=STRIPE, zorder=0)
    rows, step = np.arange(len(panel.rows)), 1 / (len(panel.series) + 1)
    heights = [rows - 0.5 + step * (index + 1) for index in range(len(panel.series))]
    for index, (y, series) in enumerate(zip(heights, panel.series, strict=True)):
        color = COLORS[index % 4]
        ax.hlines(y, series.low, series.high, colors=color, linewidth=1)
        ax.plot(
            series.values, y, MARKS[index % 4], color=color, markerfacecolor="white" if index else color,
            label=series.name,
        )  # fmt: skip
    floors = [floor for series in panel.series for floor in series.noise_floor]
    if np.isfinite(floors).any():
        ax.plot(
            floors, np.concatenate(heights), "|", color=SOFT, markersize=8, markeredgewidth=1.5, label="noise floor"
        )


def _course(
    ax: Axes, x: Sequence[float], values: list[float], low: list[float], high: list[float], mark: str, color: str,
    name: str,
) -> None:  # fmt: skip
    """Draw a line with marks and intervals; marks at the ends of the axis are not cut."""
    ax.vlines(x, low, high, colors=color, linewidth=1, clip_on=False)
    ax.plot(x, values, f"{mark}-", color=color, label=name, clip_on=False)


def _variant(results: Results, variant: Variant | str | None) -> Variant:
    if not results.variants:
        raise _missing("results with rows", "a study in which a run succeeded")
    if variant is None:
        return reference(results)
    chosen = Variant(results.method(variant).name) if isinstance(variant, str) else variant
    if chosen not in results.variants:
        known = ", ".join(f"{each.method} ({each.calibrator})" for each in results.variants)
        raise InputError(
            expected="a variant of the results", got=f"{chosen.method} ({chosen.calibrator})", hint=f"one of: {known}"
        )
    return chosen


def _framed(ax: Axes | None, title: str, x_label: str, y_label: str) -> Axes:
    """Return the axes to draw in, with names and a pale grid."""
    ax = ax or _new_axes()
    ax.set(title=title, xlabel=x_label, ylabel=y_label)
    ax.grid(color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _new_axes() -> Axes:
    with optional_imports():
        from matplotlib import pyplot
    return pyplot.subplots(layout="constrained")[1]


def _legend(ax: Axes, *more: BarContainer) -> None:
    """Draw the legend below the axis label; all distances are in points, so that they fit axes of any size."""
    handles: list[Any] = [*ax.get_legend_handles_labels()[0], *more]
    if not handles:
        return
    longest = max(len(handle.get_label()) for handle in handles)
    rows = math.ceil(len(handles) / max(1, int(_room(ax) / (3.5 + 0.55 * longest))))
    tick, name = ax.xaxis.get_major_ticks(1)[0], ax.xaxis.label
    below = tick.get_tick_padding() + ax.xaxis.labelpad + 1.3 * (_points(tick.label1) + _points(name)) + 4
    legend = ax.legend(
        handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=math.ceil(len(handles) / rows),
        frameon=False, handlelength=1.5, columnspacing=1.2, handletextpad=0.6,
    )  # fmt: skip
    legend.borderaxespad = below / _points(legend.get_texts()[0])


def _room(ax: Axes) -> float:
    """Measure the width of the axes before their layout, in heights of their font."""
    return 72 * ax.get_window_extent().width / ax.figure.dpi / _points(ax.xaxis.label)


def _points(text: Text) -> float:
    return float(text.get_fontsize())


def _missing(expected: str, hint: str) -> InputError:
    return InputError(expected=expected, got="results without them", hint=hint)
