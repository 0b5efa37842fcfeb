"""The tables of a report: the same cells for the terminal, for HTML and for notebooks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from aradals.report.view import (
    TWO_SEEDS,
    label,
    metric_name,
    places_by_name,
    reference,
    shift_mean,
    short_label,
    shown_variants,
    subset_name,
    threshold_text,
    treatment,
)
from aradals.results.aggregate import MIN_SEEDS, NOISE_LIMITS, difference, measure, places, relation, relative_cost
from aradals.results.records import (
    CLEAN,
    METRICS,
    ClassRow,
    Condition,
    Measure,
    Metric,
    Place,
    Results,
    Threshold,
    Variant,
)

COMPARISONS: dict[Metric, str] = {
    "ece": "ECE",
    "subset_calibration_error": "subset cal. error",
    "accuracy": "accuracy, points",
    "nll": "NLL",
    "brier": "Brier score",
    "aurc": "AURC",
}
MODEL_COLUMNS = ("examples", "gap, points", "ECE", "noise floor", "accuracy %", "confidence %", "n")
CLASS_COLUMNS = ("class", *MODEL_COLUMNS[1:])

FULL_SHADE = 0.2
"""The gap or calibration error that gets the full color."""

HIGHER_IS_BETTER: tuple[Metric, ...] = ("accuracy", "ood_auroc")


@dataclass(frozen=True)
class Cell:
    """One cell of a table: a value as text.

    Attributes:
        text: the value.
        note: the uncertainty of the value.
        shade: from -1, the color of underconfidence, to 1, the color of overconfidence.
        change: "better" or "worse" if the value differs significantly from the reference's.
        rises: True if the value is significantly higher than the reference's.
    """

    text: str
    note: str = ""
    shade: float = 0.0
    change: Literal["", "better", "worse"] = ""
    rises: bool = False

    @property
    def marked(self) -> str:
        """The text, with an arrow if the value differs significantly from the reference's."""
        return f"{self.text} {'▲' if self.rises else '▼'}" if self.change else self.text


@dataclass(frozen=True)
class TableBlock:
    """Rows under a common title; the first cell of a row is its name."""

    title: str
    columns: tuple[str, ...]
    rows: list[list[Cell]]


BATCHES = "A batch temperature takes all examples of one condition for one batch, without their labels."


def main_table(results: Results, shown: Sequence[Variant] | None = None) -> TableBlock:
    """Make the main table: the variants of a study side by side, or the robustness subsets of a single model."""
    return _subsets_of_one(results) if len(results.variants) == 1 else methods_table(results, shown)


def main_table_note(results: Results) -> str:
    """Explain the numbers of `main_table`."""
    seeds = f" over {len(results.seeds)} seeds and the test examples" if len(results.seeds) > 1 else ""
    words = [
        TWO_SEEDS if len(results.seeds) == 2 else f"Below each estimate is its 95 % interval{seeds}.",
        "The noise floor is the error that a perfectly calibrated model would show, ≤ its 95th percentile.",
        "Calibration errors are fractions (0.01 = 1 point).",
    ]
    if any(row["ece"].known and not row["ece"].has_interval for row in results.rows):
        words.append("No interval: too few examples, or too few right or wrong ones.")
    if len(results.variants) == 1:
        words.append("The gap is confidence minus accuracy: + is overconfident.")
        words += _binary_error(results)
        words += ["Subset 0 is the least robust."] if results.num_subsets else []
        return " ".join(words)
    name = label(results, reference(results))
    if len(results.seeds) != 2:
        paired = "the 95 % interval of the paired difference excludes zero"
        reason = paired if results.comparisons else "the 95 % intervals of the two do not overlap"
        words.append(f"▼ and ▲: significantly lower and higher than {name}, because {reason}.")
    if results.shifts:
        words.append(f"Shift: {shift_mean(results)}.")
    words += ["Cost is a multiple of plain training."] if results.costs else []
    calibrators = {variant.calibrator for variant in results.variants}
    words += ["+ T: with temperature scaling."] if "temperature" in calibrators else []
    words += [BATCHES] if "batch_temperature" in calibrators else []
    if rest := len(results.variants) - len(shown_variants(results)):
        words.append(f"All numbers in the report has {rest} more variants.")
    if results.failed:
        failed = [f"{results.method(run.method).label} (seed {run.seed})" for run in results.failed]
        words.append(f"Failed, and not in the table: {', '.join(failed)}.")
    return " ".join(words)


