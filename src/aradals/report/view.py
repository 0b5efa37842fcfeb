"""Reading results: which methods and conditions there are, and a quantity of one with its uncertainty."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from aradals.metrics import wilson_interval
from aradals.results.names import Results, Variant, join

Condition = tuple[str, int]
"""(corruption, severity)."""

CLEAN: Condition = ("none", 0)


MAX_SHOWN = 10
"""With more variants than these, main ones are shown and the rest is folded away."""

NUM_KEY = 6


NOISE_LIMITS = {"ece": "ece_noise_floor_p95", "subset_calibration_error": "subset_noise_floor_p95"}
"""Key of a calibration error -> key of the most that is put down to noise."""

NOISE_FLOORS = {"ece": "ece_noise_floor", "subset_calibration_error": "subset_noise_floor"}
"""Key of a calibration error -> key of what chance leads one to expect."""

FRACTIONS = {2: "half", 3: "third", 4: "quarter", 5: "fifth", 10: "decile"}

# 97.5 % quantiles of Student's t for 1, 2, ... degrees of freedom; beyond the last, the last (a little too wide).
STUDENT_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


@dataclass(frozen=True)
class Measure:
    """A mean over seeds (and conditions), NaN where unknown.

    Attributes:
        value: the mean.
        low: lower end of a 95 % interval.
        high: upper end.
        spread: standard deviation over seeds; NaN for fewer than two.
        num_seeds: how many seeds have a value.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    spread: float = math.nan
    num_seeds: int = 1

    @property
    def known(self) -> bool:
        """Whether there is a value."""
        return math.isfinite(self.value)


def compare(first: Measure, second: Measure) -> Literal["lower", "higher", "unclear"]:
    """How ``first`` relates to ``second``, where their 95 % intervals leave no doubt.

    The rule of every comparison in the report: intervals that touch, or are not known, mean "unclear", and so do
    estimates in another order than their intervals. Disjoint intervals are a stricter demand than a test at the
    5 % level, the more so for two methods on the same examples, whose errors go together.
    """
    if first.high < second.low and first.value < second.value:
        return "lower"
    if first.low > second.high and first.value > second.value:
        return "higher"
    return "unclear"


class IndexedResults(dict[str, Any]):
    """Results that find their rows without a search: what `indexed` makes."""

    def __init__(self, results: Results) -> None:
        super().__init__(results)
        self.found: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
        for row in results["rows"]:
            self.found.setdefault(tuple(row.get(key) for key in _ROW_KEYS), []).append(row)
        self.compared = {
            tuple(row[key] for key in _COMPARISON_KEYS): row for row in results.get("comparisons") or [] if row
        }


_ROW_KEYS = ("method", "calibrator", "corruption", "severity", "subset")
_COMPARISON_KEYS = ("method", "calibrator", "reference_method", "reference_calibrator", "condition", "metric")


def indexed(results: Results) -> IndexedResults:
    """Make an index of the rows of results, which must not change afterwards."""
    return results if isinstance(results, IndexedResults) else IndexedResults(results)


def measure(
    results: Results,
    variant: Variant,
    key: str,
    *,
    conditions: Sequence[Condition] = (CLEAN,),
    subset: int | None = None,
) -> Measure:
    """Average a quantity of one variant over conditions within each seed, then over seeds.

    With one seed the interval is that of the rows (their mean over conditions, as for fully dependent errors: all
    conditions corrupt the same examples). With several, its half-width is √(h² + (t s/√S)²): h for the sampling of
    the test set, which more seeds do not reduce since they share it, and t s/√S for the seeds.

    Args:
        results: content of ``results.json``.
        variant: method and calibrator.
        key: of a row, such as ``ece``; or ``gap``, confidence - accuracy.
        conditions: to average over.
        subset: of robustness; None for all examples.
    """
    by_seed: dict[int, list[tuple[float, float, float]]] = {}
    for corruption, severity in conditions:
        for row in indexed(results).found.get((variant.method, variant.calibrator, corruption, severity, subset), []):
            found = gap_interval(row) if key == "gap" else row_interval(row, key)
            if math.isfinite(found[0]):
                by_seed.setdefault(row.get("seed", 0), []).append(found)
    # A mean that lacks a condition would be compared with one that does not.
    complete = [values for values in by_seed.values() if len(values) == len(conditions)]
    if not complete:
        return Measure(math.nan, num_seeds=0)
    seeds = [[statistics.fmean(column) for column in zip(*values, strict=True)] for values in complete]
    value, low, high = (statistics.fmean(column) for column in zip(*seeds, strict=True))
    if len(seeds) == 1:
        return Measure(value, low, high)
    spread = statistics.stdev(seed[0] for seed in seeds)
    t = STUDENT_T[min(len(seeds) - 2, len(STUDENT_T) - 1)]
    center, half_width = (low + high) / 2, math.hypot((high - low) / 2, t * spread / math.sqrt(len(seeds)))
    low, high = center - half_width, center + half_width
    if key != "gap" and low < 0:
        low = 0.0
    if key in ("accuracy", "confidence") and high > 1:
        high = 1.0
    return Measure(value, low, high, spread, len(seeds))


