"""Estimates with intervals: values, resampling, and the pieces of the calibration error interval."""

from __future__ import annotations

import math

import pytest
import torch

from aradals.errors import InputError
from aradals.metrics import (
    accuracy,
    all_metrics,
    aurc,
    bootstrap,
    brier_score,
    calibration_error_interval,
    error_auroc,
    estimate_metrics,
    expected_calibration_error,
    mean_confidence,
    nll,
    outcomes,
    resampled_metrics,
    subset_calibration_error,
    summarize,
    summarize_by_subset,
)
from aradals.metrics.bootstrap import resample_means
from aradals.metrics.intervals import abs_max, abs_sum
from aradals.metrics.selective import aurc_terms, auroc_terms
from aradals.metrics.summary import summarize_and_resample


@pytest.fixture
def problem() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(1500, 6, generator=generator)
    labels = (logits + 3 * torch.randn(1500, 6, generator=generator)).argmax(1)
    return logits, labels, torch.arange(1500) % 3


Problem = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def test_values_equal_the_point_metrics(problem: Problem) -> None:
    logits, labels, subsets = problem
    estimates = estimate_metrics(labels, logits=logits, subsets=subsets, num_resamples=100)
    errors = subset_calibration_error(labels, subsets, logits=logits)
    expected = {
        "accuracy": accuracy(labels, logits=logits),
        "confidence": mean_confidence(labels, logits=logits),
        "nll": nll(labels, logits=logits),
        "brier": brier_score(labels, logits=logits),
        "ece": expected_calibration_error(labels, logits=logits),
        "subset_calibration_error": errors.mean,
        "largest_subset_calibration_error": errors.largest,
    }
    family = all_metrics(labels, logits=logits)
    expected |= {name: family[name] for name in (*METRICS[5:], *OVERALL_METRICS)}
    assert {name: estimate.value for name, estimate in estimates.items()} == pytest.approx(expected, abs=1e-12)


def test_intervals_of_means_equal_the_normal_approximation(problem: Problem) -> None:
    logits, labels, _ = problem
    estimates = estimate_metrics(labels, logits=logits, num_resamples=4000)
    log_probs = logits.double().log_softmax(1)
    columns = {
        "confidence": log_probs.exp().amax(1),
        "nll": -log_probs[torch.arange(len(labels)), labels],
        "brier": (log_probs.exp() - torch.nn.functional.one_hot(labels, 6)).square().sum(1),
    }
    for name, column in columns.items():
        half_width = 1.96 * float(column.std()) / math.sqrt(len(column))
        estimate = estimates[name]
        assert estimate.value - estimate.low == pytest.approx(half_width, rel=0.1)
        assert estimate.high - estimate.value == pytest.approx(half_width, rel=0.1)


def test_resampled_means_have_the_right_moments() -> None:
    columns = torch.tensor([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0], [5.0, 1.0]], dtype=torch.float64)
    means = resample_means(columns, 20_000, seed=0)
    assert torch.equal(means[:, 1], torch.ones(20_000, dtype=torch.float64))
    assert float(means[:, 0].mean()) == pytest.approx(2, abs=0.03)
    assert float(means[:, 0].var()) == pytest.approx(float(columns[:, 0].var(correction=0)) / 4, rel=0.05)


def test_deterministic_given_the_seed(problem: Problem) -> None:
    logits, labels, subsets = problem

    def run(seed: int) -> object:
        return estimate_metrics(labels, logits=logits, subsets=subsets, num_resamples=50, seed=seed)

    assert run(0) == run(0)
    assert run(0) != run(1)