def _binary_error(results: Results) -> list[str]:
    """Name the error of the probability of class 1, which the ECE of the predicted class does not show."""
    error = measure(results, results.variants[0], "binary_ece")
    return [f"The binary ECE, of the probability of class 1, is {error.value:.3f}."] if error.known else []


def methods_table(results: Results, shown: Sequence[Variant] | None = None) -> TableBlock:
    """Compare variants, clean and under shift, with marks at values that differ significantly from the reference."""
    first = reference(results)
    columns: list[tuple[str, Metric, Place]] = [("accuracy %", "accuracy", "clean"), ("ECE", "ece", "clean")]
    columns += [("noise floor", "ece_noise_floor", "clean")]
    columns += [("binary ECE", "binary_ece", "clean")] if results.data.num_classes == 2 else []
    columns += [("subset cal. error", "subset_calibration_error", "clean")] if results.num_subsets else []
    columns += [("NLL", "nll", "clean")]
    columns += [("ECE under shift", "ece", "all_shifts")] if results.shifts else []
    has_costs = any(math.isfinite(relative_cost(results, variant.method)) for variant in results.variants)
    rows = []
    for variant in shown_variants(results) if shown is None else shown:
        cells = [_compared(results, variant, first, metric, place) for _, metric, place in columns]
        rows.append([Cell(short_label(results, variant)), *cells, *([_cost(results, variant)] if has_costs else [])])
    titles = ("method", *(title for title, _, _ in columns), *(("cost",) if has_costs else ()))
    return TableBlock(f"methods, n = {results.num_examples:,}", titles, rows)


def place_tables(results: Results, shown: Sequence[Variant]) -> list[TableBlock]:
    """Show accuracy, confidence and errors of variants on clean data, and as the mean over shifts."""
    columns = ("method", "ECE", "noise floor", "subset cal. error", "accuracy %", "confidence %", "NLL")
    metrics: tuple[Metric, ...] = (
        "ece",
        "ece_noise_floor",
        "subset_calibration_error",
        "accuracy",
        "confidence",
        "nll",
    )
    return [
        TableBlock(
            title if title == "clean" else f"{title} ({shift_mean(results)})",
            columns,
            [
                [Cell(short_label(results, v)), *(_metric_cell(results, v, m, conditions) for m in metrics)]
                for v in shown
            ],
        )
        for title, conditions in places_by_name(results).items()
    ]


def gap_rows(results: Results, shown: Sequence[Variant]) -> TableBlock:
    """Show confidence minus accuracy in points by robustness subset, on clean data."""
    columns = ("method", "all", *(str(subset) for subset in range(results.num_subsets)))
    rows = []
    for variant in shown:
        gaps = [measure(results, variant, "gap", subset=subset) for subset in (None, *range(results.num_subsets))]
        cells = [_shaded(percent(gap, signed=True), gap.value) for gap in gaps]
        rows.append([Cell(short_label(results, variant)), *cells])
    return TableBlock("gap by robustness subset, points (0 = least robust)", columns, rows)


def corruption_rows(results: Results, shown: Sequence[Variant]) -> TableBlock:
    """Show the ECE by corruption type, as the mean over its severities, beside clean data and the mean over all."""
    names = dict.fromkeys(shift.corruption for shift in results.shifts)
    groups = [tuple(shift for shift in results.shifts if shift.corruption == name) for name in names]
    columns = ("method", "clean", "all types", *(name.replace("_", " ") for name in names))
    rows = []
    for variant in shown:
        errors = [measure(results, variant, "ece", conditions=group) for group in ((CLEAN,), results.shifts, *groups)]
        cells = [_shaded(fraction(error), error.value) for error in errors]
        rows.append([Cell(short_label(results, variant)), *cells])
    return TableBlock("ECE by corruption, mean over severities", columns, rows)


