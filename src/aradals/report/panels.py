"""The values of each figure, ready to draw or to test: results in, frozen panels out.

Every panel also gives its values as ``columns``, the table behind the figure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from aradals.report.view import (
    PLACES,
    label,
    main_methods,
    metric_name,
    reference,
    share_interval,
    subset_name,
    treatment,
)
from aradals.results.aggregate import difference, mean_of, measure, places
from aradals.results.records import (
    CLEAN,
    Bin,
    ClassRow,
    Measure,
    Metric,
    Place,
    Reliability,
    Results,
    Stability,
    Variant,
)

Values = list[float]
Columns = dict[str, list[Any]]

MAX_CLASSES = 15
MAX_LABEL = 24
MAX_TITLE = 48

COMPARED: tuple[Metric, ...] = ("ece", "subset_calibration_error", "accuracy")
"""The metrics by which methods are shown side by side."""

NOISE_FLOORS: dict[Metric, Metric] = {
    "ece": "ece_noise_floor",
    "subset_calibration_error": "subset_noise_floor",
}
"""Calibration error -> the metric with the error that a perfectly calibrated model would show."""


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

    @property
    def gap(self) -> Values:
        """Confidence minus accuracy."""
        return [c - a for c, a in zip(self.confidence, self.accuracy, strict=True)]

    @property
    def columns(self) -> Columns:
        """One row for each subset."""
        return {"subset": list(range(len(self.ece))), **_lists(self)}


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

    @property
    def columns(self) -> Columns:
        """One row for each bin."""
        return _lists(self)


@dataclass(frozen=True)
class TargetPanel:
    """The course of the targets of one method: ``target_prob[r][i]`` is valid from ``epochs[i]`` on."""

    title: str
    epochs: list[int]
    target_prob: list[Values]
    lower_bound: float

    @property
    def near_bound(self) -> bool:
        """True if a target came close to its lower bound 1/K."""
        return any(value < self.lower_bound + 0.1 for course in self.target_prob for value in course)

    @property
    def columns(self) -> Columns:
        """One row for each update, one column for each subset."""
        return {"epoch": self.epochs, **{f"subset {r}": course for r, course in enumerate(self.target_prob)}}


@dataclass(frozen=True)
class DotSeries:
    """One kind of mark in a dot plot; lists over the rows of the plot, NaN in rows without a mark."""

    name: str
    values: Values
    low: Values
    high: Values
    noise_floor: Values


@dataclass(frozen=True)
class DotPanel:
    """A quantity with one row for each method or class; ``signed`` marks differences, with a line at zero."""

    title: str
    quantity: str
    rows: list[str]
    series: list[DotSeries]
    signed: bool = False

    @property
    def columns(self) -> Columns:
        """One row for each mark."""
        marks = [
            (name, series.name, *values)
            for series in self.series
            for name, *values in zip(self.rows, series.values, series.low, series.high, series.noise_floor, strict=True)
            if math.isfinite(values[0])
        ]
        names = ("row", "mark", self.quantity, "low", "high", "noise floor")
        return dict(zip(names, map(list, zip(*marks, strict=True)), strict=False))


@dataclass(frozen=True)
class BoxPanel:
    """A calibration error of one variant by severity: ``values[i]`` over the corruption types ``types[i]``."""

    title: str
    quantity: str
    severities: list[int]
    types: list[list[str]]
    values: list[Values]

    @property
    def columns(self) -> Columns:
        """One row for each condition."""
        rows = [
            (severity, name, value)
            for severity, names, values in zip(self.severities, self.types, self.values, strict=True)
            for name, value in zip(names, values, strict=True)
        ]
        return dict(zip(("severity", "corruption", self.quantity), map(list, zip(*rows, strict=True)), strict=False))


@dataclass(frozen=True)
class ClassPanel:
    """Classes by their share of the least robust subset, largest first."""

    title: str
    names: list[str]
    share: Values
    share_low: Values
    share_high: Values
    base_share: Values

    @property
    def columns(self) -> Columns:
        """One row for each class."""
        return _lists(self)


def prepare_subsets(results: Results, shown: Iterable[Variant]) -> list[SubsetPanel]:
    """Make one panel for each variant, on clean data, with means over seeds."""
    subsets = range(results.num_subsets)
    return [_subset_panel(results, variant, subsets) for variant in (shown if subsets else [])]


def _subset_panel(results: Results, variant: Variant, subsets: range) -> SubsetPanel:
    confidence, accuracy, ece, floor = (
        [measure(results, variant, metric, subset=subset) for subset in subsets]
        for metric in ("confidence", "accuracy", "ece", "ece_noise_floor")
    )
    return SubsetPanel(
        shorten(label(results, variant), MAX_TITLE),
        *_columns(confidence),
        *_columns(accuracy),
        *_columns(ece),
        [each.value for each in floor],
    )


def prepare_reliability(results: Results, shown: Iterable[Variant]) -> list[ReliabilityPanel]:
    """Make one panel for each variant, on clean data, of its first seed (bins of several seeds share examples)."""
    panels = []
    for variant in shown:
        own = [each for each in _clean_diagrams(results) if each.variant == variant and each.subset is None]
        panels += [
            reliability_panel(f"{label(results, variant)}{_other_seed(results, each.seed)}", each.bins)
            for each in own[:1]
        ]
    return panels


def prepare_subset_reliability(results: Results) -> list[ReliabilityPanel]:
    """Make the panel of all examples, then one of each robustness subset that has a diagram."""
    return [
        reliability_panel(
            "all examples" if each.subset is None else subset_name(each.subset, results.num_subsets), each.bins
        )
        for each in _clean_diagrams(results)
    ]


def _clean_diagrams(results: Results) -> list[Reliability]:
    return [each for each in results.reliability if each.condition == CLEAN]


def reliability_panel(title: str, bins: Sequence[Bin]) -> ReliabilityPanel:
    """Turn bins into columns."""
    columns = {field.name: [float(getattr(each, field.name)) for each in bins] for field in fields(Bin)}
    return ReliabilityPanel(shorten(title, MAX_TITLE), **columns)


def prepare_targets(results: Results) -> dict[str, TargetPanel]:
    """Make one panel for each method whose targets were updated, of its first seed."""
    panels: dict[str, TargetPanel] = {}
    for run in results.training:
        if run.method in panels or not run.updates or run.update_rate == 0:
            continue
        course = [*(update.target_prob for update in run.updates), run.target_prob]
        panels[run.method] = TargetPanel(
            title=shorten(f"{results.method(run.method).label}{_other_seed(results, run.seed)}", MAX_TITLE),
            epochs=[index * run.update_every for index in range(len(course))],
            target_prob=[[math.nan if x is None else x for x in subset] for subset in zip(*course, strict=True)],
            lower_bound=1 / results.data.num_classes,
        )
    return panels


def prepare_methods(results: Results, methods: Sequence[str] | None = None) -> list[DotPanel]:
    """Compare methods (by default the main ones) side by side, clean and under shift."""
    panels = [methods_panel(results, metric, place, methods) for metric in COMPARED for place in places(results)]
    return [panel for panel in panels if panel.rows]


def methods_panel(results: Results, metric: Metric, place: Place, methods: Sequence[str] | None = None) -> DotPanel:
    """Compare methods by one metric in one place, without and with each calibrator."""
    rows = main_methods(results) if methods is None else list(methods)
    conditions, floor = places(results)[place], NOISE_FLOORS.get(metric)
    series = []
    for calibrator in dict.fromkeys(variant.calibrator for variant in results.variants):
        shown = [Variant(method, calibrator) for method in rows]
        own = [measure(results, variant, metric, conditions=conditions) for variant in shown]
        floors = [measure(results, variant, floor, conditions=conditions).value for variant in shown] if floor else ()
        series.append(_series(treatment(calibrator), own, floors))
    name = metric_name(metric)
    return _dots(f"{name}, {PLACES[place]}", name, _labels(results, rows), series)


def prepare_differences(results: Results, methods: Sequence[str] | None = None) -> list[DotPanel]:
    """Make panels of paired differences from the reference with the same calibrator; empty if there are none."""
    first = reference(results).method
    rows = [name for name in (main_methods(results) if methods is None else methods) if name != first]
    panels = []
    for metric in COMPARED:
        for place in places(results):
            series = [
                _series(
                    treatment(calibrator),
                    [
                        difference(results, Variant(method, calibrator), Variant(first, calibrator), metric, place)
                        for method in rows
                    ],
                )
                for calibrator in dict.fromkeys(variant.calibrator for variant in results.variants)
            ]
            name = metric_name(metric)
            panels.append(_dots(f"{name}, {PLACES[place]}", name, _labels(results, rows), series, signed=True))
    return [panel for panel in panels if panel.rows]


def prepare_stability(results: Results) -> list[DotPanel]:
    """Make panels of each method's prediction variance: over several seeds, or over the members of an ensemble."""
    panels = []
    kinds: dict[str, Callable[[Stability], Measure]] = {
        "as trained": lambda row: row.prediction_variance,
        "at equal mean confidence": lambda row: row.matched_prediction_variance,
    }
    for models, over in (("seeds", "seeds"), ("members", "ensemble members")):
        by_method: dict[str, list[Stability]] = {}
        for row in results.stability:
            if row.subset is None and row.models == models:
                by_method.setdefault(row.method, []).append(row)
        series = [
            _series(name, [mean_of([get(row) for row in rows]) for rows in by_method.values()])
            for name, get in kinds.items()
        ]
        title = f"prediction variance over {over}"
        panels.append(_dots(title, "prediction variance", _labels(results, list(by_method)), series))
    return [panel for panel in panels if panel.rows]


