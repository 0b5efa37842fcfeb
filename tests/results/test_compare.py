"""Comparing methods: by hand, against scipy, textbook numbers, and the coverage of intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from aradals.errors import InputError
from aradals.metrics import expected_calibration_error, nll, subset_calibration_error
from aradals.metrics.bootstrap import resample_means, resampled_metrics
from aradals.results.compare import (
    COMPARED,
    bias_range,
    compare_methods,
    crossed_bootstrap_interval,
    holm,
    mean_replicates,
    paired_t_test,
)
from aradals.results.records import (
    Comparison,
    Condition,
    DataSummary,
    Measure,
    Method,
    Metric,
    Place,
    Results,
    Row,
    Variant,
)

# Resampled metrics


def test_resampled_metrics_are_the_metrics_of_the_resample() -> None:
    """Row b of the resampling of an identity matrix gives the counts of resample b."""
    n, num_resamples = 120, 8
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(n, 4, generator=generator)
    labels, subsets = torch.randint(4, (n,), generator=generator), torch.arange(n) % 40  # of 3: some will be missing
    found = resampled_metrics(labels, logits=logits, subsets=subsets, num_resamples=num_resamples, seed=3)
    counts = (resample_means(torch.eye(n, dtype=torch.float64), num_resamples, 3) * n).round().long()
    assert (counts @ torch.nn.functional.one_hot(subsets)).eq(0).any()
    for b, drawn in enumerate(torch.arange(n).repeat_interleave(row) for row in counts):
        z, y, r = logits[drawn], labels[drawn], subsets[drawn]
        assert float(found["ece"][b]) == pytest.approx(expected_calibration_error(y, logits=z), abs=1e-12)
        assert float(found["nll"][b]) == pytest.approx(nll(y, logits=z), abs=1e-12)
        assert float(found["accuracy"][b]) == pytest.approx(float((z.argmax(1) == y).double().mean()))
        expected = subset_calibration_error(y, r, logits=z).mean
        assert float(found["subset_calibration_error"][b]) == pytest.approx(expected, abs=1e-12)


def test_two_models_see_the_same_resamples() -> None:
    labels = torch.arange(50) % 2
    right = torch.nn.functional.one_hot(labels, 2) * 4.0
    half = right.clone()
    half[:25] = half[:25].flip(1)
    found = [resampled_metrics(labels, logits=z, num_resamples=30)["accuracy"] for z in (half, -half)]
    assert torch.allclose(found[0] + found[1], torch.ones(30, dtype=torch.float64))


def test_resampled_metrics_that_are_wanted() -> None:
    logits, labels = torch.randn(20, 3), torch.arange(20) % 3
    assert list(resampled_metrics(labels, logits=logits, num_resamples=4, metrics=["nll"])) == ["nll"]
    with pytest.raises(InputError, match="subset_calibration_error"):
        resampled_metrics(labels, logits=logits, metrics=["subset_calibration_error"])


# Tests over seeds


def test_paired_t_test_in_closed_form() -> None:
    """With 2 degrees of freedom p = 1 - |t| / √(t² + 2)."""
    t = 2 / (1 / math.sqrt(3))  # differences 1, 2, 3
    assert paired_t_test([2.0, 4.0, 6.0], [1.0, 2.0, 3.0]) == pytest.approx(1 - t / math.sqrt(t**2 + 2))


@given(
    pairs=st.lists(st.tuples(st.floats(0, 1).map(lambda x: round(x, 3)), st.floats(0, 1)), min_size=3, max_size=8),
)
def test_paired_t_test_is_that_of_scipy(pairs: list[tuple[float, float]]) -> None:
    first, second = map(list, zip(*pairs, strict=True))
    if torch.tensor(first, dtype=torch.float64).sub(torch.tensor(second, dtype=torch.float64)).std() > 1e-6:
        p = paired_t_test(first, second)
        assert p == pytest.approx(float(scipy.stats.ttest_rel(first, second).pvalue), rel=1e-6, abs=1e-12)
        assert p == pytest.approx(paired_t_test(second, first))


def test_paired_t_test_without_variance() -> None:
    assert paired_t_test([0.1, 0.2, 0.3], [0.1, 0.2, 0.3]) == 1
    assert math.isnan(paired_t_test([0.3, 0.4, 0.5], [0.1, 0.2, 0.3]))
    assert math.isnan(paired_t_test([0.3, 0.4], [0.1, 0.9]))
    with pytest.raises(InputError, match="one value per method and seed"):
        paired_t_test([0.3, 0.4, 0.5], [0.1, 0.9])


def test_holm_by_hand() -> None:
    # Five tests, by the definition: 5 * .0001, 4 * .0058, 3 * .0132, 2 * .0289, and not .0498, which would be smaller.
    assert holm([0.0132, 0.0001, 0.0498, 0.0289, 0.0058]) == pytest.approx([0.0396, 0.0005, 0.0578, 0.0578, 0.0232])
    assert holm([0.6, 0.5]) == [1, 1]
    assert holm([]) == []


def test_holm_leaves_out_what_was_not_tested() -> None:
    adjusted = holm([math.nan, 0.02, math.nan, 0.03])
    assert adjusted[1::2] == pytest.approx([0.04, 0.04])
    assert math.isnan(adjusted[0])


@given(st.lists(st.floats(0, 1), max_size=12))
def test_properties_of_holm(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(p <= after <= min(1, len(p_values) * p) for p, after in zip(p_values, adjusted, strict=True))
    ranked = sorted(zip(p_values, adjusted, strict=True))
    assert all(first[1] <= second[1] for first, second in pairwise(ranked))
    # Reject the smallest, then the next at a milder level, until the first failure (the step-down procedure).
    rejected = True
    for rank, (p, after) in enumerate(ranked):
        rejected = rejected and (len(ranked) - rank) * p <= 0.05
        assert (after <= 0.05) == rejected


# Comparison


def rows_of(
    method: str, seed: int, values: Mapping[Condition, Mapping[Metric, float]], calibrator: str = "none"
) -> list[Row]:
    return [
        Row(
            *(method, calibrator, seed, condition.corruption, condition.severity),
            n=100,
            metrics={metric: Measure(value, value - 0.1, value + 0.1) for metric, value in metrics.items()},
        )
        for condition, metrics in values.items()
    ]


def study_of(rows: Sequence[Row], reference: str = "vanilla") -> Results:
    names = dict.fromkeys([*(row.method for row in rows), reference])
    methods = tuple(Method(name, name) for name in names)
    return Results("study", "made up", DataSummary("digits", 10), methods, reference, tuple(rows))


CLEAN = Condition()
CONDITIONS = (CLEAN, Condition("fog", 1), Condition("fog", 5), Condition("snow", 1), Condition("snow", 5))


def compared(
    values: dict[str, list[float]], replicates: Mapping[str, Tensor] | None = None, metric: Metric = "nll"
) -> dict[str, Comparison]:
    """The comparison of methods on clean data by one metric, by method."""
    rows = [
        row
        for method, by_seed in values.items()
        for seed, value in enumerate(by_seed)
        for row in rows_of(method, seed, {CLEAN: {metric: value}})
    ]
    given: dict[tuple[Variant, int, Place], dict[str, Tensor]] = {
        (Variant(method), seed, "clean"): {metric: by_resample}
        for method, by_seed in (replicates or {}).items()
        for seed, by_resample in enumerate(by_seed)
    }
    return {row.method: row for row in compare_methods(study_of(rows), given, metrics=[metric])}


def test_compared_with_the_reference_and_each_of_its_calibrators() -> None:
    rows = [
        row
        for method in ("vanilla", "label_smoothing", "ours")
        for calibrator in ("none", "temperature")
        for seed in range(3)
        for condition in CONDITIONS
        for row in rows_of(method, seed, {condition: {"ece": 0.1 + 0.01 * seed, "nll": 1.0}}, calibrator)
    ]
    for reference in ("vanilla", "ours"):
        found = compare_methods(study_of(rows, reference), {})
        assert len(found) == 2 * 5 * 2 * 2  # references, others, conditions, metrics
        assert {row.reference for row in found} == {Variant(reference), Variant(reference, "temperature")}
        assert {row.place for row in found} == {"clean", "all_shifts"}
        assert {row.metric for row in found} == {"ece", "nll"} < set(COMPARED)
        assert not any(row.variant == row.reference for row in found)
    only_ours = [row for row in rows if row.method == "ours"]
    assert compare_methods(study_of(only_ours), {}) == ()
    assert len(compare_methods(study_of(only_ours, "ours"), {})) == 2 * 1 * 2 * 2
    on_clean = compare_methods(study_of([row for row in rows if row.condition == CLEAN]), {})
    assert {row.place for row in on_clean} == {"clean"}


def test_difference_and_its_tests() -> None:
    values = {"vanilla": [0.5, 0.6, 0.7], "first": [0.4, 0.45, 0.65], "second": [0.5, 0.7, 0.7]}
    found = compared(values)
    p = {name: float(scipy.stats.ttest_rel(values[name], values["vanilla"]).pvalue) for name in ("first", "second")}
    first = found["first"]
    assert (first.variant, first.reference) == (Variant("first"), Variant("vanilla"))
    assert (first.place, first.metric, first.num_seeds) == ("clean", "nll", 3)
    assert (first.value, first.reference_value, first.difference) == pytest.approx((0.5, 0.6, -0.1))
    assert (first.p, first.p_holm) == pytest.approx((p["first"], 2 * p["first"]))
    assert not first.measure.has_interval
    assert found["second"].p_holm == pytest.approx(max(p["second"], 2 * p["first"]))


def test_seeds_are_paired_and_those_of_one_method_only_left_out() -> None:
    ours = compared({"vanilla": [0.5, 0.6], "ours": [0.4, 0.5, 0.0]})["ours"]
    assert ours.num_seeds == 2
    assert ours.difference == pytest.approx(-0.1)
    assert math.isnan(ours.p)
    assert math.isnan(ours.p_holm)
    with pytest.raises(KeyError):
        compared({"vanilla": [0.5], "ours": []})["ours"]


def test_under_shift_the_means_of_the_seeds_are_compared() -> None:
    """The second seed of ours lacks a condition: its mean could not be compared with that of the others."""
    rows = [
        row
        for method, share in (("vanilla", 0.1), ("ours", 0.05))
        for seed in range(2)
        for place, condition in enumerate(CONDITIONS)
        for row in rows_of(method, seed, {condition: {"nll": share * place}})
    ][:-1]
    on_clean, all_shifts = compare_methods(study_of(rows), {})
    assert (on_clean.num_seeds, all_shifts.num_seeds) == (2, 1)
    assert (all_shifts.value, all_shifts.reference_value) == pytest.approx((0.125, 0.25))


def test_one_seed_has_the_paired_bootstrap_over_examples() -> None:
    replicates = torch.randn(2, 1, 500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    replicates -= replicates.mean(2, keepdim=True)
    found = compared({"vanilla": [0.5], "ours": [0.4]}, {"vanilla": replicates[0], "ours": replicates[1]})["ours"]
    differences = replicates[1, 0] - replicates[0, 0] - 0.1
    assert found.num_seeds == 1
    assert found.low == pytest.approx(float(differences.quantile(0.025)))
    assert found.high == pytest.approx(float(differences.quantile(0.975)))


def test_no_interval_where_a_seed_lacks_its_replicates() -> None:
    replicates = torch.randn(3, 50, dtype=torch.float64)
    values = {"vanilla": [0.5, 0.6, 0.7], "ours": [0.4, 0.5, 0.7]}
    assert compared(values, {"vanilla": replicates, "ours": replicates})["ours"].measure.has_interval
    assert not compared(values, {"vanilla": replicates, "ours": replicates[:2]})["ours"].measure.has_interval


@pytest.mark.parametrize(("num_seeds", "has_interval"), [(1, True), (2, False), (3, True)])
def test_two_seeds_have_no_interval(num_seeds: int, has_interval: bool) -> None:
    replicates = 0.001 * torch.randn(2, num_seeds, 100, dtype=torch.float64)
    values = {"vanilla": [0.5, 0.9, 0.4][:num_seeds], "ours": [0.1, 0.3, 0.2][:num_seeds]}
    found = compared(values, {"vanilla": replicates[0], "ours": replicates[1]}, "ece")["ours"]
    assert found.measure.has_interval is has_interval
    assert found.difference == pytest.approx(sum(values["ours"]) / num_seeds - sum(values["vanilla"]) / num_seeds)
    if not has_interval:
        assert found.measure.sign == 0


@pytest.mark.parametrize(("metric", "least"), [("ece", -1.0), ("brier", -2.0)])
def test_differences_stay_where_differences_can_be(metric: Metric, least: float) -> None:
    replicates = 3 * torch.randn(2, 3, 100, dtype=torch.float64)
    values = {"vanilla": [0.9, 0.1, 0.9], "ours": [0.1, 0.6, 0.0]}
    found = compared(values, {"vanilla": replicates[0], "ours": replicates[1]}, metric)["ours"]
    assert (found.low, found.high) == (least, -least)


def test_few_examples_have_no_interval() -> None:
    replicates = {"vanilla": torch.zeros(1, 50).double(), "ours": torch.randn(1, 50).double()}
    given: dict[tuple[Variant, int, Place], dict[str, Tensor]] = {
        (Variant(name), 0, "clean"): {"nll": values[0]} for name, values in replicates.items()
    }
    rows = [row for name in replicates for row in rows_of(name, 0, {CLEAN: {"nll": 0.5}})]
    no_ends = [replace(row, metrics={"nll": Measure(0.5)}) for row in rows]
    for changed, expected in ((rows, True), ([replace(row, n=49) for row in rows], False), (no_ends, False)):
        (found,) = compare_methods(study_of(changed), given, metrics=["nll"])
        assert found.measure.has_interval is expected


def test_inflation_widens_intervals_of_calibration_errors_only() -> None:
    """The replicates of ours lie 0.02 above its value: the bias is between 0.01 and 0.0483."""
    noise = 0.001 * torch.randn(1, 500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    replicates = {"vanilla": torch.full((1, 500), 0.5, dtype=torch.float64), "ours": 0.12 + noise - noise.mean()}
    tail = 0.00196
    ends: dict[Metric, tuple[float, float]] = {"ece": (-0.4483, -0.41), "nll": (-0.40, -0.40)}
    for metric, (low, high) in ends.items():
        found = compared({"vanilla": [0.5], "ours": [0.1]}, replicates, metric)["ours"]
        assert found.low == pytest.approx(low - tail, abs=5e-4)
        assert found.high == pytest.approx(high + tail, abs=5e-4)
        assert found.difference == pytest.approx(-0.4)


def test_replicates_under_shift_are_means_over_conditions() -> None:
    first, second = {"ece": torch.tensor([0.0, 1.0]), "nll": torch.ones(2)}, {"ece": torch.tensor([0.5, 0.0])}
    assert {name: values.tolist() for name, values in mean_replicates([first, second]).items()} == {"ece": [0.25, 0.5]}


def test_end_to_end_on_two_shifts() -> None:
    """An over-confident model and its tempered copy, at three seeds, from logits to the comparison."""
    rows: list[Row] = []
    replicates: dict[tuple[Variant, int, Place], dict[str, Tensor]] = {}
    subsets = torch.arange(400) % 4
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        by_condition: dict[str, list[dict[str, Tensor]]] = {}
        for corruption, noise in (("none", 1.0), ("fog", 2.0), ("snow", 3.0)):
            clean = torch.randn(400, 5, generator=generator)
            labels = (clean + noise * torch.randn(400, 5, generator=generator)).argmax(1)
            for method, logits in (("vanilla", 8 * clean), ("ours", 2 * clean)):
                condition = CLEAN if corruption == "none" else Condition(corruption, 1)
                values: dict[Metric, float] = {
                    "ece": expected_calibration_error(labels, logits=logits),
                    "nll": nll(labels, logits=logits),
                    "subset_calibration_error": subset_calibration_error(labels, subsets, logits=logits).mean,
                }
                rows += rows_of(method, seed, {condition: values})
                found = resampled_metrics(labels, logits=logits, subsets=subsets, num_resamples=200)
                by_condition.setdefault(method + corruption, []).append(found)
        for method in ("vanilla", "ours"):
            (replicates[Variant(method), seed, "clean"],) = by_condition[method + "none"]
            shifts = by_condition[method + "fog"] + by_condition[method + "snow"]
            replicates[Variant(method), seed, "all_shifts"] = mean_replicates(shifts)
    differences = compare_methods(study_of(rows), replicates)
    assert {(row.place, row.metric) for row in differences} == {
        (place, metric) for place in ("clean", "all_shifts") for metric in ("ece", "nll", "subset_calibration_error")
    }
    assert all(row.low < row.difference < row.high < 0 and row.p_holm < 0.05 for row in differences)
    assert all(row.measure.sign == -1 for row in differences)


# Intervals


def test_crossed_bootstrap_by_its_moments() -> None:
    """The seeds' part has the variance s² / S, stretched by t / z; it and the examples' part add up."""
    values = [0.0, 1.0, 2.0, 5.0, 7.0]
    fixed = torch.tensor(values, dtype=torch.float64)[:, None].expand(-1, 200_000)
    low, high = crossed_bootstrap_interval(values, fixed)
    half_width = scipy.stats.t.ppf(0.975, 4) * scipy.stats.sem(values)
    assert (high - low) / 2 == pytest.approx(half_width, rel=0.05)
    noise = torch.randn(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    low, high = crossed_bootstrap_interval(values, fixed + 2 * noise)  # the same examples for all seeds
    assert (high - low) / 2 == pytest.approx(math.hypot(half_width, 1.96 * 2), rel=0.05)


@pytest.mark.parametrize(
    ("num_seeds", "of_seeds", "of_examples", "of_both"),
    [(1, 0.0, 1.0, 1.0), (3, 0.2, 0.5, 0.5), (3, 0.03, 1.0, 0.3), (3, 0.0, 0.0, 1.0), (5, 0.1, 1.0, 1.0)],
)
def test_coverage_for_means(num_seeds: int, of_seeds: float, of_examples: float, of_both: float) -> None:
    """Values are sums of normal effects of the seed, the example, and the two together; the true mean is 0."""
    generator = torch.Generator().manual_seed(0)
    num_examples, num_simulations, covered = 100, 300, 0
    for simulation in range(num_simulations):
        seeds = of_seeds * torch.randn(num_seeds, generator=generator, dtype=torch.float64)
        examples = of_examples * torch.randn(num_examples, 1, generator=generator, dtype=torch.float64)
        both = of_both * torch.randn(num_examples, num_seeds, generator=generator, dtype=torch.float64)
        columns = seeds + examples + both
        replicates = resample_means(columns, 300, simulation).T
        low, high = crossed_bootstrap_interval(columns.mean(0).tolist(), replicates, seed=simulation)
        covered += low <= 0 <= high
    assert covered >= 0.9 * num_simulations


def test_bias_range_brackets_the_bias_of_a_folded_normal() -> None:
    """|g + Z| is too large by E|g + Z| - |g|; that of the bootstrap is E|g + √2 Z| - E|g + Z| on average."""

    def mean_abs(gap: float, sigma: float) -> float:
        return float(scipy.stats.foldnorm.mean(gap / sigma, scale=sigma))

    for gap in (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0):
        replicates = torch.tensor([[mean_abs(gap, math.sqrt(2))]], dtype=torch.float64)
        least, most = bias_range([mean_abs(gap, 1)], replicates)
        assert least - 0.04 <= mean_abs(gap, 1) - gap <= most + 1e-6
    assert bias_range([0.5], torch.tensor([[0.4]])) == (0, 0)


METRICS: tuple[Metric, ...] = ("ece", "subset_calibration_error")
NUM_SUBSETS = 10


@dataclass
class Classifier:
    """Right with probability ``accuracy`` where it is ``confidence`` sure, for each example of a population."""

    confidence: Tensor
    accuracy: Tensor
    subsets: Tensor

    def true_errors(self) -> dict[Metric, float]:
        gap = self.confidence - self.accuracy
        bins = (self.confidence * 15).ceil().long().clamp(1, 15) - 1
        in_bins = torch.zeros(15, dtype=torch.float64).index_add_(0, bins, gap)
        in_subsets = torch.stack([gap[self.subsets == r].mean() for r in range(NUM_SUBSETS)])
        return dict(zip(METRICS, (float(in_bins.abs().sum()) / len(gap), float(in_subsets.abs().mean())), strict=True))

    def evaluate(self, rows: Tensor, uniform: Tensor, seed: int) -> tuple[dict[Metric, float], dict[str, Tensor]]:
        """Both metrics of a sample: their values, and on resamples."""
        confidence, subsets = self.confidence[rows, None], self.subsets[rows]
        logits = torch.cat([confidence, ((1 - confidence) / 9).expand(-1, 9)], 1).log()
        labels = (uniform >= self.accuracy[rows]).long()
        values: dict[Metric, float] = {
            "ece": expected_calibration_error(labels, logits=logits),
            "subset_calibration_error": subset_calibration_error(labels, subsets, logits=logits).mean,
        }
        return values, resampled_metrics(labels, logits=logits, subsets=subsets, num_resamples=300, seed=seed)


def classifiers(
    gap: float, spread: float, num_models: int, beta: tuple[float, float], generator: np.random.Generator
) -> list[Classifier]:
    """Models whose confidence exceeds their accuracy by ``gap`` ± ``spread`` on average, in proportion to p (1 - p)."""
    difficulty = np.random.default_rng(0).beta(*beta, 50_000)  # the same for all models, but for some noise
    accuracy = (difficulty + 0.05 * generator.standard_normal(50_000)).clip(0.12, 0.999)
    shape = accuracy * (1 - accuracy) / (accuracy * (1 - accuracy)).mean()
    subsets = torch.from_numpy(difficulty.argsort().argsort() * NUM_SUBSETS // 50_000)
    gaps = gap + spread * generator.standard_normal(num_models)
    confidences = [(accuracy + each * shape).clip(0.12, 0.999) for each in gaps]
    return [Classifier(torch.from_numpy(c), torch.from_numpy(accuracy), subsets) for c in confidences]


def coverage(
    gaps: tuple[float, float],
    *,
    num_seeds: int,
    spread: float,
    beta: tuple[float, float],
    num_examples: int,
    num_simulations: int,
) -> dict[Metric, float]:
    """How often the interval holds the true difference of two methods, of which the seeds are a sample of models."""
    numpy_generator, generator = np.random.default_rng(1), torch.Generator().manual_seed(1)
    num_models = 20 if num_seeds > 1 else 1
    methods = {
        name: classifiers(gap, spread, num_models, beta, numpy_generator)
        for name, gap in zip(("ours", "vanilla"), gaps, strict=True)
    }
    errors = {name: [model.true_errors() for model in models] for name, models in methods.items()}
    true = {
        metric: float(np.mean([e[metric] for e in errors["ours"]]) - np.mean([e[metric] for e in errors["vanilla"]]))
        for metric in METRICS
    }
    covered = dict.fromkeys(METRICS, 0)
    for simulation in range(num_simulations):
        drawn = torch.randint(50_000, (num_examples,), generator=generator)
        shared = torch.rand(num_examples, generator=generator)  # what is hard for one model is hard for others
        rows: list[Row] = []
        replicates: dict[tuple[Variant, int, Place], dict[str, Tensor]] = {}
        for method, models in methods.items():
            for seed in range(num_seeds):
                model = models[int(torch.randint(num_models, (), generator=generator))]
                own = torch.rand(2, num_examples, generator=generator)
                uniform = torch.where(own[0] < 0.7, shared, own[1])
                values, replicates[Variant(method), seed, "clean"] = model.evaluate(drawn, uniform, simulation)
                rows += rows_of(method, seed, {CLEAN: values})
        for row in compare_methods(study_of(rows), replicates, metrics=METRICS):
            covered[row.metric] += row.low <= true[row.metric] <= row.high
    return {metric: count / num_simulations for metric, count in covered.items()}


CIFAR_10_LIKE, CIFAR_100_LIKE = (4.0, 0.35), (3.0, 1.0)  # mean accuracy 0.92 and 0.75


def test_coverage_for_calibration_errors() -> None:
    found = coverage((0.01, 0.05), num_seeds=1, spread=0.0, beta=CIFAR_10_LIKE, num_examples=500, num_simulations=100)
    assert min(found.values()) >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("beta", [CIFAR_10_LIKE, CIFAR_100_LIKE])
@pytest.mark.parametrize("gaps", [(0.0, 0.05), (0.01, 0.05), (0.0, 0.02), (0.0, 0.0), (0.005, 0.01)])
@pytest.mark.parametrize(("num_seeds", "spread"), [(1, 0.0), (3, 0.02)])
def test_coverage_in_many_cases(
    gaps: tuple[float, float], beta: tuple[float, float], num_seeds: int, spread: float
) -> None:
    found = coverage(gaps, num_seeds=num_seeds, spread=spread, beta=beta, num_examples=1000, num_simulations=150)
    assert min(found.values()) >= 0.86  # 0.90 less two standard errors of 150 simulations