def severity_rows(results: Results, shown: Sequence[Variant]) -> list[TableBlock]:
    """Make a table for each corruption type: ECE at each severity, then mean ECE, subset error and accuracy."""
    blocks = []
    averaged: tuple[Metric, ...] = ("ece", "subset_calibration_error", "accuracy")
    for corruption in dict.fromkeys(shift.corruption for shift in results.shifts):
        conditions = sorted(shift for shift in results.shifts if shift.corruption == corruption)
        rows = []
        for variant in shown:
            errors = [measure(results, variant, "ece", conditions=[condition]) for condition in conditions]
            cells = [_shaded(fraction(error), error.value) for error in errors]
            cells += [_metric_cell(results, variant, metric, conditions) for metric in averaged]
            rows.append([Cell(short_label(results, variant)), *cells])
        columns = ("method", *(f"ECE at {condition.severity}" for condition in conditions))
        columns += ("mean ECE", "subset cal. error", "accuracy %")
        blocks.append(TableBlock(corruption.replace("_", " "), columns, rows))
    return blocks


def metric_rows(results: Results, shown: Sequence[Variant]) -> list[TableBlock]:
    """Show every metric of the rows in a column, with three digits, clean and as the mean over shifts."""
    found = {metric for row in results.rows if row.subset is None for metric in row.metrics if row[metric].known}
    metrics = [metric for metric in METRICS if metric in found]
    columns = ("method", *map(metric_name, metrics))
    titles = {"clean": "all metrics, clean", "under shift": "all metrics, mean under shift"}
    return [
        TableBlock(
            titles[name],
            columns,
            [
                [
                    Cell(short_label(results, variant)),
                    *(fraction(measure(results, variant, metric, conditions=conditions)) for metric in metrics),
                ]
                for variant in shown
            ],
        )
        for name, conditions in places_by_name(results).items()
    ]


def ood_table(results: Results) -> TableBlock:
    """Show how well the confidence distinguishes other data from the evaluated data."""
    against = Variant(results.reference)
    rows = [
        [
            Cell(short_label(results, variant)),
            fraction(auroc),
            _difference(results, variant, against, "ood_auroc", "clean"),
        ]
        for variant in results.variants
        if (auroc := measure(results, variant, "ood_auroc")).known
    ]
    names = ", ".join(f"{name}, n = {count:,}" for name, count in results.data.ood.items())
    columns = ("method", "AUROC", f"minus {short_label(results, against)}")
    return TableBlock(f"confidence on other data ({names})", columns, rows)


def class_rows_table(rows: Sequence[ClassRow], title: str) -> TableBlock:
    """Show the classes with the gap between confidence and accuracy."""
    return TableBlock(title, CLASS_COLUMNS, [[Cell(row.name), *_model_cells(row.__getitem__, row.n)] for row in rows])


def share_table(results: Results) -> TableBlock:
    """List the classes of the least robust subset."""
    rows = [
        [
            Cell(row.name),
            Cell(f"{row.n:,}"),
            *(percent(Measure(value)) for value in (row.share, row.base_share, row.accuracy, row.confidence)),
        ]
        for row in results.least_robust_classes
    ]
    columns = ("class", "n", "share %", "share of all %", "accuracy %", "confidence %")
    return TableBlock("classes of the least robust subset", columns, rows)