def difference(
    results: Results, first: Variant, second: Variant, key: str, conditions: Sequence[Condition]
) -> Measure | None:
    """``first`` minus ``second`` on the same examples and seeds, with its 95 % interval; None where it was not made.

    Paired, hence narrower than what follows from the intervals of the two. For calibration errors the interval allows
    for their bias, and need not lie around the difference.
    """
    where = "clean" if list(conditions) == [CLEAN] else "all_shifts"
    if where == "all_shifts" and set(conditions) != set(shift_conditions(results)):
        return None
    pair = (first.method, first.calibrator, second.method, second.calibrator)
    row = indexed(results).compared.get((*pair, where, key))
    if row is None:
        return None
    value, low, high = (number(row[name]) for name in ("difference", "low", "high"))
    return Measure(value, low, high) if math.isfinite(value + low + high) else None


def row_interval(row: Mapping[str, Any], key: str) -> tuple[float, float, float]:
    """(value, low, high) of a row; NaN for what is missing or null."""
    value, low, high = (number(row.get(name)) for name in (key, f"{key}_low", f"{key}_high"))
    return value, low, high


def gap_interval(row: Mapping[str, Any]) -> tuple[float, float, float]:
    """Confidence - accuracy with an interval from theirs, as for independent errors.

    Being right and being confident go together, which narrows the true interval: this one errs on the wide side.
    """
    accuracy, accuracy_low, accuracy_high = row_interval(row, "accuracy")
    confidence, confidence_low, confidence_high = row_interval(row, "confidence")
    gap = confidence - accuracy
    low = gap - math.hypot(confidence - confidence_low, accuracy_high - accuracy)
    return gap, low, gap + math.hypot(confidence_high - confidence, accuracy - accuracy_low)


def number(value: Any) -> float:
    """Convert to float; null, text and other values become NaN."""
    return float(value) if isinstance(value, int | float) else math.nan


def variants(results: Results) -> list[Variant]:
    """Methods in the order of the rows, each without calibrator first."""
    found = dict.fromkeys((row["method"], row["calibrator"]) for row in results["rows"])
    methods = list(dict.fromkeys(method for method, _ in found))
    order = sorted(found, key=lambda pair: (methods.index(pair[0]), pair[1] != "none"))
    return [Variant(*pair) for pair in order]


def reference(results: Results) -> Variant:
    """Choose the reference that the others are compared with: vanilla, else the first method."""
    found = variants(results)
    return next((variant for variant in found if variant == Variant("vanilla")), found[0])


def methods_of(results: Results) -> list[str]:
    """All methods, in the order of the rows."""
    return list(dict.fromkeys(row["method"] for row in results["rows"]))


def main_methods(results: Results) -> list[str]:
    """Methods but for variations of another: with ``ar_adals`` there, ``ar_adals_plain`` is one.

    An ensemble is a method of its own, whatever its name.
    """
    methods, config = methods_of(results), results.get("config") or {}
    ensembles = set(config.get("ensembles") or {}) | {name for name in methods if name.endswith("_of_ensemble")}
    return [
        name
        for name in methods
        if name in ensembles or not any(name.startswith(f"{other}_") for other in methods if other != name)
    ]


def main_variants(results: Results) -> list[Variant]:
    """List main methods as trained, and the calibrated forms of the reference, which rival other training methods."""
    first, methods = reference(results), set(main_methods(results))
    return [
        v for v in variants(results) if v.method in methods and (v.calibrator == "none" or v.method == first.method)
    ]


def shown_variants(results: Results) -> list[Variant]:
    """All variants of a small study, the main ones of a large one."""
    found = variants(results)
    return found if len(found) <= MAX_SHOWN else main_variants(results)


def key_variants(results: Results) -> list[Variant]:
    """All variants of a small study; of a large one the `NUM_KEY` to see first: the reference, AR-AdaLS, ensembles."""
    found = variants(results)
    if len(found) <= MAX_SHOWN:
        return found
    first = reference(results).method
    wanted = [Variant(method, treatment) for method in (first, "ar_adals") for treatment in ("none", "temperature")]
    wanted += [Variant(method) for method in ("ensemble", "ensemble_of_ar_adals", *main_methods(results))]
    return [variant for variant in dict.fromkeys(wanted) if variant in found][:NUM_KEY]


