"""The tables of a report: the same cells for the terminal and for HTML."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from aradals.errors import printable
from aradals.report.view import (
    CLEAN,
    NOISE_LIMITS,
    Condition,
    Measure,
    diagnosis_results,
    gap_interval,
    indexed,
    measure,
    num_examples,
    num_subsets,
    number,
    reference,
    row_interval,
    seeds_of,
    shift_conditions,
    shift_mean,
    shown_variants,
    subset_name,
    threshold_interval,
    threshold_text,
    variants,
)
from aradals.results.compare import MIN_SEEDS
from aradals.results.failed import failed_runs
from aradals.results.names import Results, Variant, data_name

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table

STUDY_COLUMNS = ("method", "ECE", "noise floor", "subset cal. error", "accuracy %", "confidence %", "NLL")
DIAGNOSIS_COLUMNS = ("examples", "gap, points", "ECE", "noise floor", "accuracy %", "confidence %", "n")
COMPARISONS = {
    "ece": "ECE",
    "subset_calibration_error": "subset cal. error",
    "accuracy": "accuracy, points",
    "nll": "NLL",
}
STABILITY_COLUMNS = ("method", "prediction variance", "at equal confidence", "disagreement %", "models")
THRESHOLD_COLUMNS = ("error at most", "accept from", "accepted %", "wrong among them %")

CLASS_COLUMNS = ("class", "gap, points", "ECE", "noise floor", "accuracy %", "confidence %", "n")

METRIC_NAMES = {
    "nll": "NLL",
    "brier": "Brier score",
    "brier_calibration": "Brier: calibration",
    "brier_refinement": "Brier: refinement",
    "ece": "ECE",
    "ece_noise_floor": "ECE: noise floor",
    "ece_noise_floor_p95": "ECE: 95 % of noise",
    "adaptive_ece": "adaptive ECE",
    "classwise_ece": "classwise ECE",
    "mce": "largest bin error",
    "smooth_ece": "smooth ECE",
    "debiased_l2_ece": "debiased L2 ECE",
    "ks_error": "KS error",
    "aurc": "AURC",
    "error_auroc": "AUROC of errors",
    "subset_noise_floor": "subset error: noise floor",
    "subset_noise_floor_p95": "subset error: 95 % of noise",
    "largest_subset_calibration_error": "largest subset gap",
    "largest_subset_noise_floor": "largest subset gap: noise floor",
    "largest_subset_noise_floor_p95": "largest subset gap: 95 % of noise",
}
"""Names of metrics for people; others read as they are written, with spaces."""

FULL_SHADE = 0.2
"""The gap or calibration error that is colored in full."""

MATCHED_VARIANCE = "matched_prediction_variance"

MIN_NAME_WIDTH = 12


@dataclass(frozen=True)
class Cell:
    """A value as text, and with it its uncertainty; ``shade`` in [-1, 1] colors it as under- or overconfident."""

    text: str
    note: str = ""
    shade: float = 0.0


@dataclass(frozen=True)
class TableBlock:
    """Rows under a common title; the first cell of each row names it."""

    title: str
    columns: tuple[str, ...]
    rows: list[list[Cell]]


@dataclass(frozen=True)
class TerminalTables:
    """Blocks of the same columns, as rich prints them; nothing without any.

    Intervals stand beside their values where the terminal is wide enough, else below them; if even that is too wide,
    the names in the first column wrap.
    """

    title: str
    blocks: list[TableBlock]
    note: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Rich's protocol."""
        from rich.text import Text

        if not self.blocks:
            return
        # Text objects throughout: names are other people's, and may look like markup or steer the terminal.
        blocks = list(map(_printable_block, self.blocks))
        yield Text(printable(self.title), style="bold")
        for separator, gap in ((" ", 2), ("\n", 2), ("\n", 1)):
            first, *others = _widths(blocks, separator)
            room = options.max_width - sum(others) - gap * len(others)
            if room >= first:
                break
        for block in blocks:
            yield Text(f"\n{block.title}", style="bold")
            yield _rich_table(block, [min(first, max(room, MIN_NAME_WIDTH)), *others], separator, gap)
        yield Text(f"\n{printable(self.note)}", style="dim")