def test_interval_of_one_gap_is_the_basic_bootstrap_interval() -> None:
    """Far from 0 nothing is folded: observed minus the upper and the lower quantile of the deviations."""
    gaps = torch.tensor([0.3], dtype=torch.float64)
    deviations = 0.01 * torch.randn(4000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    low, high = calibration_error_interval(gaps, deviations, abs_sum)
    assert low == pytest.approx(0.3 - float(deviations.quantile(0.975)), abs=1e-4)
    assert high == pytest.approx(0.3 - float(deviations.quantile(0.025)), abs=1e-4)


def test_interval_holds_zero_unless_the_error_is_significant() -> None:
    deviations = 0.01 * torch.randn(2000, 15, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = deviations[0]
    low, high = calibration_error_interval(noise, deviations, abs_sum)
    assert low == 0
    assert high > 0
    gaps = noise + 0.02
    low, high = calibration_error_interval(gaps, deviations, abs_sum)
    assert 0 < low < 0.3 < high


def test_interval_of_the_largest_gap_allows_for_the_choice_of_the_largest() -> None:
    """The largest of twenty noisy gaps exceeds the true largest; the interval is for the latter."""
    generator = torch.Generator().manual_seed(1)
    deviations = 0.02 * torch.randn(2000, 20, generator=generator, dtype=torch.float64)
    gaps = 0.1 + 0.02 * torch.randn(20, generator=generator, dtype=torch.float64)
    low, high = calibration_error_interval(gaps, deviations, abs_max)
    assert low < 0.1 < high
    assert float(abs_max(gaps)) > 0.1 + 0.02


def test_infinite_nll_has_an_infinite_interval() -> None:
    probs = torch.tensor([[1.0, 0.0], [0.6, 0.4]]).repeat(30, 1)
    estimates = estimate_metrics(torch.tensor([1, 0]).repeat(30), probs=probs, num_resamples=20)
    assert estimates["nll"].low == estimates["nll"].value == estimates["nll"].high == math.inf
    assert all(math.isfinite(estimates[name].high) for name in ("confidence", "brier", "ece"))


def test_perfect_accuracy_does_not_have_a_point_interval() -> None:
    logits = torch.tensor([[5.0, 0.0]]).repeat(100, 1)
    estimates = estimate_metrics(torch.zeros(100, dtype=torch.long), logits=logits, num_resamples=20)
    for name, least in (("accuracy", 0.95), ("accuracy_at_coverage_90", 0.94)):
        assert estimates[name].value == estimates[name].high == 1
        assert least < estimates[name].low < least + 0.02
    assert estimates["aurc"].value == 0
    assert all(math.isnan(estimates[name].low) for name in ("aurc", "error_auroc"))


@pytest.mark.parametrize("n", [1, 2])
def test_tiny_samples_give_finite_numbers(n: int) -> None:
    logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.5, 1.0]])[:n]
    row = summarize(torch.tensor([0, 2])[:n], logits=logits, subsets=torch.arange(n), num_resamples=50)
    undefined = {name for name, value in row.items() if value is None}
    # The first is right, the second wrong and less confident. So few examples give only Wilson's intervals.
    ends = {name for name in row if name.endswith(("_low", "_high")) and not name.startswith("accuracy")}
    assert len(ends) == 2 * 12
    assert undefined == (ends | {"error_auroc"} if n == 1 else ends)
    assert all(math.isfinite(value) for value in row.values() if value is not None)


def test_terms_move_as_the_metrics_do(problem: Problem) -> None:
    """Their means are the metrics, and leaving one example out moves both alike, to first order."""
    logits, labels, _ = problem
    logits, labels = logits[:400], labels[:400]
    ranking = outcomes(labels, logits=logits).ranking
    for metric, terms in (
        (aurc, aurc_terms(ranking)),
        (error_auroc, auroc_terms(ranking, error_auroc(labels, logits=logits))),
    ):
        whole = metric(labels, logits=logits)
        assert float(terms.mean()) == pytest.approx(whole, abs=1e-12)
        for i in range(0, 400, 37):
            others = torch.arange(400) != i
            moved = metric(labels[others], logits=logits[others]) - whole
            assert moved == pytest.approx(float(terms[others].mean()) - whole, abs=3e-5)


def test_resampled_auroc_and_aurc_are_those_of_the_resample(problem: Problem) -> None:
    logits, labels, _ = problem
    found = resampled_metrics(labels, logits=logits, num_resamples=20, metrics=["aurc", "error_auroc"])
    counts = (resample_means(torch.eye(1500, dtype=torch.float64), 20, 0) * 1500).round().long()
    for b in range(20):
        drawn = torch.arange(1500).repeat_interleave(counts[b])
        assert float(found["aurc"][b]) == pytest.approx(aurc(labels[drawn], logits=logits[drawn]), abs=2e-3)
        assert float(found["error_auroc"][b]) == pytest.approx(
            error_auroc(labels[drawn], logits=logits[drawn]), abs=2e-3
        )
    assert float(found["error_auroc"].std()) > 0.01


def test_counts_that_are_kept_are_those_that_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = torch.arange(600, dtype=torch.float64)[:, None]
    kept = resample_means(columns, 30, 5)
    monkeypatch.setattr(bootstrap, "KEPT_COUNTS", 0)
    assert torch.equal(resample_means(columns, 30, 5), kept)


