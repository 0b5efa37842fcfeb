"""Calibration errors from sums over bins, subsets or ranks, and the reliability diagram."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from aradals.checks import Values, check_subsets
from aradals.errors import InputError
from aradals.metrics.outcomes import (
    ClassGaps,
    Ranking,
    assign_bins,
    bin_edges,
    equal_mass_bins,
    outcomes,
    outcomes_and_class_gaps,
    subset_membership,
    weighted_outcomes,
)
from aradals.metrics.proper import wilson_interval


@dataclass(frozen=True)
class BinSums:
    """Sums over the examples in each bin, float64, shape (num_bins,), from which binned calibration errors follow."""

    count: Tensor
    confidence: Tensor
    correct: Tensor

    @property
    def gap(self) -> Tensor:
        """Sums of confidence minus correctness."""
        return self.confidence - self.correct


@dataclass(frozen=True)
class SubsetCalibrationError:
    """Calibration errors |confidence - accuracy| of robustness subsets: their unweighted mean, and the largest."""

    mean: float
    largest: float


@dataclass(frozen=True)
class ReliabilityDiagram:
    """Accuracy against confidence in equal-width bins (low, high]; tensors of shape (num_bins,).

    Attributes:
        low: lower edge of each bin; the first bin also holds confidence 0.
        high: upper edge of each bin.
        count: number of examples, int64.
        confidence: mean confidence; NaN in an empty bin.
        accuracy: share of right predictions; NaN in an empty bin.
        accuracy_low: lower end of the 95 % Wilson interval of the accuracy; NaN in an empty bin.
        accuracy_high: upper end of that interval.
    """

    low: Tensor
    high: Tensor
    count: Tensor
    confidence: Tensor
    accuracy: Tensor
    accuracy_low: Tensor
    accuracy_high: Tensor


def bin_sums(
    bins: Tensor, confidence: Tensor, correct: Tensor, num_bins: int, weights: Tensor | None = None
) -> BinSums:
    """Sum over the examples in each bin; all arguments of shape (N,)."""
    columns = torch.stack([torch.ones_like(confidence), confidence, correct], 1)
    columns = columns if weights is None else weights[:, None] * columns
    return BinSums(*columns.new_zeros(num_bins, 3).index_add_(0, bins, columns).T)


def equal_width_sums(confidence: Tensor, correct: Tensor, num_bins: int, weights: Tensor | None = None) -> BinSums:
    """Sum in bins (low, high] of equal width."""
    return bin_sums(assign_bins(confidence, num_bins), confidence, correct, num_bins, weights)


def equal_mass_sums(ranking: Ranking, num_bins: int) -> BinSums:
    """Sum in bins of equally many examples."""
    return bin_sums(equal_mass_bins(ranking, num_bins), ranking.confidence, ranking.correct, num_bins)


def mean_abs_gap(bins: BinSums) -> float:
    """Σ_b (n_b / N) |confidence_b - accuracy_b|."""
    # (n_b / N) |mean gap| = |sum of gaps| / N: empty bins need no special case.
    return float(bins.gap.abs().sum() / bins.count.sum())


def largest_abs_gap(bins: BinSums) -> float:
    """Largest |confidence_b - accuracy_b| of all bins that contain examples."""
    return float((bins.gap.abs() / bins.count.clamp(min=1)).max())


def debiased_l2_gap(bins: BinSums) -> float:
    """Compute `debiased_l2_calibration_error` from sums."""
    gap, accuracy = bins.gap / bins.count, bins.correct / bins.count
    squared = gap.square() - accuracy * (1 - accuracy) / (bins.count - 1)
    total = (bins.count * squared)[bins.count >= 2].sum() / bins.count.sum()
    return float(total.clamp(min=0).sqrt())


def largest_cumulative_gap(ranking: Ranking) -> float:
    """Compute `ks_calibration_error` from a ranking."""
    return float(ranking.gap.cumsum(0).abs().max() / len(ranking.gap))


def binary_gap(gaps: ClassGaps, num_examples: int) -> float:
    """Compute `binary_calibration_error` from sums of two classes."""
    return float(gaps.gap[1].abs().sum() / num_examples)


def mean_class_gap(gaps: ClassGaps, num_examples: int) -> float:
    """Compute `classwise_calibration_error` from sums."""
    return float(gaps.gap.abs().sum() / num_examples / len(gaps.gap))


def expected_calibration_error(
    labels: Values,
    *,
    logits: Values | None = None,
    probs: Values | None = None,
    num_bins: int = 15,
    sample_weight: Values | None = None,
    ignore_index: int | None = None,
) -> float:
    """ECE, the expected calibration error Σ_b (n_b / N) |confidence_b - accuracy_b| (Guo et al. 2017, eq. 3).

    Bins are equally wide, (low, high]; the first bin also contains 0. A confidence of exactly 1 is in the last bin.
    Finite samples inflate the ECE: the ECE of a perfectly calibrated model is `ece_noise_floor`, not 0.

    The confidence is that of the predicted class, for two classes as well, where it is at least 0.5. The error of the
    probability of class 1 is `binary_calibration_error`.

    Example: confidences 0.9 and 0.9, one right and one wrong, share a bin: |0.9 - 0.5| = 0.4.

    Args:
        labels: integer, shape (N,), in [0, K).
        logits: floats, shape (N, K), -inf for masked classes; or
        probs: rows in [0, 1] that sum to 1 within 1e-3, shape (N, K).
        num_bins: number of bins; errors for different numbers of bins cannot be compared.
        sample_weight: weight of each example, at least 0, shape (N,); 2 counts like two examples.
        ignore_index: label of the examples to leave out, for example -100.

    Returns:
        A fraction in [0, 1].

    Raises:
        InputError: see `outcomes`.
    """
    examples, weights = weighted_outcomes(
        labels, logits=logits, probs=probs, sample_weight=sample_weight, ignore_index=ignore_index
    )
    return mean_abs_gap(equal_width_sums(examples.confidence, examples.correct, num_bins, weights))


def binary_calibration_error(
    labels: Values, *, logits: Values | None = None, probs: Values | None = None, num_bins: int = 15
) -> float:
    """Binary ECE of two classes: Σ_b (n_b / N) |mean p_1 - share of class 1|, in [0, 1].

    The bins of `expected_calibration_error` are those of the probability of class 1, from 0 to 1. This is the error of
    ``sklearn.calibration.calibration_curve``, of ``BinaryCalibrationError`` of torchmetrics, and of netcal for two
    classes. It shows gaps that cancel in the ECE: predictions of class 1 that are too sure, and of class 0 that are not
    sure enough.

    Arguments and errors are those of `expected_calibration_error`; and there must be two classes.
    """
    _, gaps = outcomes_and_class_gaps(labels, logits=logits, probs=probs, num_bins=num_bins)
    if len(gaps.gap) != 2:
        raise InputError(expected="two classes", got=str(len(gaps.gap)), hint="classwise_calibration_error")
    return binary_gap(gaps, len(labels))


def max_calibration_error(
    labels: Values, *, logits: Values | None = None, probs: Values | None = None, num_bins: int = 15
) -> float:
    """Maximum calibration error, max_b |confidence_b - accuracy_b| (Guo et al. 2017, eq. 4), in [0, 1].

    The maximum is over the bins of `expected_calibration_error` that contain examples. A bin with one example counts
    as much as a bin with thousands, so that the error is mostly noise unless all bins have many examples.

    Arguments and errors are those of `expected_calibration_error`.
    """
    examples = outcomes(labels, logits=logits, probs=probs)
    return largest_abs_gap(equal_width_sums(examples.confidence, examples.correct, num_bins))


def adaptive_calibration_error(
    labels: Values, *, logits: Values | None = None, probs: Values | None = None, num_bins: int = 15
) -> float:
    """Adaptive ECE: the ECE with bins of equally many examples (AdaECE of Mukhoti et al. 2020), in [0, 1].

    Bin sizes differ by at most one, and the first bins are the larger ones. Equal confidences stay in one bin. This
    error uses only the confidence of the predicted class; Nixon et al. (2019) average over all classes.

    Arguments and errors are those of `expected_calibration_error`.
    """
    return mean_abs_gap(equal_mass_sums(outcomes(labels, logits=logits, probs=probs).ranking, num_bins))


def debiased_l2_calibration_error(
    labels: Values, *, logits: Values | None = None, probs: Values | None = None, num_bins: int = 15
) -> float:
    """Debiased L2 calibration error of the predicted class (Kumar et al. 2019, definition 5.1), in [0, 1].

    The error is the root of Σ_b (n_b / N) [(confidence_b - accuracy_b)² - accuracy_b (1 - accuracy_b) / (n_b - 1)]
    over the bins of `adaptive_calibration_error`, or 0 if the sum is negative. Bins with fewer than two examples are
    left out. The subtracted term estimates the share of noise in the square, so that the sum of a calibrated model is
    0 on average. The true L2 error is never below the true L1 error (ECE), so that the two are not comparable.

    Arguments and errors are those of `expected_calibration_error`.
    """
    return debiased_l2_gap(equal_mass_sums(outcomes(labels, logits=logits, probs=probs).ranking, num_bins))


def ks_calibration_error(labels: Values, *, logits: Values | None = None, probs: Values | None = None) -> float:
    """Kolmogorov-Smirnov calibration error of the predicted class (Gupta et al. 2021), in [0, 1].

    The error needs no bins. It is the largest |Σ confidence - Σ correctness| / N, where the sums run over all examples
    up to some confidence. If all gaps have the same sign, it equals |confidence - accuracy|.

    Arguments and errors are those of `outcomes`.
    """
    return largest_cumulative_gap(outcomes(labels, logits=logits, probs=probs).ranking)


def classwise_calibration_error(
    labels: Values, *, logits: Values | None = None, probs: Values | None = None, num_bins: int = 15
) -> float:
    """Class-wise ECE: the mean over classes of the one-versus-rest ECE (Kull et al. 2019), in [0, 1].

    (1 / K) Σ_k Σ_b (n_kb / N) |mean p_k - share of class k|, with the bins of `expected_calibration_error` for the
    probability of each class. A class without examples counts like every other class. The error typically falls as
    1 / K.

    Arguments and errors are those of `expected_calibration_error`.
    """
    _, gaps = outcomes_and_class_gaps(labels, logits=logits, probs=probs, num_bins=num_bins)
    return mean_class_gap(gaps, len(labels))


def subset_calibration_error(
    labels: Values, subsets: Values, *, logits: Values | None = None, probs: Values | None = None
) -> SubsetCalibrationError:
    """Mean and largest |confidence - accuracy| over the robustness subsets that contain examples.

    Unlike the ECE, this error shows opposite gaps at equal confidence.

    Args:
        labels: integer, shape (N,), in [0, K).
        subsets: integer >= 0, shape (N,), the subset of each example.
        logits: finite floats, shape (N, K); or
        probs: rows in [0, 1] that sum to 1 within 1e-3, shape (N, K).

    Raises:
        InputError: see `outcomes`; subsets of another shape, or negative.
    """
    examples = outcomes(labels, logits=logits, probs=probs)
    members = subset_membership(check_subsets(subsets, len(labels)).to(examples.gap.device))
    errors = (examples.gap @ members / members.sum(0)).abs()
    return SubsetCalibrationError(mean=float(errors.mean()), largest=float(errors.max()))


def reliability_diagram(
    labels: Values, *, logits: Values | None = None, probs: Values | None = None, num_bins: int = 15
) -> ReliabilityDiagram:
    """Confidence, accuracy and the 95 % interval of the accuracy in the bins of `expected_calibration_error`.

    Arguments and errors are those of `expected_calibration_error`.
    """
    examples = outcomes(labels, logits=logits, probs=probs)
    bins = equal_width_sums(examples.confidence, examples.correct, num_bins)
    accuracy_low, accuracy_high = wilson_interval(bins.correct, bins.count)
    edges = bin_edges(num_bins).to(bins.count.device)
    return ReliabilityDiagram(
        low=edges[:-1],
        high=edges[1:],
        count=bins.count.long(),
        confidence=bins.confidence / bins.count,
        accuracy=bins.correct / bins.count,
        accuracy_low=accuracy_low,
        accuracy_high=accuracy_high,
    )