def prepare_boxes(results: Results, shown: Iterable[Variant]) -> list[BoxPanel]:
    """Make one panel of ECE by severity for each variant; severity 0 is clean data; empty if there are no shifts."""
    severities = [0, *sorted({shift.severity for shift in results.shifts})]
    panels = []
    for variant in shown if len(results.shifts) > 1 else []:
        types: list[list[str]] = []
        values: list[Values] = []
        for severity in severities:
            conditions = [each for each in (CLEAN, *results.shifts) if each.severity == severity]
            found = {each: measure(results, variant, "ece", conditions=[each]) for each in conditions}
            known = {each: error.value for each, error in found.items() if error.known}
            types.append(["clean" if each.is_clean else each.corruption.replace("_", " ") for each in known])
            values.append(list(known.values()))
        panels.append(BoxPanel(shorten(label(results, variant), MAX_TITLE), "ECE", severities, types, values))
    return [panel for panel in panels if any(panel.values)]


def prepare_by_class(rows: Sequence[ClassRow], title: str) -> DotPanel | None:
    """Make the panel of accuracy and confidence by class, the largest gap first; None if there are no classes."""
    ordered = sorted(rows, key=lambda row: -abs(row["gap"].value))[:MAX_CLASSES]
    if not ordered:
        return None
    metrics: tuple[Metric, ...] = ("accuracy", "confidence")
    series = [_series(metric, [row[metric] for row in ordered]) for metric in metrics]
    return DotPanel(shorten(title, MAX_TITLE), "fraction", [shorten(row.name) for row in ordered], series)


