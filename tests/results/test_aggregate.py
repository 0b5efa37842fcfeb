"""One rule for means over conditions and seeds, and for their intervals; what is called significant, and what noise."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from aradals.errors import InputError
from aradals.results import Condition, Measure, Method, Metric, Results, Row, Variant, difference, measure
from aradals.results.aggregate import (
    by_seed,
    is_noise,
    mean_of,
    mean_over_seeds,
    means,
    places,
    relation,
    relative_cost,
    student_quantile,
)
from aradals.results.records import CLEAN, Comparison, Cost, DataSummary

VANILLA, OURS = Variant("vanilla"), Variant("ours")
SHIFTS = (Condition("fog", 1), Condition("fog", 5), Condition("snow", 1), Condition("snow", 5))


def row(
    value: float | Measure,
    *,
    variant: Variant = VANILLA,
    seed: int = 0,
    condition: Condition = CLEAN,
    subset: int | None = None,
    metric: Metric = "ece",
) -> Row:
    found = value if isinstance(value, Measure) else Measure(value)
    keys = (variant.method, variant.calibrator, seed, condition.corruption, condition.severity)
    return Row(*keys, n=100, metrics={metric: found}, subset=subset)


def results_of(*rows: Row, comparisons: tuple[Comparison, ...] = ()) -> Results:
    methods = (Method("vanilla", "vanilla"), Method("ours", "ours"))
    return Results("study", "made up", DataSummary("digits", 10), methods, "vanilla", rows, comparisons=comparisons)


# Means


def test_the_mean_under_shift_is_over_all_shifts() -> None:
    values = (0.1, 0.2, 0.3, 0.6)
    results = results_of(row(9.0), *(row(each, condition=c) for each, c in zip(values, SHIFTS, strict=True)))
    assert places(results) == {"clean": (CLEAN,), "all_shifts": SHIFTS}
    assert measure(results, VANILLA, "ece", conditions=SHIFTS).value == pytest.approx(0.3)
    assert measure(results, VANILLA, "ece").value == 9.0
    assert places(results_of(row(9.0))) == {"clean": (CLEAN,)}


def test_a_mean_that_lacks_a_condition_is_not_formed() -> None:
    complete = [row(0.1, condition=condition) for condition in (CLEAN, *SHIFTS)]
    lacking = [row(0.1, variant=OURS, condition=condition) for condition in (CLEAN, *SHIFTS[:-1])]
    results = results_of(*complete, *lacking)
    assert measure(results, VANILLA, "ece", conditions=SHIFTS).value == pytest.approx(0.1)
    missing = measure(results, OURS, "ece", conditions=SHIFTS)
    assert not missing.known
    assert missing.num_seeds == 0
    assert measure(results, OURS, "ece", conditions=SHIFTS[:-1]).known
    means_under_shift = [mean.variant for mean in means(results) if mean.condition is None]
    assert means_under_shift == [VANILLA]


def test_a_seed_that_lacks_a_condition_or_a_metric_is_left_out() -> None:
    rows = [row(0.1 + seed, seed=seed, condition=condition) for seed in range(4) for condition in SHIFTS]
    del rows[1]  # of seed 0
    rows[-1] = replace(rows[-1], metrics={"ece": Measure(), "nll": Measure(1.0)})
    results = results_of(*rows)
    found = by_seed(results, VANILLA, "ece", SHIFTS)
    assert {seed: each.value for seed, each in found.items()} == pytest.approx({1: 1.1, 2: 2.1})
    assert measure(results, VANILLA, "ece", conditions=SHIFTS).num_seeds == 2
    assert not measure(results, VANILLA, "nll", conditions=SHIFTS).known


def test_subsets_have_their_own_means() -> None:
    rows = [
        row(0.1 + (subset or 0), condition=condition, subset=subset) for subset in (None, 0, 1) for condition in SHIFTS
    ]
    values = {
        subset: measure(results_of(*rows), VANILLA, "ece", conditions=SHIFTS, subset=subset).value
        for subset in (None, 0, 1)
    }
    assert values == pytest.approx({None: 0.1, 0: 0.1, 1: 1.1})


def test_the_interval_of_one_seed_is_that_of_its_rows() -> None:
    first, second = Measure(0.1, 0.05, 0.2), Measure(0.3, 0.25, 0.5)
    results = results_of(row(first, condition=SHIFTS[0]), row(second, condition=SHIFTS[1]))
    assert measure(results, VANILLA, "ece", conditions=SHIFTS[:1]) == first
    mean = measure(results, VANILLA, "ece", conditions=SHIFTS[:2])
    assert (mean.value, mean.low, mean.high) == pytest.approx((0.2, 0.15, 0.35))
    assert (mean.num_seeds, math.isnan(mean.spread)) == (1, True)


def test_the_interval_over_seeds_is_that_of_student_where_examples_are_certain() -> None:
    values = [0.4, 0.5, 0.9]
    mean = measure(results_of(*(row(Measure(v, v, v), seed=s) for s, v in enumerate(values))), VANILLA, "ece")
    low, high = scipy.stats.t.interval(0.95, 2, loc=0.6, scale=scipy.stats.sem(values))
    assert (mean.value, mean.spread) == pytest.approx((0.6, math.sqrt(0.07)))
    assert (mean.low, mean.high) == pytest.approx((max(low, 0), min(high, 1)))
    assert mean.num_seeds == 3


@given(
    st.lists(st.tuples(st.floats(0.3, 0.7), st.floats(0, 0.1), st.floats(0, 0.1)), min_size=3, max_size=6),
)
def test_sampling_and_seeds_add_up_in_the_interval(seeds: list[tuple[float, float, float]]) -> None:
    """The half-width is √(h² + (t s/√S)²), around the middle of the mean interval of the examples."""
    measures = [Measure(value, value - below, value + above) for value, below, above in seeds]
    mean, spread = mean_over_seeds(measures, "gap"), statistics.stdev([m.value for m in measures])
    low, high = (sum(ends) / len(seeds) for ends in ([m.low for m in measures], [m.high for m in measures]))
    t = scipy.stats.t.ppf(0.975, len(seeds) - 1)
    half_width = math.hypot((high - low) / 2, t * spread / math.sqrt(len(seeds)))
    assert mean.value == pytest.approx(sum(m.value for m in measures) / len(seeds))
    assert mean.spread == pytest.approx(spread, abs=1e-12)
    ends = max((low + high) / 2 - half_width, -1.0), min((low + high) / 2 + half_width, 1.0)
    assert (mean.low, mean.high) == pytest.approx(ends)
    assert mean_over_seeds(measures[::-1], "gap").low == pytest.approx(mean.low)


def test_intervals_stay_where_values_can_be() -> None:
    wide = [Measure(0.1, 0.0, 1.0), Measure(0.9, 0.0, 1.0), Measure(-9.0, -9.0, 9.0)]
    ends: dict[Metric, tuple[float, float]] = {"accuracy": (0, 1), "ece": (0, 1), "brier": (0, 2), "gap": (-1, 1)}
    for metric, expected in ends.items():
        mean = mean_over_seeds(wide, metric)
        assert (mean.low, mean.high) == expected
    mean = mean_over_seeds(wide, "nll")
    assert mean.low == 0
    assert mean.high > 5


def test_two_seeds_have_no_interval() -> None:
    """Student's quantile for one degree of freedom is 12.7, so that the interval would say nothing."""
    mean = mean_over_seeds([Measure(0.1, 0.0, 0.2), Measure(0.3, 0.2, 0.4)], "ece")
    assert (mean.num_seeds, mean.has_interval) == (2, False)
    assert (mean.value, mean.spread) == pytest.approx((0.2, math.sqrt(0.02)))
    assert mean_over_seeds([Measure(0.1, 0.0, 0.2)] * 3, "ece").has_interval