def shift_conditions(results: Results) -> list[Condition]:
    """All conditions but the clean one, in the order of the rows."""
    found = dict.fromkeys((row["corruption"], row["severity"]) for row in results["rows"])
    return [condition for condition in found if condition != CLEAN]


def shift_name(results: Results) -> str:
    """Describe the conditions of the mean under shift: ``4 corruption types, severities 1, 3 and 5``."""
    shifts = shift_conditions(results)
    if len(shifts) <= 2:
        return ", ".join(map(condition_name, shifts))
    types, severities = (list(dict.fromkeys(column)) for column in zip(*shifts, strict=True))
    if len(types) == 1:
        return f"{types[0].replace('_', ' ')}, {_severities(severities)}"
    full = len(shifts) == len(types) * len(severities)
    return f"{len(types)} corruption types, {_severities(severities) if full else f'{len(shifts)} conditions'}"


def shift_mean(results: Results) -> str:
    """``mean over 4 corruption types, severities 1 to 5``, or the one condition there is."""
    return shift_name(results) if len(shift_conditions(results)) == 1 else f"mean over {shift_name(results)}"


def _severities(severities: Sequence[int]) -> str:
    ordered = sorted(severities)
    if len(ordered) > 2 and ordered[-1] - ordered[0] == len(ordered) - 1:
        return f"severities {ordered[0]} to {ordered[-1]}"
    return f"{'severity' if len(ordered) == 1 else 'severities'} {join([str(severity) for severity in ordered])}"


def condition_name(condition: Condition) -> str:
    """``gaussian noise 3``."""
    name, severity = condition
    return "clean" if condition == CLEAN else f"{name.replace('_', ' ')} {severity}"


def num_subsets(results: Results) -> int:
    """How many robustness subsets the rows tell apart; 0 without any."""
    return max((row["subset"] + 1 for row in results["rows"] if row.get("subset") is not None), default=0)


def seeds_of(results: Results) -> list[int]:
    """List the seeds, in the order of the rows."""
    return list(dict.fromkeys(row.get("seed", 0) for row in results["rows"]))


def num_examples(results: Results) -> int:
    """Size of the split that is reported on."""
    return max((row.get("n") or 0 for row in results["rows"] if row.get("subset") is None), default=0)


def least_robust(count: int) -> str:
    """``least robust decile``, or ``least robust of 7 subsets``."""
    return f"least robust {FRACTIONS[count]}" if count in FRACTIONS else f"least robust of {count} subsets"


def most_robust(count: int) -> str:
    """``most robust decile``, or ``most robust subset``."""
    return f"most robust {FRACTIONS[count]}" if count in FRACTIONS else "most robust subset"


def subset_name(subset: int, count: int) -> str:
    """``subset 0 (least robust)``."""
    ends = {0: " (least robust)", count - 1: " (most robust)"} if count > 1 else {}
    return f"subset {subset}{ends.get(subset, '')}"


def diagnosis_results(diagnosis: Results) -> dict[str, Any]:
    """Convert a diagnosis to results with the one method ``the_model``, so that both share all other code."""
    keys = {
        "method": "the_model",
        "calibrator": "none",
        "seed": 0,
        "corruption": CLEAN[0],
        "severity": CLEAN[1],
    }
    rows = [{**diagnosis["overall"], **keys, "subset": None}]
    rows += [{**row, **keys, "subset": index} for index, row in enumerate(diagnosis["subsets"])]
    return {"rows": rows}


def share_interval(row: Mapping[str, Any], level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval for a class's share of the least robust subset."""
    if not number(row.get("share")) > 0:
        return math.nan, math.nan
    total = round(row["n"] / row["share"])
    low, high = wilson_interval(torch.tensor(row["n"]), torch.tensor(total), level=level)
    return float(low), float(high)


def threshold_interval(row: Mapping[str, Any]) -> tuple[float, float]:
    """Wilson's 95 % interval for the error above a confidence threshold."""
    low, high = wilson_interval(torch.tensor(round(row["error"] * row["n"])), torch.tensor(row["n"]))
    return float(low), float(high)


def threshold_text(threshold: float) -> str:
    """Write a confidence to two digits of its distance from 1: ``0.84``, ``0.9927``, ``0.999985``."""
    digits = 2 if threshold >= 1 else max(2, 1 - math.floor(math.log10(1 - threshold)))
    return f"{threshold:.{digits}f}".rstrip("0").rstrip(".")