def prepare_classes(results: Results) -> ClassPanel | None:
    """List the largest classes of the least robust subset; None if there are none."""
    rows = results.least_robust_classes[:MAX_CLASSES]
    if not rows:
        return None
    intervals = [share_interval(row) for row in rows]
    return ClassPanel(
        title="classes of the least robust subset",
        names=[shorten(row.name) for row in rows],
        share=[row.share for row in rows],
        share_low=[low for low, _ in intervals],
        share_high=[high for _, high in intervals],
        base_share=[row.base_share for row in rows],
    )


def shorten(text: str, limit: int = MAX_LABEL) -> str:
    """Shorten text for a figure in the middle, because names often differ at the end; drop characters XML forbids."""
    text = "".join(character if character.isprintable() else " " for character in text)
    return text if len(text) <= limit else f"{text[: limit - limit // 2 - 1]}…{text[-(limit // 2) :]}"


def _labels(results: Results, methods: Sequence[str]) -> list[str]:
    return [results.method(name).label for name in methods]


def _other_seed(results: Results, seed: int) -> str:
    """Write the seed in a title if it is not the first of the study, because a run at the first seed failed."""
    return "" if seed in results.seeds[:1] else f", seed {seed}"


def _columns(measures: Sequence[Measure]) -> tuple[Values, Values, Values]:
    """Return the values, the lower and the upper ends."""
    return [m.value for m in measures], [m.low for m in measures], [m.high for m in measures]


def _series(name: str, values: Sequence[Measure], floors: Sequence[float] = ()) -> DotSeries:
    return DotSeries(name, *_columns(values), list(floors or [math.nan] * len(values)))


def _dots(
    title: str, quantity: str, labels: Sequence[str], series: list[DotSeries], *, signed: bool = False
) -> DotPanel:
    """Leave out rows and series without known values."""
    series = [each for each in series if any(map(math.isfinite, each.values))]
    kept = [row for row in range(len(labels)) if any(math.isfinite(each.values[row]) for each in series)]
    lists = [
        [[column[row] for row in kept] for column in (each.values, each.low, each.high, each.noise_floor)]
        for each in series
    ]
    return DotPanel(
        title,
        quantity,
        [shorten(labels[row]) for row in kept],
        [DotSeries(each.name, *columns) for each, columns in zip(series, lists, strict=True)],
        signed,
    )


def _lists(panel: object) -> Columns:
    return {name: value for name, value in vars(panel).items() if isinstance(value, list)}
