"""Point metrics against hand-computed values and independent libraries."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn import metrics as sk
from torch import Tensor

from aradals.errors import InputError
from aradals.metrics import (
    accuracy,
    brier_score,
    confidence_threshold,
    expected_calibration_error,
    mean_confidence,
    nll,
    reliability_diagram,
    subset_calibration_error,
    wilson_interval,
)
from aradals.metrics.proper import binomial_bound


def random_problem(n: int = 2000, num_classes: int = 10, scale: float = 3.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(n, num_classes, generator=generator)
    noisy = logits + 2 * torch.randn(n, num_classes, generator=generator)
    return logits, noisy.argmax(1)


def confident(*confidences: float) -> Tensor:
    """Two-class probabilities whose class 0 has the given confidences."""
    first = torch.tensor(confidences, dtype=torch.float64)
    return torch.stack([first, 1 - first], 1)


def test_hand_computed_values() -> None:
    probs, labels = torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2]]).double(), torch.tensor([0, 1])
    assert accuracy(labels, probs=probs) == 0.5
    assert mean_confidence(labels, probs=probs) == pytest.approx(0.6)
    assert nll(labels, probs=probs) == pytest.approx(-(math.log(0.7) + math.log(0.3)) / 2)
    assert brier_score(labels, probs=probs) == pytest.approx((0.3**2 + 0.2**2 + 0.1**2 + 0.5**2 + 0.7**2 + 0.2**2) / 2)
    # The confidences 0.7 and 0.5 are in different bins: (|0.7 - 1| + |0.5 - 0|) / 2.
    assert expected_calibration_error(labels, probs=probs) == pytest.approx(0.4)
    errors = subset_calibration_error(labels, torch.tensor([0, 4]), probs=probs)
    assert (errors.mean, errors.largest) == pytest.approx((0.4, 0.5))


@pytest.mark.parametrize("scale", [0.5, 3.0, 30.0])
def test_scores_equal_scikit_learn(scale: float) -> None:
    logits, labels = random_problem(scale=scale)
    probs = logits.double().softmax(1)
    assert accuracy(labels, logits=logits) == sk.accuracy_score(labels, logits.argmax(1))
    expected = sk.log_loss(labels, probs, labels=range(10))
    assert nll(labels, probs=probs) == pytest.approx(expected, abs=1e-10)
    assert nll(labels, logits=logits) == pytest.approx(expected, abs=1e-6)  # float32 logits, clipping at 1e-16
    expected = sk.brier_score_loss(labels, probs, labels=range(10), scale_by_half=False)
    assert brier_score(labels, logits=logits) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("num_bins", [1, 10, 15, 100])
@pytest.mark.parametrize("scale", [0.5, 3.0, 30.0])
def test_ece_equals_netcal(num_bins: int, scale: float) -> None:
    netcal = pytest.importorskip("netcal.metrics")
    logits, labels = random_problem(scale=scale, n=3000)
    probs = logits.softmax(1)  # float32: with scale 30 most confidences are exactly 1
    assert (probs.amax(1) == 1).any() == (scale == 30.0)
    expected = netcal.ECE(num_bins).measure(probs.double().numpy(), labels.numpy())
    assert expected_calibration_error(labels, probs=probs, num_bins=num_bins) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("scale", [0.5, 3.0, 30.0])
def test_metrics_equal_probmetrics(scale: float) -> None:
    pytest.importorskip("probmetrics.metrics", exc_type=ImportError)
    from probmetrics.metrics import Metrics

    logits, labels = random_problem(scale=scale, n=3000)
    probs = logits.softmax(1)
    metrics = Metrics.from_names(["ece-15", "brier", "accuracy"])
    expected = metrics.compute_all_from_labels_probs(labels, probs)
    assert expected_calibration_error(labels, probs=probs) == pytest.approx(float(expected["ece-15"]), abs=1e-5)
    assert brier_score(labels, probs=probs) == pytest.approx(float(expected["brier"]), abs=1e-5)
    assert accuracy(labels, probs=probs) == pytest.approx(float(expected["accuracy"]), abs=1e-6)


def test_confidence_one_is_in_the_last_bin() -> None:
    """Not in a bin of its own: 0.95 right and 1.0 wrong cancel in part, |1.95 - 1| / 2."""
    assert expected_calibration_error(torch.tensor([0, 1]), probs=confident(0.95, 1.0)) == pytest.approx(0.475)


def test_bin_edges_belong_to_the_lower_bin() -> None:
    diagram = reliability_diagram(torch.tensor([0, 0, 0, 0]), probs=confident(0.5, 0.75, 0.76, 1.0), num_bins=4)
    assert diagram.count.tolist() == [0, 1, 1, 2]


def test_reliability_diagram_adds_up_to_ece() -> None:
    logits, labels = random_problem()
    diagram = reliability_diagram(labels, logits=logits, num_bins=30)
    weights = diagram.count.double() / diagram.count.sum()
    gaps = (diagram.confidence - diagram.accuracy).abs()
    total = float((weights * gaps).nansum())
    assert total == pytest.approx(expected_calibration_error(labels, logits=logits, num_bins=30), abs=1e-12)
    filled = diagram.count > 0
    assert not filled.all()
    for values in (diagram.confidence, diagram.accuracy, diagram.accuracy_low, diagram.accuracy_high):
        assert torch.equal(values.isfinite(), filled)
    assert ((diagram.accuracy_low <= diagram.accuracy) & (diagram.accuracy <= diagram.accuracy_high))[filled].all()
    assert ((diagram.low < diagram.confidence) & (diagram.confidence <= diagram.high))[filled].all()


def test_wilson_interval_equals_scipy() -> None:
    for k, n in [(0, 10), (3, 10), (10, 10), (950, 1000)]:
        low, high = wilson_interval(torch.tensor(k), torch.tensor(n))
        expected = binomtest(k, n).proportion_ci(method="wilson")
        assert (float(low), float(high)) == pytest.approx((expected.low, expected.high))


def test_zero_probability_of_the_label_gives_infinite_nll() -> None:
    labels, probs = torch.tensor([0, 1]), confident(0.9, 1.0)
    assert nll(labels, probs=probs) == math.inf
    # Float32 probabilities would be 0 here, the logits know better.
    assert nll(torch.tensor([1]), logits=torch.tensor([[1000.0, 0.0]])) == pytest.approx(1000)


def test_opposite_gaps_cancel_in_ece_but_not_over_subsets() -> None:
    labels, probs, subsets = torch.tensor([0, 1]), confident(0.9, 0.9), torch.tensor([0, 1])
    assert expected_calibration_error(labels, probs=probs) == pytest.approx(0.4)
    errors = subset_calibration_error(labels, subsets, probs=probs)
    assert (errors.mean, errors.largest) == pytest.approx((0.5, 0.9))


@pytest.mark.parametrize(("k", "n"), [(0, 1), (0, 299), (1, 10), (9, 10), (10, 10), (37, 1000), (2400, 50_000)])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_binomial_bound_is_that_of_scipy(k: int, n: int, level: float) -> None:
    expected = binomtest(k, n, alternative="less").proportion_ci(confidence_level=level, method="exact").high
    assert binomial_bound(k, n, level=level) == pytest.approx(expected, rel=1e-8)


@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 50), st.sampled_from([0.3, 3.0, 100.0]))
@settings(max_examples=50)
def test_ece_properties(seed: int, num_bins: int, n: int, scale: float) -> None:
    logits, labels = random_problem(n=n, num_classes=4, scale=scale, seed=seed)
    ece = expected_calibration_error(labels, logits=logits, num_bins=num_bins)
    assert 0 <= ece <= 1
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    assert expected_calibration_error(labels[order], logits=logits[order], num_bins=num_bins) == pytest.approx(ece)
    gap = abs(mean_confidence(labels, logits=logits) - accuracy(labels, logits=logits))
    assert expected_calibration_error(labels, logits=logits, num_bins=1) == pytest.approx(gap)
    assert ece >= gap - 1e-12  # by the triangle inequality
    one_subset = subset_calibration_error(labels, torch.zeros(n, dtype=torch.long), logits=logits)
    assert (one_subset.mean, one_subset.largest) == pytest.approx((gap, gap))


LOGITS, LABELS = torch.tensor([[3.0, 0.0, -1.0], [0.0, 2.0, 1.0]]), torch.tensor([0, 1])
NAN = torch.tensor([[math.nan, 0.5, 0.5], [0.2, 0.3, 0.5]])


@pytest.mark.parametrize(
    ("labels", "arguments", "message"),
    [
        (LABELS, {}, "exactly one of logits= and probs="),
        (LABELS, {"logits": LOGITS, "probs": LOGITS.softmax(1)}, "got both"),
        (LABELS, {"probs": LOGITS}, "logits= if they are logits"),
        (LABELS, {"logits": LOGITS.softmax(1)}, "got probabilities"),
        (LABELS, {"probs": LOGITS.softmax(1) * 0.99}, "sum to 1"),
        (LABELS, {"probs": NAN}, "got 1 of 2 rows"),
        (LABELS, {"logits": NAN}, "finite logits"),
        (LABELS, {"logits": LOGITS[0]}, "shape"),
        (LABELS[:0], {"logits": LOGITS[:0]}, "at least one example"),
        (LABELS[:1], {"logits": LOGITS}, "integer labels of shape"),
        (LABELS.double(), {"logits": LOGITS}, "integer labels of shape"),
        (LABELS + 2, {"logits": LOGITS}, "labels from 0 to 2"),
        (LABELS - 1, {"logits": LOGITS}, "labels from 0 to 2"),
    ],
)
def test_bad_input_is_refused(labels: Tensor, arguments: dict[str, Any], message: str) -> None:
    for metric in (accuracy, mean_confidence, nll, brier_score, expected_calibration_error, reliability_diagram):
        with pytest.raises(InputError, match=message):
            metric(labels, **arguments)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(InputError, match="num_bins"):
        expected_calibration_error(LABELS, logits=LOGITS, num_bins=0)
    with pytest.raises(InputError, match="max_error"):
        confidence_threshold(LABELS, 5, logits=LOGITS)
    for subsets in (torch.tensor([0]), torch.tensor([0, -1]), torch.tensor([0.0, 1.0])):
        with pytest.raises(InputError, match="subset indices"):
            subset_calibration_error(LABELS, subsets, logits=LOGITS)


def test_probabilities_in_half_precision_are_accepted() -> None:
    probs = LOGITS.softmax(1).half()
    assert np.isclose(nll(LABELS, probs=probs), nll(LABELS, logits=LOGITS), atol=2e-3)