def test_the_spread_under_shift_is_that_of_the_means_of_the_seeds() -> None:
    rows = [
        row(value + (seed if index == 3 else 0), seed=seed, condition=SHIFTS[index])
        for seed in range(3)
        for index, value in enumerate((0.1, 0.2, 0.3, 0.4))
    ]
    mean = measure(results_of(*rows), VANILLA, "ece", conditions=SHIFTS)
    assert (mean.value, mean.spread) == pytest.approx((0.5, 0.25))
    assert not mean.has_interval  # that of the examples is not known


def test_a_seed_counts_once() -> None:
    with pytest.raises(InputError, match="one row for each variant, seed, condition and subset"):
        measure(results_of(row(0.1), row(0.1)), VANILLA, "ece")


def test_records_of_means_have_every_condition_and_the_mean_over_shifts() -> None:
    rows = [
        row(Measure(value, value - 0.01, value + 0.01), seed=seed, condition=condition)
        for seed in range(3)
        for value, condition in zip((0.5, 0.1, 0.2, 0.3, 0.6), (CLEAN, *SHIFTS), strict=True)
    ]
    results = results_of(*rows, *(row(0.3, variant=OURS, seed=s, subset=1) for s in range(3)))
    records = [mean.record for mean in means(results)]
    assert [(each["method"], each["corruption"], each["severity"], each["subset"]) for each in records] == [
        ("vanilla", "none", 0, None),
        *(("vanilla", shift.corruption, shift.severity, None) for shift in SHIFTS),
        ("vanilla", "all_shifts", None, None),
        ("ours", "none", 0, 1),
    ]
    under_shift = records[5]
    assert under_shift == {
        "method": "vanilla",
        "calibrator": "none",
        "corruption": "all_shifts",
        "severity": None,
        "subset": None,
        "num_seeds": 3,
        "ece": pytest.approx(0.3),
        "ece_low": pytest.approx(0.29),
        "ece_high": pytest.approx(0.31),
        "ece_sd": pytest.approx(0),
    }


def test_the_quantile_of_student() -> None:
    assert student_quantile(0.975, 2) == pytest.approx(4.302653)
    assert student_quantile(0.5, 7) == pytest.approx(0)


def test_the_mean_of_what_is_not_known_is_not_known() -> None:
    assert not mean_of([Measure(0.1), Measure()]).known
    assert mean_over_seeds([], "ece") == Measure(num_seeds=0)