def table_rows(results: Results, shown: Sequence[Variant] | None = None) -> list[TableBlock]:
    """Every variant (or those ``shown``) on clean data, then its mean over all shifted conditions.

    Accuracy and confidence in percent, the rest as fractions (NLL in nats). The note of a cell is the 95 % interval
    for one seed, the standard deviation over seeds for several; of a noise floor, its 95th percentile.
    """
    results, shown = indexed(results), variants(results) if shown is None else shown
    blocks = [_block(results, f"clean, n = {num_examples(results):,}", [CLEAN], shown)]
    if shifts := shift_conditions(results):
        blocks.append(_block(results, f"shift ({shift_mean(results)})", shifts, shown))
    return blocks


def gap_rows(results: Results, shown: Sequence[Variant]) -> TableBlock:
    """Confidence minus accuracy in points by robustness subset, on clean data."""
    columns = ("method", "all", *(str(subset) for subset in range(num_subsets(results))))
    rows = []
    for variant in shown:
        gaps = [measure(results, variant, "gap", subset=subset) for subset in (None, *range(num_subsets(results)))]
        rows.append([Cell(variant.short), *(_shaded(percent(gap, signed=True), gap.value) for gap in gaps)])
    return TableBlock("gap by robustness subset, points (0 = least robust)", columns, rows)


def corruption_rows(results: Results, shown: Sequence[Variant]) -> TableBlock:
    """ECE by corruption type, each the mean over its severities, beside clean data and the mean over all."""
    shifts = shift_conditions(results)
    groups = {name: [shift for shift in shifts if shift[0] == name] for name, _ in shifts}
    columns = ("method", "clean", "all types", *(name.replace("_", " ") for name in groups))
    rows = []
    for variant in shown:
        errors = [measure(results, variant, "ece", conditions=group) for group in ([CLEAN], shifts, *groups.values())]
        rows.append([Cell(variant.short), *(_shaded(fraction(error), error.value) for error in errors)])
    return TableBlock("ECE by corruption, mean over severities", columns, rows)


def severity_rows(results: Results, shown: Sequence[Variant]) -> list[TableBlock]:
    """Make a table for each corruption type: ECE at each severity, then mean ECE, subset error and accuracy."""
    shifts = shift_conditions(results)
    blocks = []
    for corruption in dict.fromkeys(name for name, _ in shifts):
        conditions = sorted(shift for shift in shifts if shift[0] == corruption)
        rows = []
        for variant in shown:
            errors = [measure(results, variant, "ece", conditions=[condition]) for condition in conditions]
            means = [
                measure(results, variant, key, conditions=conditions)
                for key in ("ece", "subset_calibration_error", "accuracy")
            ]
            cells = [_shaded(fraction(error), error.value) for error in errors]
            rows.append([Cell(variant.short), *cells, fraction(means[0]), fraction(means[1]), percent(means[2])])
        columns = ("method", *(f"ECE at {severity}" for _, severity in conditions))
        columns += ("mean ECE", "subset cal. error", "accuracy %")
        blocks.append(TableBlock(corruption.replace("_", " "), columns, rows))
    return blocks


def metric_rows(results: Results, shown: Sequence[Variant]) -> list[TableBlock]:
    """Every metric that the rows have, clean and as the mean over shifts; a metric per column, in three digits."""
    overall = [row for row in results["rows"] if row.get("subset") is None]
    skipped = {"method", "calibrator", "seed", "data", "corruption", "severity", "subset", "n"}
    keys = dict.fromkeys(
        key
        for row in overall
        for key, value in row.items()
        if key not in skipped and not key.endswith(("_low", "_high")) and math.isfinite(number(value))
    )
    columns = ("method", *(METRIC_NAMES.get(key) or key.replace("_", " ") for key in keys))
    places = {"all metrics, clean": [CLEAN], "all metrics, mean under shift": shift_conditions(results)}
    return [
        TableBlock(
            title,
            columns,
            [
                [Cell(variant.short), *(fraction(measure(results, variant, key, conditions=group)) for key in keys)]
                for variant in shown
            ],
        )
        for title, group in places.items()
        if group
    ]


def ood_table(results: Results) -> TableBlock:
    """From the optional ``out_of_distribution``: how well the confidence tells other data from these."""
    rows = [
        [
            Cell(Variant(row.get("method", ""), row["calibrator"]).treatment),
            Cell(str(row["ood_data"])),
            fraction(Measure(number(row["ood_auroc"]))),
            Cell(f"{row['ood_n']:,}"),
        ]
        for row in results.get("out_of_distribution") or []
    ]
    return TableBlock("confidence on other data", ("calibrator", "other data", "AUROC", "n"), rows)


