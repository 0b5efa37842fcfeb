"""Paired comparison of methods on the same examples and seeds: t tests, and the bootstrap of differences."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import product

import torch
from torch import Tensor

from aradals._internal.optional import load_extra
from aradals.errors import InputError
from aradals.metrics.bootstrap import MIN_EXAMPLES
from aradals.results.aggregate import MIN_SEEDS, by_seed, places, student_quantile
from aradals.results.records import RANGES, Comparison, Metric, Place, Results, Variant

COMPARED: tuple[Metric, ...] = ("ece", "subset_calibration_error", "nll", "brier", "aurc", "accuracy", "ood_auroc")
"""The metrics that methods are compared by."""

# Noise inflates the estimates of these metrics, see `bias_range`.
_INFLATED: tuple[Metric, ...] = ("ece", "subset_calibration_error")

Replicates = Mapping[tuple[Variant, int, Place], Mapping[str, Tensor]]
"""(variant, seed, place) -> the result of `aradals.metrics.resampled_metrics`, with values of shape (B,)."""


def paired_t_test(first: Sequence[float], second: Sequence[float]) -> float:
    """Compute the two-sided p value of Student's paired t test of equal means; each index is one seed.

    Returns:
        p in [0, 1]; 1 if all pairs are equal. NaN for fewer than 3 pairs. NaN, too, if all pairs differ by the same
        number other than 0: then t is infinite, which is more certainty than a few seeds can give.

    Raises:
        InputError: the sequences have different lengths.
        MissingExtraError: scipy is not installed.
    """
    if len(first) != len(second):
        raise InputError(
            expected="one value per method and seed", got=f"{len(first)} and {len(second)}", hint="common seeds"
        )
    if len(first) < MIN_SEEDS:
        return math.nan
    differences = [a - b for a, b in zip(first, second, strict=True)]
    mean, spread = statistics.fmean(differences), statistics.stdev(differences)
    rounding = 1e-14 * max(map(abs, (*first, *second)))
    if spread <= rounding:
        return 1.0 if abs(mean) <= rounding else math.nan
    t = mean / (spread / math.sqrt(len(differences)))
    return min(1.0, 2 * float(load_extra("scipy.special").stdtr(len(differences) - 1, -abs(t))))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p values for testing all of them (Holm 1979): reject at ``level`` if the adjusted value is below it.

    The k-th smallest of m values is multiplied by m - k + 1, and no result is smaller than the one before. So the
    chance of any false rejection is at most ``level``, however the tests depend on each other. NaN means a test that
    was not made: NaN stays NaN, and does not count.

    Example:
        >>> holm([0.01, 0.04, 0.03, 0.005])
        [0.03, 0.06, 0.06, 0.02]
    """
    order = sorted((p, index) for index, p in enumerate(p_values) if not math.isnan(p))
    adjusted = [math.nan] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        adjusted[index] = largest
    return adjusted