# Gaps


def test_the_interval_of_a_gap_follows_from_those_of_its_parts() -> None:
    metrics: dict[Metric, Measure] = {"accuracy": Measure(0.8, 0.77, 0.82), "confidence": Measure(0.9, 0.89, 0.92)}
    results = results_of(replace(row(0.0), metrics=metrics))
    gap = measure(results, VANILLA, "gap")
    expected = (0.1, 0.1 - math.hypot(0.01, 0.02), 0.1 + math.hypot(0.02, 0.03))
    assert (gap.value, gap.low, gap.high) == pytest.approx(expected)
    certain = replace(row(0.0), metrics=metrics | {"confidence": Measure(0.9, 0.9, 0.9)})
    assert (certain["gap"].low, certain["gap"].high) == pytest.approx((0.08, 0.13))


# Differences


def pair(value: float, low: float, high: float, metric: Metric = "nll") -> Comparison:
    return Comparison("ours", "none", "vanilla", "none", "clean", metric, 1, 0.0, 0.0, value, low, high)


def two(ours: Measure, vanilla: Measure, *comparisons: Comparison, metric: Metric = "nll") -> Results:
    rows = (row(ours, variant=OURS, metric=metric), row(vanilla, metric=metric))
    return results_of(*rows, comparisons=comparisons)


def test_differences_are_looked_up() -> None:
    results = two(Measure(0.1), Measure(0.2), pair(-0.1, -0.2, 0.05))
    assert difference(results, OURS, VANILLA, "nll") == Measure(-0.1, -0.2, 0.05)
    for missing in (
        difference(results, OURS, VANILLA, "ece"),
        difference(results, OURS, VANILLA, "nll", "all_shifts"),
        difference(results, VANILLA, OURS, "nll"),
    ):
        assert not missing.known
        assert missing.num_seeds == 0


def test_a_paired_interval_decides_whatever_the_two_intervals_are() -> None:
    apart, overlapping = (Measure(0.1, 0.09, 0.11), Measure(0.2, 0.19, 0.21)), (Measure(0.1, 0, 1), Measure(0.2, 0, 1))
    for ours, vanilla in (apart, overlapping):
        for low, high, expected in ((-0.2, -0.05, -1), (-0.2, 0.05, 0), (-0.2, 0.0, 0)):
            assert relation(two(ours, vanilla, pair(-0.1, low, high)), OURS, VANILLA, "nll") == expected
    assert relation(two(*overlapping, pair(0.1, 0.01, 0.2)), OURS, VANILLA, "nll") == 1


def test_without_pairs_intervals_must_not_overlap() -> None:
    low, high, between = Measure(0.1, 0.05, 0.15), Measure(0.3, 0.2, 0.4), Measure(0.2, 0.1, 0.3)
    assert relation(two(low, high), OURS, VANILLA, "nll") == -1
    assert relation(two(high, low), OURS, VANILLA, "nll") == 1
    for other in (low, high, Measure(0.2), Measure()):
        assert relation(two(between, other), OURS, VANILLA, "nll") == 0
    touching = Measure(0.1, 0.05, 0.2)
    assert relation(two(touching, high), OURS, VANILLA, "nll") == 0


def with_floor(results: Results, limit: float) -> Results:
    rows = (replace(each, metrics={**each.metrics, "ece_noise_floor_p95": Measure(limit)}) for each in results.rows)
    return replace(results, rows=tuple(rows))


@pytest.mark.parametrize(
    ("error", "limit", "expected"),
    [
        (Measure(0.03, 0.01, 0.05), 0.02, False),
        (Measure(0.03, 0.0, 0.05), 0.02, False),  # a wide interval explains nothing
        (Measure(0.281), 0.02, False),  # nor does a missing one
        (Measure(0.02, 0.01, 0.05), 0.02, True),  # chance explains it
        (Measure(0.03, 0.01, 0.05), math.nan, None),
    ],
)
def test_noise_is_what_chance_explains(error: Measure, limit: float, expected: bool | None) -> None:
    results = with_floor(two(error, error, metric="ece"), limit)
    assert is_noise(results, OURS, "ece") is expected


def test_two_errors_within_noise_do_not_differ() -> None:
    small, smaller = Measure(0.014, 0.013, 0.015), Measure(0.005, 0.004, 0.006)
    for comparisons in ((), (pair(-0.009, -0.010, -0.008, "ece"),)):
        results = two(smaller, small, *comparisons, metric="ece")
        assert relation(results, OURS, VANILLA, "ece") == -1  # no noise floor is known
        assert relation(with_floor(results, 0.02), OURS, VANILLA, "ece") == 0
        assert relation(with_floor(results, 0.01), OURS, VANILLA, "ece") == -1  # one of them is more than noise


def test_the_cost_of_a_method_is_the_mean_over_its_seeds() -> None:
    costs = (Cost("ours", 0, relative_cost=2.0), Cost("ours", 1, relative_cost=4.0), Cost("ours", 2))
    results = replace(results_of(row(0.1)), costs=costs)
    assert relative_cost(results, "ours") == 3.0
    assert math.isnan(relative_cost(results, "vanilla"))