def comparison_rows(results: Results) -> list[TableBlock]:
    """Show every variant minus the reference with the same calibrator: clean, then the mean over shifts.

    A calibrator of the reference is compared with the reference as trained. The note of a cell is the 95 % interval of
    the difference. For three seeds or more, the note also has p of the paired t test over seeds after Holm's
    correction.
    """
    titles: dict[Place, str] = {"clean": "clean", "all_shifts": f"shift ({shift_mean(results)})"}
    blocks = []
    for place in places(results):
        rows = []
        for variant in results.variants:
            same = Variant(results.reference, variant.calibrator)
            against = same if variant != same else Variant(results.reference)
            cells = [_difference(results, variant, against, metric, place) for metric in COMPARISONS]
            if any(cell.text != "–" for cell in cells):
                rows.append([Cell(short_label(results, variant)), *cells, _cost(results, variant)])
        if rows:
            blocks.append(TableBlock(titles[place], ("method", *COMPARISONS.values(), "cost"), rows))
    return blocks


def comparison_note(results: Results) -> str:
    """Explain the numbers of `comparison_rows`."""
    seeds, name = len(results.seeds), results.method(results.reference).label
    over = "the test examples" if seeds == 1 else f"{seeds} seeds and the test examples"
    tests = "; p: paired t test over seeds, after Holm's correction" if seeds >= MIN_SEEDS else ""
    intervals = (
        f"Below it is its 95 % interval, by bootstrap over {over}{tests}. Intervals of calibration errors allow for "
        "their bias, so that the difference may be outside."
    )
    return (
        f"Each variant minus {name} with the same calibrator, and {name} with a calibrator minus {name} as trained; "
        "negative is lower. "
        f"{TWO_SEEDS if seeds == 2 else intervals} Cost: seconds of training, of models that only score, and of their "
        "scoring, as a multiple of plain training."
    )


def stability_rows(results: Results) -> TableBlock:
    """Show the disagreement of independently trained models on the same examples."""
    rows = [
        [
            Cell(results.method(row.method).label),
            *(cell(each, ".4f") for each in (row.prediction_variance, row.matched_prediction_variance)),
            percent(row.disagreement),
            Cell(f"{row.num_models} {row.models}"),
        ]
        for row in results.stability
        if row.subset is None
    ]
    columns = ("method", "prediction variance", "at equal confidence", "disagreement %", "models")
    return TableBlock("stability, clean", columns, rows)


def failed_rows(results: Results) -> TableBlock:
    """List the runs of a study that have no results, with the reasons."""
    rows = [[Cell(results.method(run.method).label), Cell(str(run.seed)), Cell(run.reason)] for run in results.failed]
    return TableBlock("failed runs", ("method", "seed", "reason"), rows)


THRESHOLD_COLUMNS = ("error at most", "accept from", "accepted %", "n", "wrong among them %")


def threshold_rows(results: Results, *, by_subset: bool = False) -> TableBlock:
    """Show the confidence thresholds for accepting predictions, and the share of errors above them with its bound."""
    shown = [row for row in results.thresholds if (row.subset is not None) == by_subset]
    several = len({row.calibrator for row in shown}) > 1
    rows = []
    for row in shown:
        cells = [Cell(f"{100 * row.max_error:g} %"), *_threshold_cells(row)]
        subset = [] if row.subset is None else [Cell(subset_name(row.subset, results.num_subsets))]
        rows.append([*([Cell(treatment(row.calibrator))] if several else []), *subset, *cells])
    columns = [*(["calibrator"] if several else []), *(["subset"] if by_subset else []), *THRESHOLD_COLUMNS]
    name = "confidence thresholds by robustness subset" if by_subset else "confidence thresholds"
    return TableBlock(name, tuple(columns), rows)


def _threshold_cells(row: Threshold) -> list[Cell]:
    if row.threshold is None or not row.is_guaranteed:
        return [Cell("none"), *[Cell("–")] * 3]
    wrong = replace(percent(Measure(row.error)), note=f"≤{percent(Measure(row.bound)).text}")
    return [Cell(threshold_text(row.threshold)), percent(Measure(row.coverage)), Cell(f"{row.n:,}"), wrong]


def percent(value: Measure, *, signed: bool = False) -> Cell:
    """Write a fraction as percent (or points) with one digit."""
    return cell(value.times(100), "+z.1f" if signed else ".1f")


def fraction(value: Measure) -> Cell:
    """Write a fraction with three digits."""
    return cell(value, ".3f")


