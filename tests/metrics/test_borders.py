"""The public border of the metrics: arrays, lists, unsigned labels, weights, ignored and masked rows, two classes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from netcal.metrics import ECE as NetcalECE
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss
from torch import Tensor
from torchmetrics.functional.classification import binary_calibration_error as torchmetrics_error

from aradals import metrics
from aradals.errors import InputError
from aradals.metrics import torchmetrics as classes

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = 2 * torch.randn(400, 3, generator=GENERATOR, dtype=torch.float64)
PROBS = LOGITS.softmax(1)
LABELS = torch.multinomial((LOGITS / 2).softmax(1), 1, generator=GENERATOR)[:, 0]
SUBSETS = torch.arange(400) % 4
WEIGHTS = torch.randint(5, (400,), generator=GENERATOR).double()

OF_PREDICTIONS = [
    *("accuracy", "mean_confidence", "nll", "brier_score", "expected_calibration_error", "max_calibration_error"),
    *("adaptive_calibration_error", "classwise_calibration_error", "ks_calibration_error", "smooth_calibration_error"),
    *("debiased_l2_calibration_error", "aurc", "error_auroc", "brier_calibration", "brier_refinement", "all_metrics"),
    *("summarize", "accuracy_at_coverage", "reliability_diagram"),
]
WEIGHTED = ["accuracy", "mean_confidence", "nll", "brier_score", "expected_calibration_error"]


@pytest.mark.parametrize("name", OF_PREDICTIONS)
def test_arrays_lists_and_unsigned_labels(name: str) -> None:
    metric = getattr(metrics, name)
    expected = repr(metric(LABELS, logits=LOGITS))
    for kind in (np.uint8, np.uint16, np.uint64, np.int32):
        assert repr(metric(LABELS.numpy().astype(kind), logits=LOGITS.numpy())) == expected
    assert repr(metric(LABELS.to(torch.uint16), logits=LOGITS)) == expected
    assert repr(metric(LABELS.tolist(), logits=LOGITS.tolist())) == expected
    assert repr(metric(LABELS.tolist(), probs=PROBS.tolist())) == repr(metric(LABELS, probs=PROBS))


def test_subsets_may_be_arrays() -> None:
    expected = metrics.subset_calibration_error(LABELS, SUBSETS, logits=LOGITS)
    assert metrics.subset_calibration_error(LABELS.numpy(), SUBSETS.numpy().astype(np.uint8), logits=LOGITS) == expected
    rows = metrics.summarize_by_subset(LABELS.tolist(), SUBSETS.tolist(), logits=LOGITS.tolist())
    assert rows == metrics.summarize_by_subset(LABELS, SUBSETS, logits=LOGITS)
    assert metrics.summarize(LABELS, logits=LOGITS, subsets=SUBSETS.numpy()) == metrics.summarize(
        LABELS, logits=LOGITS, subsets=SUBSETS
    )
    floor = metrics.subset_noise_floor(SUBSETS.numpy(), logits=LOGITS.numpy())
    assert floor == metrics.subset_noise_floor(SUBSETS, logits=LOGITS)


@pytest.mark.parametrize("given", [["a", "b"], [[1.0], [1.0, 2.0]], [None, 1]])
def test_what_is_no_array_of_numbers(given: list[object]) -> None:
    with pytest.raises(InputError):
        metrics.nll([0, 1], logits=given)


@pytest.mark.parametrize("name", WEIGHTED)
def test_a_weight_counts_like_so_many_examples(name: str) -> None:
    metric = getattr(metrics, name)
    often = WEIGHTS.long()
    repeated = metric(LABELS.repeat_interleave(often), logits=LOGITS.repeat_interleave(often, 0))
    assert metric(LABELS, logits=LOGITS, sample_weight=WEIGHTS.numpy()) == pytest.approx(repeated, abs=1e-12)
    assert metric(LABELS, logits=LOGITS, sample_weight=[3.0] * 400) == pytest.approx(metric(LABELS, logits=LOGITS))


def test_weights_as_in_scikit_learn() -> None:
    options = {"sample_weight": WEIGHTS.numpy()}
    labels, probs = LABELS.numpy(), PROBS.numpy()
    found = {name: getattr(metrics, name)(LABELS, probs=PROBS, sample_weight=WEIGHTS) for name in WEIGHTED}
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, probs.argmax(1), **options))
    assert found["nll"] == pytest.approx(log_loss(labels, probs, **options))
    assert found["brier_score"] == pytest.approx(brier_score_loss(labels, probs, labels=[0, 1, 2], **options))


def test_an_example_of_weight_0_counts_nowhere() -> None:
    probs, labels = torch.tensor([[1.0, 0.0], [0.8, 0.2]]), [1, 0]
    assert metrics.nll(labels, probs=probs) == math.inf
    assert metrics.nll(labels, probs=probs, sample_weight=[0, 1]) == pytest.approx(-math.log(0.8))
    for weights in ([0, 0], [1, -1], [1], [1, math.nan]):
        with pytest.raises(InputError, match="sample_weight: 2 numbers"):
            metrics.nll(labels, probs=probs, sample_weight=weights)


@pytest.mark.parametrize("name", [*WEIGHTED, "outcomes"])
def test_an_ignored_row_counts_nowhere(name: str) -> None:
    metric = getattr(metrics, name)
    keep = torch.arange(400) % 3 != 0
    padded = LABELS.where(keep, -100)
    logits = LOGITS.where(keep[:, None], math.nan)  # padding may hold anything
    expected = repr(metric(LABELS[keep], logits=LOGITS[keep]))
    assert repr(metric(padded, logits=logits, ignore_index=-100)) == expected
    assert repr(metric(padded.numpy(), logits=logits.numpy(), ignore_index=-100)) == expected
    if name in WEIGHTED:
        weighted = metric(padded, logits=logits, ignore_index=-100, sample_weight=WEIGHTS)
        assert weighted == pytest.approx(metric(LABELS[keep], logits=LOGITS[keep], sample_weight=WEIGHTS[keep]))
    with pytest.raises(InputError, match="at least one example"):
        metric(torch.full((3,), -100), logits=LOGITS[:3], ignore_index=-100)
    with pytest.raises(InputError, match="one row for each of 400 labels"):
        metric(padded, logits=LOGITS[:7], ignore_index=-100)


def test_masked_classes_count_as_probability_0() -> None:
    masked = (LABELS + 1) % 3
    logits = LOGITS.scatter(1, masked[:, None], -math.inf)
    probs = logits.softmax(1)
    assert (probs.gather(1, masked[:, None]) == 0).all()
    from_logits, from_probs = metrics.all_metrics(LABELS, logits=logits), metrics.all_metrics(LABELS, probs=probs)
    for name, value in from_logits.items():
        assert value == pytest.approx(from_probs[name], abs=1e-9), name
    assert metrics.nll(masked, logits=logits) == math.inf


def binary(n: int = 1000, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Labels, and probabilities of two classes that are over-confident, most of all for class 1."""
    generator = torch.Generator().manual_seed(seed)
    positive = torch.rand(n, generator=generator, dtype=torch.float64)
    labels = (torch.rand(n, generator=generator, dtype=torch.float64) < positive**1.5).long()
    return labels, torch.stack([1 - positive, positive], 1)