def class_rows_table(rows: Sequence[Mapping[str, Any]], title: str) -> TableBlock:
    """Classes with the gap between confidence and accuracy, as `aradals.pipeline.shown.class_rows` gives them."""
    table = []
    for row in rows:
        gap = Measure(*gap_interval(row))
        accuracy, confidence, ece, floor, limit = (
            Measure(*row_interval(row, key))
            for key in ("accuracy", "confidence", "ece", "ece_noise_floor", "ece_noise_floor_p95")
        )
        table.append(
            [
                Cell(str(row["name"])),
                _shaded(percent(gap, signed=True), gap.value),
                fraction(ece),
                _floor(floor, limit),
                percent(accuracy),
                percent(confidence),
                Cell(f"{row['n']:,}"),
            ]
        )
    return TableBlock(title, CLASS_COLUMNS, table)


def diagnosis_rows(diagnosis: Results) -> TableBlock:
    """All examples, then each robustness subset, least robust first."""
    results = diagnosis_results(diagnosis)
    variant = variants(results)[0]
    count = num_subsets(results)
    sizes = [row.get("n") for row in results["rows"]]
    rows = []
    for subset, size in zip([None, *range(count)], sizes, strict=True):
        get = {
            key: measure(results, variant, key, subset=subset)
            for key in ("accuracy", "confidence", "gap", "ece", "ece_noise_floor", "ece_noise_floor_p95")
        }
        rows.append(
            [
                Cell("all" if subset is None else subset_name(subset, count)),
                percent(get["gap"], signed=True),
                fraction(get["ece"]),
                _floor(get["ece_noise_floor"], get["ece_noise_floor_p95"]),
                percent(get["accuracy"]),
                percent(get["confidence"]),
                Cell("–" if size is None else f"{size:,}"),
            ]
        )
    return TableBlock("by robustness" if count else "all examples", DIAGNOSIS_COLUMNS, rows)


def comparison_rows(
    results: Results, shown: Sequence[Variant] | None = None, metrics: Sequence[str] = tuple(COMPARISONS)
) -> list[TableBlock]:
    """Every variant (or those ``shown``) minus the reference, calibrated alike: clean, then the mean over shifts.

    The note of a cell is the 95 % interval of the difference, and with three seeds or more p of the paired t test
    over seeds after Holm's correction. The cost is a multiple of vanilla training.
    """
    first = reference(results).method
    compared = {
        (row["condition"], row["method"], row["calibrator"], row["metric"]): row
        for row in results.get("comparisons", [])
        if row["reference_method"] == first and row["reference_calibrator"] == row["calibrator"]
    }
    blocks = []
    for condition, title in (("clean", "clean"), ("all_shifts", f"shift ({shift_mean(results)})")):
        rows = [
            [
                Cell(variant.short),
                *(
                    _difference(compared.get((condition, variant.method, variant.calibrator, metric)))
                    for metric in metrics
                ),
                _cost(results, variant.method),
            ]
            for variant in (variants(results) if shown is None else shown)
            if (condition, variant.method, variant.calibrator, "ece") in compared
        ]
        if rows:
            blocks.append(TableBlock(title, ("method", *(COMPARISONS[metric] for metric in metrics), "cost"), rows))
    return blocks


def stability_rows(results: Results) -> TableBlock:
    """How much independently trained models disagree about the same examples."""
    rows = [
        [
            Cell(Variant(row["method"]).label),
            *(_cell(Measure(*row_interval(row, key)), ".4f") for key in ("prediction_variance", MATCHED_VARIANCE)),
            percent(Measure(*row_interval(row, "disagreement"))),
            Cell(f"{row['num_models']} {'seeds' if row['models'] == 'seeds' else 'members'}"),
        ]
        for row in results.get("stability", [])
        if row["subset"] is None
    ]
    return TableBlock("stability, clean", STABILITY_COLUMNS, rows)


def failed_rows(results: Results) -> TableBlock:
    """List the runs of a study that have no results, with the reasons."""
    rows = [
        [Cell(Variant(run["method"]).label), Cell(str(run["seed"])), Cell(str(run["reason"]))]
        for run in failed_runs(results)
    ]
    return TableBlock("failed runs", ("method", "seed", "reason"), rows)