def mean_replicates(replicates: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Average the results of `resampled_metrics` over conditions, for the metrics that all conditions have.

    From the replicates of one model under every shift, this makes its replicates on "all_shifts".
    """
    common = [name for name in replicates[0] if all(name in other for other in replicates)]
    return {name: torch.stack([condition[name] for condition in replicates]).mean(0) for name in common}


def crossed_bootstrap_interval(
    values: Sequence[float],
    replicates: Tensor,
    *,
    bias: tuple[float, float] = (0.0, 0.0),
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Compute an interval for a mean over seeds and examples, if all seeds are evaluated on the same examples.

    The interval comes from a hierarchical bootstrap. A replicate draws the seeds with replacement, and the examples
    once for all seeds (replicate b uses the same resample for every seed).

    Resampled seeds show only (S - 1) / S of the variance of S seeds, and normal tails. So the deviations between seeds
    are stretched by t / z · √(S / (S - 1)), where t and z are the quantiles of Student's and the normal distribution.
    This is the correction of the "expanded" percentiles of Hesterberg 2015, section 4.2. It changes the deviations,
    because resamples of three seeds have no further percentiles.

    Args:
        values: values on all examples, one for each of S seeds. One seed gives the plain bootstrap over examples, for
            this one model. Two seeds give no interval, because they say too little about their spread.
        replicates: values on each of B resamples, float64, shape (S, B).
        bias: the smallest and the largest possible bias of ``values``.
        level: nominal coverage.
        seed: seed of the resampling of seeds.

    Returns:
        (low, high); NaN for two seeds.

    Raises:
        MissingExtraError: scipy is not installed, and there is more than one seed.
    """
    observed = replicates.new_tensor(values)
    num_seeds, num_replicates = replicates.shape
    if 1 < num_seeds < MIN_SEEDS:
        return math.nan, math.nan
    tail = (1 - level) / 2
    stretch = 1.0
    if num_seeds > 1:
        z = statistics.NormalDist().inv_cdf(1 - tail)
        stretch = student_quantile(1 - tail, num_seeds - 1) / z * math.sqrt(num_seeds / (num_seeds - 1))
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(num_seeds, (num_seeds, num_replicates), generator=generator)
    of_seeds = (observed - observed.mean())[drawn].mean(0)
    of_examples = (replicates - replicates.mean(1, keepdim=True)).gather(0, drawn).mean(0)
    low, high = (stretch * of_seeds + of_examples).quantile(replicates.new_tensor([tail, 1 - tail])).tolist()
    center = float(observed.mean())
    return center - bias[1] + low, center - bias[0] + high


def bias_range(values: Sequence[float], replicates: Tensor) -> tuple[float, float]:
    """Bound the bias of a mean of calibration errors: return its smallest and its largest possible value.

    Noise inflates a calibration error, and resampling inflates it again. The second inflation, the mean replicate minus
    the value, is the bootstrap's estimate of the bias. The quality of this estimate depends on the true gaps, which are
    unknown. For one gap g with standard error σ, whose estimate is g + σZ, the true bias is E|g + σZ| - |g|, and the
    bootstrap estimates on average E|g + σ√2 Z| - E|g + σZ|. This estimate is too small by the factor
    1/(√2 - 1) = 1 + √2 at g = 0, and too large by 1.4 at g = σ. From g = 2σ on, both biases fade. For every g, the true
    bias is between half of the estimate and 1 + √2 times the estimate, up to 0.03σ.

    Args:
        values: one value for each seed, shape (S,).
        replicates: values on resamples, shape (S, B).
    """
    bias = max(0.0, float(replicates.mean()) - statistics.fmean(values))
    return bias / 2, (1 + math.sqrt(2)) * bias


def compare_methods(
    results: Results,
    replicates: Replicates,
    *,
    also: Collection[str] = (),
    metrics: Sequence[Metric] = COMPARED,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[Comparison, ...]:
    """Compare every variant with the reference method, clean and on the mean over all shifts.

    ``also`` names further methods to compare with. Such a method counts as trained and with each of its calibrators, as
    the reference method does. Seeds are paired: the same seed means the same splits and the same order of the data. The
    t test asks if the mean over seeds differs on these test examples. The interval is for other seeds and other
    examples (see `crossed_bootstrap_interval`). For calibration errors, the interval allows for the inflation of both
    estimates (see `bias_range`); the difference itself is not corrected.

    The coverage of the 95 % intervals was measured for the difference of two ECEs, and of two subset calibration
    errors, over ten pairs of populations (over-confident by 0 to 0.01 against 0 to 0.05, at accuracy 0.92 and 0.75;
    2,000 examples; ``tests/results/test_compare.py``). The coverage is 0.91 to 1.00 for one seed (300 samples each),
    and 0.967 to 1.00 for three seeds (150 samples each). It is smallest for a perfectly calibrated model against a poor
    one (0.91 for 10,000 examples, too). Two good models have wide intervals, because their inflation is not known
    better. If the inflation were ignored, the coverage for ECE would fall to 0.43 on such populations. If the
    bootstrap's estimate of the inflation were subtracted, the coverage would fall to 0.65.

    Args:
        results: rows of one data set.
        replicates: metrics on resamples of the examples, the same resamples for all variants and places (for
            "all_shifts" the `mean_replicates` of the conditions). A pair has no interval if a seed lacks them, if one
            of the two metrics has no interval, for fewer than 50 examples, and for exactly two seeds.
        also: further methods that every variant is compared with.
        metrics: the metrics to compare by.
        level: nominal coverage of the intervals.
        seed: seed of the resampling of seeds.

    Returns:
        A comparison for each pair that has a seed in common. The interval of one seed covers only the examples, and p
        needs three seeds. ``p_holm`` is adjusted for all variants that are compared with one reference on one metric
        and place.

    Raises:
        MissingExtraError: scipy is not installed, and there is more than one seed.
    """
    references = [variant for variant in results.variants if variant.method in {results.reference, *also}]
    compared: list[Comparison] = []
    for reference, place, metric in product(references, places(results), metrics):
        family = [
            found
            for variant in results.variants
            if variant != reference
            and (found := _compare(results, variant, reference, place, metric, replicates, level=level, seed=seed))
        ]
        adjusted = holm([each.p for each in family])
        compared += [replace(each, p_holm=p) for each, p in zip(family, adjusted, strict=True)]
    return tuple(compared)


def _compare(
    results: Results,
    variant: Variant,
    reference: Variant,
    place: Place,
    metric: Metric,
    replicates: Replicates,
    *,
    level: float,
    seed: int,
) -> Comparison | None:
    """Compare two variants by one metric; None if they have no seed in common."""
    conditions = places(results)[place]
    measures = [by_seed(results, one, metric, conditions) for one in (variant, reference)]
    seeds = sorted(measures[0].keys() & measures[1].keys())
    if not seeds:
        return None
    first, second = ([found[s].value for s in seeds] for found in measures)
    stacked: list[Tensor | None] = [None, None]
    if results.num_examples >= MIN_EXAMPLES and all(found[s].has_interval for found in measures for s in seeds):
        stacked = [_stacked(replicates, one, seeds, place, metric) for one in (variant, reference)]
    low, high = _difference_interval(metric, (first, stacked[0]), (second, stacked[1]), level=level, seed=seed)
    return Comparison(
        *(variant.method, variant.calibrator, reference.method, reference.calibrator),
        place=place,
        metric=metric,
        num_seeds=len(seeds),
        value=statistics.fmean(first),
        reference_value=statistics.fmean(second),
        difference=statistics.fmean(first) - statistics.fmean(second),
        low=low,
        high=high,
        p=paired_t_test(first, second),
    )


def _difference_interval(
    metric: Metric,
    first: tuple[list[float], Tensor | None],
    second: tuple[list[float], Tensor | None],
    *,
    level: float,
    seed: int,
) -> tuple[float, float]:
    """Compute the interval for the difference of two (values, replicates); NaN if one has no replicates."""
    (values, replicates), (other_values, other_replicates) = first, second
    if replicates is None or other_replicates is None:
        return math.nan, math.nan
    bias = (0.0, 0.0)
    if metric in _INFLATED:
        least, most = bias_range(values, replicates)
        other_least, other_most = bias_range(other_values, other_replicates)
        bias = (least - other_most, most - other_least)
    differences = [a - b for a, b in zip(values, other_values, strict=True)]
    low, high = crossed_bootstrap_interval(
        differences, replicates - other_replicates, bias=bias, level=level, seed=seed
    )
    least, largest = RANGES.get(metric, (0.0, 1.0))
    width = largest - least
    return (max(low, -width), min(high, width)) if math.isfinite(low) else (low, high)


def _stacked(
    replicates: Replicates, variant: Variant, seeds: Sequence[int], place: Place, metric: Metric
) -> Tensor | None:
    """Stack the replicates of a variant, shape (S, B); None if a seed lacks them."""
    found = [replicates.get((variant, seed, place), {}).get(metric) for seed in seeds]
    present = [values for values in found if values is not None]
    return torch.stack(present).double() if len(present) == len(seeds) else None
