"""The values of each figure of a report, ready to draw or to test: dictionaries of results in, frozen records out.

Every panel also gives its values as ``columns``, the table behind the figure.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aradals.report.view import (
    CLEAN,
    NOISE_FLOORS,
    Condition,
    Measure,
    diagnosis_results,
    difference,
    main_methods,
    measure,
    num_subsets,
    number,
    reference,
    row_interval,
    seeds_of,
    share_interval,
    shift_conditions,
    subset_name,
    variants,
)
from aradals.results.names import Results, Variant

Values = list[float]
Columns = dict[str, list[Any]]

MAX_CLASSES = 15
MAX_LABEL = 24
MAX_TITLE = 48

COMPARED = {
    "ece": "ECE",
    "subset_calibration_error": "subset calibration error",
    "accuracy": "accuracy",
}
"""What methods are set side by side by."""

PLACES = {"clean": "clean", "all_shifts": "under shift"}


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
    def columns(self) -> Columns:
        """One row per subset."""
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
        """One row per bin."""
        return _lists(self)


@dataclass(frozen=True)
class TargetPanel:
    """The course of the targets of one method: ``target_prob[r][i]`` held from ``epochs[i]`` on."""

    title: str
    epochs: list[int]
    target_prob: list[Values]
    lower_bound: float

    @property
    def columns(self) -> Columns:
        """One row per update, one column per subset."""
        return {"epoch": self.epochs, **{f"subset {r}": course for r, course in enumerate(self.target_prob)}}


@dataclass(frozen=True)
class DotSeries:
    """One kind of mark in a dot plot; lists over its rows, NaN where there is none."""

    name: str
    values: Values
    low: Values
    high: Values
    noise_floor: Values


@dataclass(frozen=True)
class DotPanel:
    """A quantity, one row per method or class; ``signed``: differences, with a line at zero."""

    title: str
    quantity: str
    rows: list[str]
    series: list[DotSeries]
    signed: bool = False

    @property
    def columns(self) -> Columns:
        """One row per mark."""
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
        """One row per condition."""
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
        """One row per class."""
        return _lists(self)


def prepare_subsets(results: Results, shown: Iterable[Variant] | None = None) -> list[SubsetPanel]:
    """One panel per variant (all, or those ``shown``), on clean data; means over seeds."""
    subsets = range(num_subsets(results))
    panels = []
    for variant in (shown if shown is not None else variants(results)) if subsets else []:
        columns: dict[str, Values] = {}
        for key in ("confidence", "accuracy", "ece"):
            found = [measure(results, variant, key, subset=subset) for subset in subsets]
            columns |= {
                key: [each.value for each in found],
                f"{key}_low": [each.low for each in found],
                f"{key}_high": [each.high for each in found],
            }
        floor = [measure(results, variant, "ece_noise_floor", subset=subset).value for subset in subsets]
        panels.append(SubsetPanel(title=shorten(variant.label, MAX_TITLE), noise_floor=floor, **columns))
    return panels


def prepare_reliability(results: Results, shown: Iterable[Variant] | None = None) -> list[ReliabilityPanel]:
    """One panel per variant, on clean data, of its first seed (bins of several seeds share their examples)."""
    panels = []
    for variant in shown if shown is not None else variants(results):
        own = [
            entry
            for entry in results.get("reliability", [])
            if (entry["method"], entry["calibrator"]) == (variant.method, variant.calibrator)
            and (entry["corruption"], entry["severity"]) == CLEAN
            and entry.get("subset") is None
        ]
        panels += [
            reliability_panel(f"{variant.label}{_other_seed(results, entry['seed'])}", entry["bins"])
            for entry in own
            if entry["seed"] == own[0]["seed"]
        ]
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
    return ReliabilityPanel(
        shorten(title, MAX_TITLE), **{key: [number(each.get(key)) for each in bins] for key in keys}
    )


def prepare_targets(results: Results) -> dict[str, TargetPanel]:
    """One panel per method whose targets were updated, of its first seed."""
    lower_bound = 1 / results["data"]["num_classes"]
    panels: dict[str, TargetPanel] = {}
    for training in results.get("training", []):
        method, updates, settings = training["method"], training.get("updates") or [], training.get("settings", {})
        if method in panels or not updates or settings.get("update_rate") == 0:
            continue
        every = settings.get("update_every") or 1
        course = [update["target_prob"] for update in updates] + [training["target_prob"]]
        panels[method] = TargetPanel(
            title=shorten(f"{Variant(method).label}{_other_seed(results, training['seed'])}", MAX_TITLE),
            epochs=[index * every for index in range(len(course))],
            target_prob=[[number(value) for value in subset] for subset in zip(*course, strict=True)],
            lower_bound=lower_bound,
        )
    return panels


def prepare_methods(results: Results, methods: Sequence[str] | None = None) -> list[DotPanel]:
    """Methods (by default the main ones) side by side, without and with each calibrator, clean and under shift."""
    found = variants(results)
    rows = main_methods(results) if methods is None else list(methods)
    panels = []
    for key, name in COMPARED.items():
        for place, conditions in places(results).items():
            series = []
            for calibrator in dict.fromkeys(variant.calibrator for variant in found):
                shown = [Variant(method, calibrator) for method in rows]
                values = [measure(results, variant, key, conditions=conditions) for variant in shown]
                floor = NOISE_FLOORS.get(key)
                floors = [measure(results, v, floor, conditions=conditions).value if floor else math.nan for v in shown]
                series.append(_series(Variant("", calibrator).treatment, values, floors))
            panels.append(_dots(f"{name}, {place}", name, rows, series))
    return [panel for panel in panels if panel.rows]


def prepare_differences(results: Results, methods: Sequence[str] | None = None) -> list[DotPanel]:
    """Paired differences from the reference with the same calibrator; empty where results hold none."""
    first, found = reference(results).method, variants(results)
    rows = [name for name in (main_methods(results) if methods is None else methods) if name != first]
    panels = []
    for key, name in COMPARED.items():
        for place, conditions in places(results).items():
            series = []
            for calibrator in dict.fromkeys(variant.calibrator for variant in found):
                pairs = [(Variant(method, calibrator), Variant(first, calibrator)) for method in rows]
                values = [difference(results, *pair, key, conditions) or Measure(math.nan) for pair in pairs]
                series.append(_series(Variant("", calibrator).treatment, values))
            panels.append(_dots(f"{name}, {place}", name, rows, series, signed=True))
    return [panel for panel in panels if panel.rows]


def prepare_stability(results: Results) -> list[DotPanel]:
    """Prediction variance of each method: over the seeds where there are several, over the members of ensembles."""
    panels = []
    for models, over in (("seeds", "seeds"), ("members", "ensemble members")):
        by_method: dict[str, list[Mapping[str, Any]]] = {}
        for row in results.get("stability", []):
            if row["subset"] is None and row["models"] == models:
                by_method.setdefault(row["method"], []).append(row)
        rows = list(by_method)
        series = [
            _series(name, [_mean([row_interval(row, key) for row in by_method[method]]) for method in rows])
            for name, key in (
                ("as trained", "prediction_variance"),
                ("at equal mean confidence", "matched_prediction_variance"),
            )
        ]
        panels.append(_dots(f"prediction variance over {over}", "prediction variance", rows, series))
    return [panel for panel in panels if panel.rows]


def prepare_boxes(results: Results, shown: Iterable[Variant]) -> list[BoxPanel]:
    """ECE by severity over the corruption types, severity 0 being clean data; one panel per variant, if any."""
    shifts = shift_conditions(results)
    severities = sorted({severity for _, severity in shifts})
    panels = []
    for variant in shown if len(shifts) > 1 else []:
        types: list[list[str]] = []
        values: list[Values] = []
        for severity in [0, *severities]:
            conditions = [CLEAN] if severity == 0 else [shift for shift in shifts if shift[1] == severity]
            found = {name: measure(results, variant, "ece", conditions=[(name, severity)]) for name, _ in conditions}
            known = {name: each.value for name, each in found.items() if each.known}
            types.append(["clean" if name == "none" else name.replace("_", " ") for name in known])
            values.append(list(known.values()))
        panels.append(BoxPanel(shorten(variant.label, MAX_TITLE), "ECE", [0, *severities], types, values))
    return [panel for panel in panels if any(panel.values)]


def prepare_by_class(rows: Sequence[Mapping[str, Any]]) -> DotPanel | None:
    """Accuracy and confidence of one variant by class, the largest gap first; None without any."""
    ordered = sorted(rows, key=lambda row: -abs(number(row["confidence"]) - number(row["accuracy"])))[:MAX_CLASSES]
    if not ordered:
        return None
    series = [_series(key, [Measure(*row_interval(row, key)) for row in ordered]) for key in ("accuracy", "confidence")]
    return DotPanel("by class", "fraction", [shorten(str(row["name"])) for row in ordered], series)


def prepare_diagnosis_subsets(diagnosis: Results) -> list[SubsetPanel]:
    """Make the one panel of a diagnosis."""
    return prepare_subsets(diagnosis_results(diagnosis))


def prepare_classes(diagnosis: Results) -> ClassPanel | None:
    """List the largest classes of the least robust subset; None if there are none."""
    rows = diagnosis.get("least_robust_classes", [])[:MAX_CLASSES]
    if not rows:
        return None
    intervals = [share_interval(row) for row in rows]
    return ClassPanel(
        title="classes of the least robust subset",
        names=[shorten(str(row["name"])) for row in rows],
        share=[number(row["share"]) for row in rows],
        share_low=[low for low, _ in intervals],
        share_high=[high for _, high in intervals],
        base_share=[number(row["base_share"]) for row in rows],
    )


def places(results: Results) -> dict[str, list[Condition]]:
    """Clean data, and all shifted conditions where there are any."""
    shifts = shift_conditions(results)
    return {"clean": [CLEAN], **({"under shift": shifts} if shifts else {})}


def shorten(text: str, limit: int = MAX_LABEL) -> str:
    """Text for a figure: shortened in the middle, since names often differ at the end; no characters XML forbids."""
    text = "".join(character if character.isprintable() else " " for character in text)
    return text if len(text) <= limit else f"{text[: limit - limit // 2 - 1]}…{text[-(limit // 2) :]}"


def _other_seed(results: Results, seed: int) -> str:
    """Named in a title where it is not the first of the study: a run at that one failed."""
    return "" if seed in seeds_of(results)[:1] else f", seed {seed}"


def _series(name: str, values: Sequence[Measure], floors: Sequence[float] = ()) -> DotSeries:
    floors = floors or [math.nan] * len(values)
    return DotSeries(name, [v.value for v in values], [v.low for v in values], [v.high for v in values], list(floors))


def _dots(
    title: str, quantity: str, methods: Sequence[str], series: list[DotSeries], *, signed: bool = False
) -> DotPanel:
    """Without the rows and series that nothing is known of."""
    series = [each for each in series if any(map(math.isfinite, each.values))]
    kept = [row for row in range(len(methods)) if any(math.isfinite(each.values[row]) for each in series)]
    lists = [
        [[column[row] for row in kept] for column in (each.values, each.low, each.high, each.noise_floor)]
        for each in series
    ]
    return DotPanel(
        title,
        quantity,
        [shorten(Variant(methods[row]).label) for row in kept],
        [DotSeries(each.name, *columns) for each, columns in zip(series, lists, strict=True)],
        signed,
    )


def _mean(intervals: Sequence[tuple[float, float, float]]) -> Measure:
    """Of several seeds of one ensemble, with the mean of their intervals."""
    value, low, high = map(statistics.fmean, zip(*intervals, strict=True))
    return Measure(value, low, high)


def _lists(panel: object) -> Columns:
    return {name: value for name, value in vars(panel).items() if isinstance(value, list)}
