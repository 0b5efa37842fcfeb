"""Comparing methods over seeds and under shift: means with intervals, paired tests, bootstrap of differences.

Functions on the rows of `evaluate_predictions`: flat dicts whose keys say what was evaluated (``data, method,
calibrator, seed, corruption, severity, subset``) and then give the metrics.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor

from aradals.errors import InputError, MissingExtraError

Row = dict[str, Any]
"""A row of a table."""

Variant = tuple[str, str]
"""(method, calibrator)."""

CLEAN, ALL_SHIFTS = "clean", "all_shifts"
"""What methods are compared on: the clean data, and the mean over all shifted conditions."""

REFERENCES: tuple[Variant, ...] = (
    ("vanilla", "none"),
    ("vanilla", "temperature"),
    ("label_smoothing", "none"),
    ("label_smoothing", "temperature"),
)
"""What methods are compared with, where they are there."""

METRICS = ("ece", "subset_calibration_error", "nll", "brier", "accuracy")
"""What they are compared by."""

MIN_SEEDS = 3
"""Fewer tell too little of the spread over seeds: no standard deviation, no Student interval, no test."""

_VARIANT = ("data", "method", "calibrator")
_CONDITION = ("corruption", "severity")
# Estimates of these are inflated by noise, see `bias_range`.
_INFLATED = ("ece", "subset_calibration_error")
_NO_METRIC = {*_VARIANT, *_CONDITION, "seed", "subset", "n"}


def shift_rows(rows: Iterable[Row]) -> list[Row]:
    """Average over all corruption types and severities, for each (data, method, calibrator, seed, subset).

    All conditions weigh the same. A mean that lacks a condition which any row of these data has is not formed, and
    a metric that one of the conditions lacks (None or NaN) is None: neither could be compared with the others.

    Returns:
        One row each: ``corruption`` is "all_shifts", ``severity`` None, ``num_corruptions`` the number of
        corruption types, ``num_conditions`` that of types times severities, ``n`` the examples of one condition
        (the fewest), then the metrics, without intervals.
    """
    rows = [row for row in rows if row["corruption"] not in ("none", ALL_SHIFTS)]
    expected: dict[Any, set[tuple[Any, ...]]] = {}
    for row in rows:
        expected.setdefault(row.get("data"), set()).add(_key(row, _CONDITION))
    means = []
    for group in _grouped(rows, (*_VARIANT, "seed", "subset")).values():
        conditions = expected[group[0].get("data")]
        if len(group) == len(conditions) and {_key(row, _CONDITION) for row in group} == conditions:
            means.append(
                {
                    **{key: group[0].get(key) for key in (*_VARIANT, "seed")},
                    "corruption": ALL_SHIFTS,
                    "severity": None,
                    "subset": group[0].get("subset"),
                    "num_corruptions": len({corruption for corruption, _ in conditions}),
                    "num_conditions": len(conditions),
                    "n": _fewest(group),
                    **{name: _mean(_values(group, name)) for name in _metrics(group)},
                }
            )
    return means


def aggregate_seeds(rows: Sequence[Row], *, level: float = 0.95) -> list[Row]:
    """Mean over seeds of every metric with Student's t interval: per condition, and for `shift_rows`.

    The interval is for the mean over all seeds that could have been run, on these test examples.

    Args:
        rows: of `evaluate_predictions`; their own intervals are not used.
        level: nominal coverage.

    Returns:
        A row for each (data, method, calibrator, corruption, severity, subset), in the order of ``rows``, those of
        "all_shifts" last: ``num_seeds``, ``n`` (the fewest examples of a seed), and for each metric the mean and
        ``_sd`` (S - 1), ``_low``, ``_high``. These three are None for fewer than 3 seeds; a metric that a seed
        lacks is None altogether.

    Raises:
        InputError: a seed that occurs twice for the same condition.
        MissingExtraError: without scipy.
    """
    aggregated = []
    for group in _grouped([*rows, *shift_rows(rows)], (*_VARIANT, *_CONDITION, "subset")).values():
        seeds = [row.get("seed") for row in group]
        if len(set(seeds)) < len(seeds):
            raise InputError(
                expected="one row per seed and condition",
                got=f"seeds {seeds} of {_key(group[0], (*_VARIANT, *_CONDITION, 'subset'))}",
                hint="the rows of one study",
            )
        keys = (*_VARIANT, *_CONDITION, "subset", "num_corruptions", "num_conditions")
        row = {key: group[0][key] for key in keys if key in group[0]}
        row |= {"num_seeds": len(group), "n": _fewest(group)}
        for name in _metrics(group):
            row |= _over_seeds(name, _values(group, name), level)
        aggregated.append(row)
    return aggregated


def _over_seeds(name: str, values: list[float], level: float) -> Row:
    mean, spread, half_width = _mean(values), None, None
    if mean is not None and len(values) >= MIN_SEEDS:
        spread = statistics.stdev(values)
        half_width = student_quantile((1 + level) / 2, len(values) - 1) * spread / math.sqrt(len(values))
    return {
        name: mean,
        f"{name}_sd": spread,
        f"{name}_low": None if mean is None or half_width is None else mean - half_width,
        f"{name}_high": None if mean is None or half_width is None else mean + half_width,
    }


def paired_t_test(first: Sequence[float], second: Sequence[float]) -> float:
    """Two-sided p value of Student's paired t test of equal means, ``first[i]`` and ``second[i]`` being of one seed.

    Returns:
        p in [0, 1]; 1 if all pairs are equal. NaN for fewer than 3 pairs, and if all differ by the same number
        other than 0, where t is infinite and says more than any few seeds can.

    Raises:
        InputError: sequences of different lengths.
        MissingExtraError: without scipy.
    """
    if len(first) != len(second):
        raise InputError(
            expected="one value of each method per seed", got=f"{len(first)} and {len(second)}", hint="common seeds"
        )
    if len(first) < MIN_SEEDS:
        return math.nan
    differences = [a - b for a, b in zip(first, second, strict=True)]
    mean, spread = statistics.fmean(differences), statistics.stdev(differences)
    rounding = 1e-14 * max(map(abs, (*first, *second)))
    if spread <= rounding:
        return 1.0 if abs(mean) <= rounding else math.nan
    t = mean / (spread / math.sqrt(len(differences)))
    return min(1.0, 2 * float(_scipy_special().stdtr(len(differences) - 1, -abs(t))))


def student_quantile(probability: float, degrees_of_freedom: int) -> float:
    """Quantile of Student's t distribution.

    Raises:
        MissingExtraError: without scipy.
    """
    return float(_scipy_special().stdtrit(degrees_of_freedom, probability))


def _scipy_special() -> Any:
    try:
        from scipy import special
    except ImportError as error:
        raise MissingExtraError("scipy", "data") from error
    return special


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted for testing all of them (Holm 1979): reject at ``level`` where the result is below it.

    The k-th smallest of m is multiplied by m - k + 1, and none is smaller than one before it. The chance of any
    false rejection is kept, whatever the dependence of the tests. NaN, a test that was not made, stays NaN and
    does not count.

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

    With the replicates of one model under every shift, these are its replicates on "all_shifts".
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
    """Interval for a mean over seeds and examples, where all seeds are evaluated on the same examples.

    A hierarchical bootstrap: a replicate draws the seeds with replacement, and the examples once for all of them
    (replicate b is of the same resample for every seed).

    Resampling S seeds shows only (S - 1) / S of their variance, and normal tails. So the deviations between seeds
    are stretched by t / z · √(S / (S - 1)), t and z being the quantiles of Student's and the normal distribution
    (the correction of the "expanded" percentiles of Hesterberg 2015, section 4.2, made on the deviations, because
    resamples of three seeds have no further percentiles).

    Args:
        values: on all examples, one per seed, S of them. One seed: the plain bootstrap over examples, for this
            one model.
        replicates: on each of B resamples, float64, shape (S, B).
        bias: by how much ``values`` are too large, at least and at most.
        level: nominal coverage.
        seed: of the resampling of seeds.

    Returns:
        (low, high).

    Raises:
        MissingExtraError: without scipy, for more than one seed.
    """
    observed = replicates.new_tensor(values)
    num_seeds, num_replicates = replicates.shape
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
    """By how much a mean of calibration errors is too large, at least and at most.

    Noise inflates a calibration error, and resampling inflates it again, by the bootstrap's estimate of the bias:
    the mean replicate minus the value. How good that is depends on the true gaps, which are unknown. For one gap g
    with standard error σ, whose estimate is g + σZ, the true bias is E|g + σZ| - |g|, and the bootstrap's on
    average E|g + σ√2 Z| - E|g + σZ|. That is too small by the factor 1/(√2 - 1) = 1 + √2 at g = 0, too large by 1.4
    at g = σ, and both fade from 2σ on. Between half of it and 1 + √2 times it the true bias is found, up to 0.03σ,
    wherever g lies.

    Args:
        values: one per seed, shape (S,).
        replicates: on resamples, shape (S, B).
    """
    bias = max(0.0, float(replicates.mean()) - statistics.fmean(values))
    return bias / 2, (1 + math.sqrt(2)) * bias


def compare_methods(
    rows: Sequence[Row],
    replicates: Mapping[tuple[str, str, int, str], Mapping[str, Tensor]] | None = None,
    *,
    references: Sequence[Variant] = REFERENCES,
    metrics: Sequence[str] = METRICS,
    level: float = 0.95,
    seed: int = 0,
) -> list[Row]:
    """Every (method, calibrator) against each reference, on the clean data and on the mean over all shifts.

    Seeds are paired: the same seed means the same splits and order of the data. The t test and its p value ask
    whether the mean over seeds differs on these test examples; the interval is for other seeds and other examples
    (see `crossed_bootstrap_interval`), and for calibration errors it allows for the inflation of either estimate
    (see `bias_range`), which ``difference`` does not.

    Measured coverage of the 95 % intervals for the difference of two ECEs, and of two subset calibration errors, over
    ten pairs of populations (over-confident by 0 to 0.01 against 0 to 0.05, at accuracy 0.92 and 0.75; 2,000
    examples; ``tests/test_comparison.py``): one seed 0.91 to 1.00 (300 samples each), three seeds 0.967 to 1.00 (150
    samples each). It is least where a perfectly calibrated model meets a poor one (0.91 for 10,000 examples, too), and
    two good models have wide intervals, because their inflation is not known better. Where the inflation is
    ignored, the coverage for ECE falls to 0.43 on such populations; where the bootstrap's estimate of it is subtracted,
    to 0.65.

    Args:
        rows: of one data set, see `evaluate_predictions`.
        replicates: (method, calibrator, seed, "clean" or "all_shifts") -> `resampled_metrics`, all with the same
            resamples (for "all_shifts" the `mean_replicates` of the conditions). Without them, or where a seed
            lacks them, there is no interval.
        references: to compare with; those without rows are left out.
        metrics: keys of the rows.
        level: nominal coverage of the intervals.
        seed: of the resampling of seeds.

    Returns:
        Flat dicts: ``method, calibrator, reference_method, reference_calibrator, condition, metric``;
        ``num_seeds``, the seeds that both have; ``value`` and ``reference_value``, the means over them, and
        ``difference`` of the two (negative: lower than the reference); ``low`` and ``high`` for it, with one seed
        over examples only; ``p`` of `paired_t_test`; ``p_holm``, adjusted for all variants that are compared with
        one reference on one metric and condition. What cannot be known is None, p for fewer than 3 seeds for one.
        Pairs without a common seed have no row.

    Raises:
        InputError: rows of several data sets.
        MissingExtraError: without scipy, for more than one seed.
    """
    values = _values_by_seed(rows, metrics)
    variants = list(dict.fromkeys(variant for variant, _, _ in values))
    compared: list[Row] = []
    for reference, condition, metric in product(references, (CLEAN, ALL_SHIFTS), metrics):
        family: list[Row] = []
        for variant in variants:
            ours, theirs = (values.get((one, condition, metric), {}) for one in (variant, reference))
            seeds = sorted(ours.keys() & theirs.keys())
            if variant == reference or not seeds:
                continue
            first, second = [ours[s] for s in seeds], [theirs[s] for s in seeds]
            low, high = _difference_interval(
                metric,
                (first, _stacked(replicates or {}, variant, seeds, condition, metric)),
                (second, _stacked(replicates or {}, reference, seeds, condition, metric)),
                level=level,
                seed=seed,
            )
            family.append(
                {
                    **dict(zip(("method", "calibrator"), variant, strict=True)),
                    **dict(zip(("reference_method", "reference_calibrator"), reference, strict=True)),
                    "condition": condition,
                    "metric": metric,
                    "num_seeds": len(seeds),
                    "value": statistics.fmean(first),
                    "reference_value": statistics.fmean(second),
                    "difference": statistics.fmean(first) - statistics.fmean(second),
                    "low": low,
                    "high": high,
                    "p": paired_t_test(first, second),
                }
            )
        for row, adjusted in zip(family, holm([row["p"] for row in family]), strict=True):
            row["p"], row["p_holm"] = (None if math.isnan(p) else p for p in (row["p"], adjusted))
        compared += family
    return compared


def _difference_interval(
    metric: str,
    first: tuple[list[float], Tensor | None],
    second: tuple[list[float], Tensor | None],
    *,
    level: float,
    seed: int,
) -> tuple[float | None, float | None]:
    """Interval for the difference of two (values, replicates); (None, None) without replicates of both."""
    (values, replicates), (other_values, other_replicates) = first, second
    if replicates is None or other_replicates is None:
        return None, None
    bias = (0.0, 0.0)
    if metric in _INFLATED:
        least, most = bias_range(values, replicates)
        other_least, other_most = bias_range(other_values, other_replicates)
        bias = (least - other_most, most - other_least)
    differences = [a - b for a, b in zip(values, other_values, strict=True)]
    return crossed_bootstrap_interval(differences, replicates - other_replicates, bias=bias, level=level, seed=seed)


def _stacked(
    replicates: Mapping[tuple[str, str, int, str], Mapping[str, Tensor]],
    variant: Variant,
    seeds: Sequence[int],
    condition: str,
    metric: str,
) -> Tensor | None:
    """Replicates of a variant, shape (S, B); None where a seed lacks them."""
    found = [replicates.get((*variant, seed, condition), {}).get(metric) for seed in seeds]
    present = [values for values in found if values is not None]
    return torch.stack(present).double() if len(present) == len(seeds) else None


def _values_by_seed(rows: Sequence[Row], metrics: Sequence[str]) -> dict[tuple[Variant, str, str], dict[int, float]]:
    """(variant, condition, metric) -> seed -> value, of all examples together."""
    data = {row.get("data") for row in rows}
    if len(data) > 1:
        raise InputError(
            expected="rows of one data set", got=", ".join(sorted(map(str, data))), hint="one comparison for each"
        )
    overall = [row for row in rows if row.get("subset") is None]
    clean = [row for row in overall if row["corruption"] == "none"]
    values: dict[tuple[Variant, str, str], dict[int, float]] = {}
    for condition, group in ((CLEAN, clean), (ALL_SHIFTS, shift_rows(overall))):
        for row, metric in product(group, metrics):
            value = _number(row.get(metric))
            if math.isfinite(value):
                by_seed = values.setdefault(((row["method"], row["calibrator"]), condition, metric), {})
                by_seed[row.get("seed", 0)] = value
    return values


def _grouped(rows: Iterable[Row], keys: Sequence[str]) -> dict[tuple[Any, ...], list[Row]]:
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(_key(row, keys), []).append(row)
    return groups


def _key(row: Row, keys: Sequence[str]) -> tuple[Any, ...]:
    return tuple(row.get(key) for key in keys)


def _metrics(group: Sequence[Row]) -> list[str]:
    """List the metrics that any row has a number for, without keys, counts and ends of intervals."""
    names = dict.fromkeys(name for row in group for name in row)
    return [
        name
        for name in names
        if name not in _NO_METRIC
        and not name.startswith("num_")
        and not name.endswith(("_low", "_high"))
        and any(math.isfinite(_number(row.get(name))) for row in group)
    ]


def _values(group: Sequence[Row], name: str) -> list[float]:
    return [_number(row.get(name)) for row in group]


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def _mean(values: Sequence[float]) -> float | None:
    mean = statistics.fmean(values)
    return mean if math.isfinite(mean) else None


def _fewest(group: Sequence[Row]) -> int | None:
    return min((row["n"] for row in group if row.get("n") is not None), default=None)