@pytest.mark.parametrize("num_bins", [5, 10, 15])
def test_the_binary_error_is_that_of_other_tools(num_bins: int) -> None:
    labels, probs = binary()
    found = metrics.binary_calibration_error(labels, probs=probs, num_bins=num_bins)
    assert found == pytest.approx(float(torchmetrics_error(probs[:, 1], labels, n_bins=num_bins)), abs=1e-6)
    assert found == pytest.approx(float(NetcalECE(num_bins).measure(probs[:, 1].numpy(), labels.numpy())), abs=1e-9)
    share, confidence = calibration_curve(labels.numpy(), probs[:, 1].numpy(), n_bins=num_bins)
    counts = np.histogram(probs[:, 1].numpy(), np.linspace(0, 1, num_bins + 1))[0]
    assert found == pytest.approx(float(np.abs(share - confidence) @ counts[counts > 0] / len(labels)))
    metric = classes.BinaryCalibrationError(num_bins)
    for rows in torch.arange(1000).split(300):
        metric.update(labels[rows], probs=probs[rows])
    assert float(metric.compute()) == pytest.approx(found)


def test_the_binary_error_is_in_the_summary_of_two_classes_alone() -> None:
    labels, probs = binary()
    found = metrics.summarize(labels, probs=probs)["binary_ece"]
    assert found == metrics.binary_calibration_error(labels, probs=probs)
    assert "binary_ece" not in metrics.all_metrics(LABELS, logits=LOGITS)
    with pytest.raises(InputError, match=r"two classes.*classwise_calibration_error"):
        metrics.binary_calibration_error(LABELS, logits=LOGITS)


def test_gaps_that_cancel_in_the_error_of_the_predicted_class() -> None:
    """Both classes are predicted with 0.8; class 1 is right in 70 %, class 0 in 90 % of the examples."""
    probs = torch.tensor([[0.2, 0.8]] * 100 + [[0.8, 0.2]] * 100, dtype=torch.float64)
    labels = [1] * 70 + [0] * 30 + [0] * 90 + [1] * 10
    assert metrics.expected_calibration_error(labels, probs=probs) == pytest.approx(0)
    assert metrics.binary_calibration_error(labels, probs=probs) == pytest.approx(0.1)