def comparison_table(results: Results) -> TerminalTables:
    """`comparison_rows` for the terminal, in 80 columns: without the NLL."""
    note = f"{comparison_note(results)}{_more(results)}"
    rows = comparison_rows(results, shown_variants(results), [metric for metric in COMPARISONS if metric != "nll"])
    return TerminalTables(f"Difference from {reference(results).label}", rows, note)


def comparison_note(results: Results) -> str:
    """Explain the numbers of `comparison_rows`."""
    seeds = len(seeds_of(results))
    over = "the test examples" if seeds == 1 else f"{seeds} seeds and the test examples"
    tests = "; p: paired t test over seeds, after Holm's correction" if seeds >= MIN_SEEDS else ""
    return (
        f"Variant minus {reference(results).label} with the same calibrator; negative = lower. With each its 95 % "
        f"interval, by bootstrap over {over}{tests}. Intervals of calibration errors allow for their bias, and need "
        "not be around the difference. Cost: seconds of training, with models that only score and their scoring, over "
        "those of vanilla."
    )


def threshold_rows(diagnosis: Results) -> TableBlock:
    """From which confidence on predictions can be accepted, and what is then wrong."""
    rows = []
    for row in diagnosis.get("confidence_thresholds", []):
        cells = [Cell("never"), Cell("–"), Cell("–")]
        if row["threshold"] is not None:
            low, high = threshold_interval(row)
            cells = [
                Cell(threshold_text(row["threshold"])),
                percent(Measure(row["coverage"])),
                percent(Measure(row["error"], low, high)),
            ]
        rows.append([Cell(f"{100 * row['max_error']:g} %"), *cells])
    return TableBlock("confidence thresholds, chosen on these very examples", THRESHOLD_COLUMNS, rows)


def table_note(results: Results) -> str:
    """Explain the numbers of `table_rows`."""
    seeds = len(seeds_of(results))
    spread = "its 95 % interval" if seeds == 1 else f"its standard deviation over {seeds} seeds (±)"
    temperature = (
        " + T: with temperature scaling." if any(v.calibrator == "temperature" for v in variants(results)) else ""
    )
    return (
        f"With each estimate {spread}, with the noise floor its 95th percentile (≤). Calibration errors are "
        f"fractions (0.01 = 1 point), NLL is in nats.{temperature}"
    )


def diagnosis_note(diagnosis: Results) -> str:
    """Explain the numbers of `diagnosis_rows`."""
    subsets = " Subset 0 is the least robust." if diagnosis["subsets"] else ""
    return (
        "gap = confidence - accuracy, + is overconfident. With each estimate its 95 % interval, with the noise floor "
        f"its 95th percentile (≤). ECE is a fraction (0.01 = 1 point).{subsets}"
    )


def study_table(results: Results) -> TerminalTables:
    """`table_rows` for the terminal, from 80 columns on; for rich's ``Console.print``."""
    title = f"{results.get('name', '')}: {data_name(results)}".strip(": ")
    results = indexed(results)
    note = f"{table_note(results)}{_more(results)}{_failed(results)}"
    return TerminalTables(title, table_rows(results, shown_variants(results)), note)


def diagnosis_table(diagnosis: Results) -> TerminalTables:
    """`diagnosis_rows` for the terminal, from 80 columns on; for rich's ``Console.print``."""
    title = f"{diagnosis.get('model', 'model')}: {diagnosis.get('data', '')} {diagnosis.get('split', '')}".strip()
    return TerminalTables(title, [diagnosis_rows(diagnosis)], diagnosis_note(diagnosis))


def percent(value: Measure, *, signed: bool = False) -> Cell:
    """Write a fraction as percent (or points) with one digit."""
    scaled = Measure(value.value * 100, value.low * 100, value.high * 100, value.spread * 100, value.num_seeds)
    return _cell(scaled, "+z.1f" if signed else ".1f")


def fraction(value: Measure) -> Cell:
    """Write a fraction with three digits."""
    return _cell(value, ".3f")


def _more(results: Results) -> str:
    """Write the number of variants that the terminal leaves out."""
    rest = len(variants(results)) - len(shown_variants(results))
    return f" {rest} more variants are in the report." if rest else ""


def _failed(results: Results) -> str:
    """Which runs are not in the table."""
    named = [f"{Variant(run['method']).label} (seed {run['seed']})" for run in failed_runs(results)]
    return f" Failed, and not in the table: {', '.join(named)}." if named else ""