def cell(value: Measure, form: str) -> Cell:
    """Write a number with its interval."""
    if not value.known:
        return Cell("–")
    text, plain = f"{value.value:{form}}", form.lstrip("+")
    if float(text) == 0:
        text = text.lstrip("+")
    if not value.has_interval:
        return Cell(text)
    separator = "–" if form == plain else " to "  # a dash beside a minus sign is hard to read
    return Cell(text, f"{value.low:{plain}}{separator}{value.high:{plain}}")


def _subsets_of_one(results: Results) -> TableBlock:
    """Show all examples, then each robustness subset, the least robust first."""
    [variant] = results.variants
    rows = []
    for subset in (None, *range(results.num_subsets)):
        found = results.by_key.get((variant, CLEAN, subset), {})
        name = "all" if subset is None else subset_name(subset, results.num_subsets)
        for row in list(found.values())[:1]:
            cells = _model_cells(lambda metric, s=subset: measure(results, variant, metric, subset=s), row.n)
            rows.append([Cell(name), *cells])
    return TableBlock("by robustness" if results.num_subsets else "all examples", MODEL_COLUMNS, rows)


def _model_cells(get: Any, n: int) -> list[Cell]:
    """Show gap, ECE with its noise floor, accuracy and confidence of some examples."""
    gap = get("gap")
    return [
        _shaded(percent(gap, signed=True), gap.value),
        fraction(get("ece")),
        _floor(get("ece_noise_floor"), get("ece_noise_floor_p95")),
        percent(get("accuracy")),
        percent(get("confidence")),
        Cell(f"{n:,}"),
    ]


def _metric_cell(results: Results, variant: Variant, metric: Metric, conditions: Sequence[Condition]) -> Cell:
    """Show one metric of a variant, in its usual form."""
    found = measure(results, variant, metric, conditions=conditions)
    if metric == "ece_noise_floor":
        return _floor(found, measure(results, variant, NOISE_LIMITS["ece"], conditions=conditions))
    if metric == "nll":
        return Cell(fraction(found).text)
    return percent(found) if metric in ("accuracy", "confidence") else fraction(found)


def _compared(results: Results, variant: Variant, first: Variant, metric: Metric, place: Place) -> Cell:
    """Show one metric of a variant, with a mark if it differs significantly from that of the reference."""
    found = _metric_cell(results, variant, metric, places(results)[place])
    if (
        variant == first
        or metric == "ece_noise_floor"
        or not (sign := relation(results, variant, first, metric, place))
    ):
        return found
    better = (sign > 0) == (metric in HIGHER_IS_BETTER)
    return replace(found, change="better" if better else "worse", rises=sign > 0)


def _shaded(cell: Cell, value: float) -> Cell:
    return replace(cell, shade=max(-1.0, min(1.0, value / FULL_SHADE)) if math.isfinite(value) else 0.0)


def _floor(mean: Measure, limit: Measure) -> Cell:
    """Show the noise floor and its 95th percentile, because the verdict "more than noise" depends on the latter."""
    return Cell(fraction(mean).text, f"≤{limit.value:.3f}" if limit.known else "")


def _difference(results: Results, variant: Variant, against: Variant, metric: Metric, place: Place) -> Cell:
    """Write a difference with its interval and p; in points for accuracy."""
    found = difference(results, variant, against, metric, place)
    shown = percent(found, signed=True) if metric == "accuracy" else cell(found, "+z.3f")
    compared = results.by_comparison.get((variant, against, place, metric))
    if compared is None or not math.isfinite(compared.p_holm):
        return shown
    # p is on a separate line, because the terminal is narrow.
    return replace(shown, note=f"{shown.note}\np = {compared.p_holm:.3f}".lstrip())


def _cost(results: Results, variant: Variant) -> Cell:
    """Average a cost over seeds, as a multiple of plain training."""
    cost = relative_cost(results, variant.method)
    return Cell(f"{cost:.1f}" if math.isfinite(cost) else "–")
