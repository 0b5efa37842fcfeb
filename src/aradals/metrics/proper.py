"""Accuracy and proper scores: means over examples."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from aradals.checks import Values
from aradals.metrics.outcomes import ClassGaps, Outcomes, outcomes_and_class_gaps, weighted_mean, weighted_outcomes


def accuracy(
    labels: Values,
    *,
    logits: Values | None = None,
    probs: Values | None = None,
    sample_weight: Values | None = None,
    ignore_index: int | None = None,
) -> float:
    """Share of examples whose most probable class (the first of several) is the label. Arguments: `brier_score`."""
    examples, weights = weighted_outcomes(
        labels, logits=logits, probs=probs, sample_weight=sample_weight, ignore_index=ignore_index
    )
    return weighted_mean(examples.correct, weights)


def mean_confidence(
    labels: Values,
    *,
    logits: Values | None = None,
    probs: Values | None = None,
    sample_weight: Values | None = None,
    ignore_index: int | None = None,
) -> float:
    """Mean of the largest predicted probability. Arguments: `brier_score`."""
    examples, weights = weighted_outcomes(
        labels, logits=logits, probs=probs, sample_weight=sample_weight, ignore_index=ignore_index
    )
    return weighted_mean(examples.confidence, weights)


def nll(
    labels: Values,
    *,
    logits: Values | None = None,
    probs: Values | None = None,
    sample_weight: Values | None = None,
    ignore_index: int | None = None,
) -> float:
    """Mean negative log-likelihood in nats; inf if a label has probability 0. Arguments: `brier_score`."""
    examples, weights = weighted_outcomes(
        labels, logits=logits, probs=probs, sample_weight=sample_weight, ignore_index=ignore_index
    )
    return weighted_mean(examples.nll, weights)


def brier_score(
    labels: Values,
    *,
    logits: Values | None = None,
    probs: Values | None = None,
    sample_weight: Values | None = None,
    ignore_index: int | None = None,
) -> float:
    """Mean squared distance between probabilities and one-hot labels, summed over classes, in [0, 2].

    Example: probabilities (0.7, 0.3) and label 0 give 0.3² + 0.3² = 0.18.

    Args:
        labels: integer, shape (N,), in [0, K).
        logits: floats, shape (N, K), -inf for masked classes; or
        probs: rows in [0, 1] that sum to 1 within 1e-3, shape (N, K).
        sample_weight: weight of each example in the mean, at least 0, shape (N,).
        ignore_index: label of the examples to leave out, for example -100.

    Raises:
        InputError: see `outcomes`; wrong weights.
    """
    examples, weights = weighted_outcomes(
        labels, logits=logits, probs=probs, sample_weight=sample_weight, ignore_index=ignore_index
    )
    return weighted_mean(examples.brier, weights)


def brier_calibration(
    labels: Values, *, logits: Values | None = None, probs: Values | None = None, num_bins: int = 15
) -> float:
    """Calibration part of the Brier score, Σ_k Σ_b (n_kb / N) (mean p_k - share of class k)², in [0, 2].

    Each class is taken versus the rest, with its probabilities in the bins of `expected_calibration_error` (Murphy
    1973, in bins). If the probability of the class were shifted by the gap in each bin, the Brier score would fall by
    exactly this part. `brier_score` is the sum of this part and `brier_refinement`. Finite samples inflate this part.

    Example: two predictions (0.9, 0.1) with the labels 0 and 1 have the Brier score (0.02 + 1.62) / 2 = 0.82. The
        calibration part is (0.9 - 0.5)² + (0.1 - 0.5)² = 0.32. The refinement 0.5 is the Brier score of the
        prediction (0.5, 0.5).

    Arguments and errors are those of `expected_calibration_error`.
    """
    return brier_calibration_part(
        outcomes_and_class_gaps(labels, logits=logits, probs=probs, num_bins=num_bins)[1], len(labels)
    )


def brier_refinement(
    labels: Values, *, logits: Values | None = None, probs: Values | None = None, num_bins: int = 15
) -> float:
    """Brier score minus `brier_calibration`, in [0, 2]; lower = the predictions separate the classes better.

    Arguments and errors are those of `expected_calibration_error`.
    """
    examples, gaps = outcomes_and_class_gaps(labels, logits=logits, probs=probs, num_bins=num_bins)
    return brier_refinement_part(examples, gaps)


def brier_calibration_part(gaps: ClassGaps, num_examples: int) -> float:
    """Compute `brier_calibration` from sums."""
    return float((gaps.gap.square() / gaps.count.clamp(min=1)).sum() / num_examples)


def brier_refinement_part(examples: Outcomes, gaps: ClassGaps) -> float:
    """Compute `brier_refinement` from sums."""
    # Rounding may make the difference slightly negative.
    return max(0.0, float(examples.brier.mean()) - brier_calibration_part(gaps, len(examples.brier)))


def wilson_interval(successes: Tensor, counts: Tensor, *, level: float = 0.95) -> tuple[Tensor, Tensor]:
    """Wilson's score interval of a proportion (Wilson 1927), elementwise; NaN if the count is 0.

    Unlike a resampling interval, it does not shrink to a point when all or none succeed.
    """
    z = torch.special.ndtri(torch.tensor((1 + level) / 2, dtype=torch.float64, device=counts.device))
    counts = counts.double()
    share = successes / counts
    center = (share + z**2 / (2 * counts)) / (1 + z**2 / counts)
    half_width = z / (1 + z**2 / counts) * (share * (1 - share) / counts + (z / (2 * counts)) ** 2).sqrt()
    # At share 0 and 1 the ends are 0 and 1 up to rounding.
    return (center - half_width).clamp(min=0), (center + half_width).clamp(max=1)


def binomial_bound(successes: int, count: int, *, level: float = 0.95) -> float:
    """Clopper and Pearson's upper bound of a proportion: exact, above the true one in at least ``level`` of samples."""
    if successes == count:
        return 1.0
    low, high = successes / count, 1.0
    while high - low > 1e-12:
        share = (low + high) / 2
        low, high = (share, high) if binomial_at_most(successes, count, share) > 1 - level else (low, share)
    return high


def binomial_at_most(successes: int, count: int, share: float) -> float:
    """Probability of at most so many successes in ``count`` examples, if each succeeds with probability ``share``."""
    k = torch.arange(successes + 1, dtype=torch.float64)
    n = torch.tensor(float(count), dtype=torch.float64)
    log_ways = (n + 1).lgamma() - (k + 1).lgamma() - (n - k + 1).lgamma()
    return float((log_ways + k * math.log(share) + (n - k) * math.log1p(-share)).exp().sum())