def _shaded(cell: Cell, value: float) -> Cell:
    return replace(cell, shade=max(-1.0, min(1.0, value / FULL_SHADE)) if math.isfinite(value) else 0.0)


def _block(results: Results, title: str, conditions: Sequence[Condition], shown: Sequence[Variant]) -> TableBlock:
    return TableBlock(title, STUDY_COLUMNS, [_row(results, variant, conditions) for variant in shown])


def _row(results: Results, variant: Variant, conditions: Sequence[Condition]) -> list[Cell]:
    get = {
        key: measure(results, variant, key, conditions=conditions)
        for key in (
            "ece",
            "ece_noise_floor",
            NOISE_LIMITS["ece"],
            "subset_calibration_error",
            "accuracy",
            "confidence",
            "nll",
        )
    }
    return [
        Cell(variant.short),
        fraction(get["ece"]),
        _floor(get["ece_noise_floor"], get[NOISE_LIMITS["ece"]]),
        fraction(get["subset_calibration_error"]),
        percent(get["accuracy"]),
        percent(get["confidence"]),
        Cell(fraction(get["nll"]).text),
    ]


def _floor(mean: Measure, limit: Measure) -> Cell:
    """Both, since the verdict "more than noise" depends on the second."""
    return Cell(fraction(mean).text, f"≤{limit.value:.3f}" if limit.known else "")


def _difference(row: Mapping[str, Any] | None) -> Cell:
    """Write a difference with its interval and p; in points for accuracy."""
    if row is None or row["difference"] is None:
        return Cell("–")
    scale, form = (100, "+z.1f") if row["metric"] == "accuracy" else (1, "+z.3f")
    low, high = (math.nan if row[end] is None else scale * row[end] for end in ("low", "high"))
    cell = _cell(Measure(scale * row["difference"], low, high), form)
    # On a line of its own, for the terminal is narrow.
    return cell if row["p_holm"] is None else Cell(cell.text, f"{cell.note}\np = {row['p_holm']:.3f}".lstrip())


def _cost(results: Results, method: str) -> Cell:
    """Average a cost over seeds, as a multiple of vanilla training."""
    costs = [row["relative_cost"] for row in results.get("costs", []) if row["method"] == method]
    known = [cost for cost in costs if cost is not None]
    return Cell(f"{sum(known) / len(known):.1f}") if known else Cell("–")


def _cell(value: Measure, form: str) -> Cell:
    if not value.known:
        return Cell("–")
    text, plain = f"{value.value:{form}}", form.lstrip("+")
    if float(text) == 0:
        text = text.lstrip("+")
    if value.num_seeds > 1:
        return Cell(text, f"± {value.spread:{plain}}")
    if not (math.isfinite(value.low) and math.isfinite(value.high)):
        return Cell(text)
    separator = "–" if form == plain else " to "  # a dash beside a minus sign is hard to read
    return Cell(text, f"{value.low:{plain}}{separator}{value.high:{plain}}")


def _printable_block(block: TableBlock) -> TableBlock:
    rows = [[replace(cell, text=printable(cell.text)) for cell in row] for row in block.rows]
    return TableBlock(printable(block.title), tuple(map(printable, block.columns)), rows)


def _rich_table(block: TableBlock, widths: list[int], separator: str, gap: int) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    # The box puts a column of its own between two others.
    table = Table(box=box.SIMPLE_HEAD, padding=(0, gap - 1, 0, 0), pad_edge=False, show_edge=False)
    for index, (column, width) in enumerate(zip(block.columns, widths, strict=True)):
        table.add_column(_header(column), width=width, justify="right" if index else "left")
    for row in block.rows:
        table.add_row(
            *(Text.assemble(cell.text, (f"{separator}{cell.note}" if cell.note else "", "dim")) for cell in row)
        )
    return table


def _header(column: str) -> str:
    """In two lines."""
    return column.replace(" ", "\n", 1)


def _widths(blocks: list[TableBlock], separator: str) -> list[int]:
    """Of the columns, where no line is to break."""
    rows = [[_header(column) for column in blocks[0].columns]]
    rows += [[f"{cell.text}{separator}{cell.note}".rstrip() for cell in row] for block in blocks for row in block.rows]
    return [max(len(line) for text in column for line in text.split("\n")) for column in zip(*rows, strict=True)]