def test_settings_are_checked(problem: Problem) -> None:
    logits, labels, subsets = problem
    for bad in ({"level": 95.0}, {"num_resamples": 1}):
        with pytest.raises(InputError, match="level in"):
            estimate_metrics(labels, logits=logits, **bad)
    with pytest.raises(InputError, match="subset indices"):
        estimate_metrics(labels, logits=logits, subsets=subsets[:5])


METRICS = (
    *("accuracy", "confidence", "nll", "brier", "ece"),
    *("adaptive_ece", "debiased_l2_ece", "ks_error", "aurc", "error_auroc", "accuracy_at_coverage_90"),
)
OVERALL_METRICS = ("smooth_ece",)
SUBSET_METRICS = ("subset_calibration_error", "largest_subset_calibration_error")
POINT_METRICS = (
    "coverage_at_error_1",
    "coverage_at_error_5",
    "classwise_ece",
    "mce",
    "brier_calibration",
    "brier_refinement",
)


def keys(*metrics: str) -> set[str]:
    return {name + end for name in metrics for end in ("", "_low", "_high")}


def test_summary_keys(problem: Problem) -> None:
    logits, labels, subsets = problem
    row = summarize(labels, logits=logits, num_resamples=50)
    assert set(row) == {"n", "ece_noise_floor", "ece_noise_floor_p95", *POINT_METRICS} | keys(
        *METRICS, *OVERALL_METRICS
    )
    with_subsets = summarize(labels, logits=logits, subsets=subsets, num_resamples=50)
    floors = {name + end for name in ("subset_noise_floor", "largest_subset_noise_floor") for end in ("", "_p95")}
    assert set(with_subsets) == set(row) | keys(*SUBSET_METRICS) | floors
    values = {name: value for name, value in with_subsets.items() if value is not None}
    assert len(values) == len(with_subsets)
    inflated = ("ece", "adaptive_ece", "debiased_l2_ece", "ks_error")
    assert all(
        values[f"{name}_low"] <= values[name] <= values[f"{name}_high"] for name in METRICS if name not in inflated
    )
    assert values["subset_noise_floor"] < values["subset_noise_floor_p95"] < values["largest_subset_noise_floor_p95"]
    assert row["n"] == 1500


def test_the_aurc_of_a_summary_does_not_depend_on_the_order_of_equal_confidences(problem: Problem) -> None:
    logits, labels, _ = problem
    tied = logits.round()
    for order in (torch.arange(1500), torch.arange(1500).flip(0)):
        row = summarize(labels[order], logits=tied[order], num_resamples=50)
        assert row["aurc"] == pytest.approx(aurc(labels, logits=tied), abs=1e-12)


def test_rows_and_replicates_come_from_the_same_resamples(problem: Problem) -> None:
    logits, labels, subsets = problem
    row, replicates = summarize_and_resample(labels, logits=logits, subsets=subsets, num_resamples=50)
    alone = resampled_metrics(labels, logits=logits, subsets=subsets, num_resamples=50)
    assert replicates.keys() == {*alone, "aurc", "error_auroc"}
    for name, values in alone.items():
        torch.testing.assert_close(replicates[name], values, rtol=0, atol=1e-12)
    for name in ("confidence", "nll", "brier"):
        ends = replicates[name].quantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
        assert (row[f"{name}_low"], row[f"{name}_high"]) == pytest.approx(ends.tolist(), abs=1e-12)
    assert row == summarize(labels, logits=logits, subsets=subsets, num_resamples=50)


def test_summary_by_subset_is_the_summary_of_each(problem: Problem) -> None:
    logits, labels, subsets = problem
    rows = summarize_by_subset(labels, 2 * subsets, logits=logits, num_resamples=50)
    assert [row["subset"] for row in rows] == [0, 2, 4]
    assert sum(row["n"] or 0 for row in rows) == 1500
    members = subsets == 1
    expected = summarize(labels[members], logits=logits[members], num_resamples=50)
    assert rows[1] == {"subset": 2} | {
        key: expected[key] for key in expected if key not in ("smooth_ece_low", "smooth_ece_high")
    }
    from_probs = summarize_by_subset(labels, 2 * subsets, probs=logits.softmax(1), num_resamples=50)
    assert from_probs[1] == pytest.approx(rows[1], rel=1e-6)
