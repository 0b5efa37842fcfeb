"""Means over conditions and seeds, with one rule for their intervals, for every table, figure and sentence.

A mean over conditions is computed within each seed, with equal weights of all conditions. A seed that lacks one of the
conditions, or the metric under one of them, is left out, because its mean could not be compared with the others.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from aradals._internal.optional import load_extra
from aradals.results.records import CLEAN, METRICS, RANGES, Condition, Measure, Metric, Place, Results, Variant

NOISE_LIMITS: dict[Metric, Metric] = {
    "ece": "ece_noise_floor_p95",
    "subset_calibration_error": "subset_noise_floor_p95",
}
"""Calibration error -> the metric with the largest error that chance explains."""

MIN_SEEDS = 3
"""Two seeds say too little about their spread: an interval or a test from them would be meaningless."""


def measure(
    results: Results,
    variant: Variant,
    metric: Metric,
    *,
    conditions: Sequence[Condition] = (CLEAN,),
    subset: int | None = None,
) -> Measure:
    """Average a metric of one variant over conditions within each seed, then over seeds.

    With one seed, the ends of the interval are the means of the ends in the rows. This assumes that the errors fully
    depend on each other, because all conditions change the same examples. With two seeds there is no interval. With
    S >= 3 seeds, the half-width is √(h² + (t s/√S)²), as far as the range of the metric allows. The first term, h, is
    the half-width for the sampling of the test examples, which all seeds share. The second term is for the seeds: s is
    their standard deviation, and t a quantile of Student's distribution.

    Args:
        results: results of one data set.
        variant: method and calibrator.
        metric: the metric to average.
        conditions: the conditions to average over.
        subset: robustness subset; None for all examples.

    Returns:
        The mean; unknown if no seed has the metric under all conditions.
    """
    return mean_over_seeds(list(by_seed(results, variant, metric, conditions, subset).values()), metric)


def by_seed(
    results: Results, variant: Variant, metric: Metric, conditions: Sequence[Condition], subset: int | None = None
) -> dict[int, Measure]:
    """Average a metric over conditions within each seed that has the metric under all conditions."""
    rows = [results.by_key.get((variant, condition, subset), {}) for condition in conditions]
    found = {seed: [row[seed][metric] for row in rows if seed in row] for row in rows[:1] for seed in row}
    return {
        seed: mean_of(each)
        for seed, each in found.items()
        if len(each) == len(conditions) and all(m.known for m in each)
    }


def mean_over_seeds(seeds: Sequence[Measure], metric: Metric) -> Measure:
    """Average the measures of several seeds, see `measure`."""
    if len(seeds) < 2:
        return seeds[0] if seeds else Measure(num_seeds=0)
    mean, spread = mean_of(seeds), statistics.stdev(seed.value for seed in seeds)
    if len(seeds) < MIN_SEEDS:
        return Measure(mean.value, spread=spread, num_seeds=len(seeds))
    t = student_quantile(0.975, len(seeds) - 1)
    center = (mean.low + mean.high) / 2
    half_width = math.hypot((mean.high - mean.low) / 2, t * spread / math.sqrt(len(seeds)))
    least, largest = RANGES.get(metric, (0.0, 1.0))
    return Measure(mean.value, max(center - half_width, least), min(center + half_width, largest), spread, len(seeds))


def mean_of(measures: Sequence[Measure]) -> Measure:
    """Average values, and the ends of their intervals."""
    value, low, high = (
        statistics.fmean(column)
        for column in ([m.value for m in measures], [m.low for m in measures], [m.high for m in measures])
    )
    return Measure(value, low, high)


def difference(
    results: Results, variant: Variant, reference: Variant, metric: Metric, place: Place = "clean"
) -> Measure:
    """Look up variant minus reference on the same examples and seeds; unknown if they were not compared."""
    found = results.by_comparison.get((variant, reference, place, metric))
    return found.measure if found else Measure(num_seeds=0)


def relation(results: Results, variant: Variant, other: Variant, metric: Metric, place: Place = "clean") -> int:
    """Return -1 if a variant is significantly lower than another, 1 if it is significantly higher, else 0.

    The 95 % interval of the paired difference decides. If the results contain no paired difference, the intervals of
    both must not overlap, which is a stricter condition. Two calibration errors that chance explains do not differ
    significantly.
    """
    if metric in NOISE_LIMITS and all(is_noise(results, each, metric, place) for each in (variant, other)):
        return 0
    if (paired := difference(results, variant, other, metric, place)).has_interval:
        return paired.sign
    conditions = places(results)[place]
    ours, theirs = (measure(results, each, metric, conditions=conditions) for each in (variant, other))
    if ours.high < theirs.low and ours.value < theirs.value:
        return -1
    return 1 if ours.low > theirs.high and ours.value > theirs.value else 0


def places(results: Results) -> dict[Place, tuple[Condition, ...]]:
    """Return the conditions of each place: clean data, and all shifts if there are any."""
    found: dict[Place, tuple[Condition, ...]] = {"clean": (CLEAN,)}
    return {**found, "all_shifts": results.shifts} if results.shifts else found


def is_noise(results: Results, variant: Variant, metric: Metric, place: Place = "clean") -> bool | None:
    """Return True if chance explains a calibration error; None if its noise floor is unknown.

    An error is more than noise if it exceeds the 95th percentile of its noise floor, which is the error that a
    perfectly calibrated model would show on as many examples. A wide interval does not make an error noise.
    """
    conditions = places(results)[place]
    error = measure(results, variant, metric, conditions=conditions)
    limit = measure(results, variant, NOISE_LIMITS[metric], conditions=conditions)
    return error.value <= limit.value if limit.known else None


def relative_cost(results: Results, method: str) -> float:
    """Average the cost of a method over seeds, as a multiple of plain training; NaN if the cost is unknown."""
    known = [
        cost.relative_cost for cost in results.costs if cost.method == method and math.isfinite(cost.relative_cost)
    ]
    return statistics.fmean(known) if known else math.nan


@dataclass(frozen=True)
class Mean:
    """One line of the table of means: a variant under one condition, or as the mean over all shifts."""

    variant: Variant
    condition: Condition | None
    subset: int | None
    metrics: dict[Metric, Measure]

    @property
    def record(self) -> dict[str, Any]:
        """Make a flat row: keys, then each metric with its interval and its spread over seeds."""
        keys = {
            "method": self.variant.method,
            "calibrator": self.variant.calibrator,
            "corruption": self.condition.corruption if self.condition else "all_shifts",
            "severity": self.condition.severity if self.condition else None,
            "subset": self.subset,
            "num_seeds": max((each.num_seeds for each in self.metrics.values()), default=0),
        }
        return keys | {
            f"{metric}{end}": value
            for metric, each in self.metrics.items()
            for end, value in (("", each.value), ("_low", each.low), ("_high", each.high), ("_sd", each.spread))
        }


def means(results: Results) -> Iterator[Mean]:
    """List every variant under every condition and as the mean over all shifts, on all examples and by subset."""
    conditions: list[tuple[Condition | None, tuple[Condition, ...]]] = [(c, (c,)) for c in (CLEAN, *results.shifts)]
    if results.shifts:
        conditions.append((None, results.shifts))
    for variant in results.variants:
        for condition, averaged in conditions:
            for subset in (None, *range(results.num_subsets)):
                found = {m: measure(results, variant, m, conditions=averaged, subset=subset) for m in METRICS}
                known = {metric: each for metric, each in found.items() if each.known}
                if known:
                    yield Mean(variant, condition, subset, known)


def student_quantile(probability: float, degrees_of_freedom: int) -> float:
    """Compute a quantile of Student's t distribution.

    Raises:
        MissingExtraError: scipy is not installed.
    """
    return float(load_extra("scipy.special").stdtrit(degrees_of_freedom, probability))
