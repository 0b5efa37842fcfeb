"""Accuracy and calibration metrics: tensors in, numbers out.

Every metric takes the labels and exactly one of ``logits=`` and ``probs=``; which of the two a tensor is, is
never guessed from its values. All are fractions (not percent), computed in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from aradals.errors import InputError
from aradals.inference import check_labels, check_logits


@dataclass(frozen=True)
class Outcomes:
    """What the metrics need to know of each example; float64, shape (N,) each.

    Attributes:
        confidence: the largest predicted probability.
        correct: 1 where the most probable class is the label, else 0.
        nll: negative log-probability of the label, in nats; inf where that probability is 0.
        brier: squared distance between the probabilities and the one-hot label, in [0, 2].
    """

    confidence: Tensor
    correct: Tensor
    nll: Tensor
    brier: Tensor

    @property
    def gap(self) -> Tensor:
        """Confidence minus correctness; its mean over a group of examples is the group's calibration gap."""
        return self.confidence - self.correct


@dataclass(frozen=True)
class SubsetCalibrationError:
    """The |confidence - accuracy| of robustness subsets: their unweighted mean, and the largest."""

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


@dataclass(frozen=True)
class ConfidenceThreshold:
    """Predictions with confidence >= ``threshold`` can be trusted to the error that was asked for.

    Attributes:
        threshold: a confidence that occurs in the data.
        coverage: the share of all predictions that reach it, in (0, 1].
        n: their number.
        error: the share of them that is wrong.
    """

    threshold: float
    coverage: float
    n: int
    error: float


def check_probs(probs: Tensor) -> Tensor:
    """Return ``probs`` as float64 if its rows are distributions over K >= 2 classes, up to 1e-3 in the sum.

    Raises:
        InputError: otherwise, NaN included.
    """
    if probs.ndim != 2 or probs.shape[1] < 2 or not probs.is_floating_point():
        raise InputError(
            expected="floating-point probabilities of shape (N, K) with K >= 2",
            got=f"{probs.dtype} of shape {tuple(probs.shape)}",
            hint="one row per example with the probability of every class",
        )
    probs = probs.detach().double()
    # Written so that NaN fails.
    valid = ((probs >= 0) & (probs <= 1)).all(1) & ((probs.sum(1) - 1).abs() <= 1e-3)
    if not valid.all():
        raise InputError(
            expected="probabilities in [0, 1] that sum to 1 in every row",
            got=f"{int((~valid).sum())} of {len(valid)} rows that are not",
            hint="logits= if these are logits",
        )
    return probs


def log_probabilities(*, logits: Tensor | None = None, probs: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(log-probabilities, probabilities), float64, shape (N, K), of the one argument that is given.

    Raises:
        InputError: none or both are given, no rows, or values that cannot be what the argument says.
    """
    given = logits if probs is None else probs
    if given is None or (logits is not None and probs is not None):
        raise InputError(
            expected="exactly one of logits= and probs=",
            got="neither" if given is None else "both",
            hint="logits=, which keeps more digits than saturated probabilities",
        )
    if len(given) == 0:
        raise InputError(expected="at least one example", got="none", hint="another split or subset")
    if probs is not None:
        probs = check_probs(probs)
        return probs.log(), probs
    log_probs = check_logits(given, len(given)).detach().double().log_softmax(1)
    return log_probs, log_probs.exp()


def check_classes(labels: Tensor, num_examples: int, num_classes: int) -> None:
    """Raise InputError unless ``labels`` are ``num_examples`` integers in [0, ``num_classes``)."""
    if labels.shape != (num_examples,) or labels.is_floating_point() or labels.dtype == torch.bool:
        raise InputError(
            expected=f"integer labels of shape ({num_examples},)",
            got=f"{labels.dtype} of shape {tuple(labels.shape)}",
            hint="class indices, one per row of logits or probabilities",
        )
    check_labels(labels, num_classes)


def check_subsets(subsets: Tensor, num_examples: int) -> None:
    """Raise InputError unless ``subsets`` are ``num_examples`` integers >= 0."""
    wrong_kind = subsets.shape != (num_examples,) or subsets.is_floating_point() or subsets.dtype == torch.bool
    if wrong_kind or int(subsets.min()) < 0:
        raise InputError(
            expected=f"subset indices: integers >= 0 of shape ({num_examples},)",
            got=f"{subsets.dtype} of shape {tuple(subsets.shape)}"
            + ("" if wrong_kind else f" from {int(subsets.min())}"),
            hint="one robustness subset per example",
        )


def outcomes(labels: Tensor, *, logits: Tensor | None = None, probs: Tensor | None = None) -> Outcomes:
    """Confidence, correctness, NLL and Brier score of every example.

    Args:
        labels: integer, shape (N,), in [0, K).
        logits: finite floats, shape (N, K); or
        probs: rows in [0, 1] that sum to 1 within 1e-3, shape (N, K).

    Raises:
        InputError: not exactly one of ``logits`` and ``probs``; values out of range; NaN; no examples.
    """
    log_probs, probs = log_probabilities(logits=logits, probs=probs)
    check_classes(labels, *probs.shape)
    labels = labels.long().to(probs.device)[:, None]
    # The most probable class is read off the argument itself: distinct logits can round to equal
    # probabilities.
    confidence = probs.amax(1)
    predicted = (log_probs if logits is None else logits).argmax(1)
    true_prob = probs.gather(1, labels)[:, 0]
    return Outcomes(
        confidence=confidence,
        correct=(predicted == labels[:, 0]).double(),
        nll=-log_probs.gather(1, labels)[:, 0],
        brier=probs.square().sum(1) - true_prob.square() + (1 - true_prob).square(),
    )


def accuracy(labels: Tensor, *, logits: Tensor | None = None, probs: Tensor | None = None) -> float:
    """Share of examples whose most probable class (the first of several) is the label. See `outcomes`."""
    return float(outcomes(labels, logits=logits, probs=probs).correct.mean())


def mean_confidence(labels: Tensor, *, logits: Tensor | None = None, probs: Tensor | None = None) -> float:
    """Mean of the largest predicted probability. See `outcomes`."""
    return float(outcomes(labels, logits=logits, probs=probs).confidence.mean())


def nll(labels: Tensor, *, logits: Tensor | None = None, probs: Tensor | None = None) -> float:
    """Mean negative log-likelihood in nats; inf if a label has probability 0. See `outcomes`."""
    return float(outcomes(labels, logits=logits, probs=probs).nll.mean())


def brier_score(labels: Tensor, *, logits: Tensor | None = None, probs: Tensor | None = None) -> float:
    """Mean squared distance between probabilities and one-hot labels, summed over classes, in [0, 2].

    Example: probabilities (0.7, 0.3) and label 0 give 0.3² + 0.3² = 0.18. See `outcomes` for the arguments.
    """
    return float(outcomes(labels, logits=logits, probs=probs).brier.mean())


def bin_edges(num_bins: int) -> Tensor:
    """The num_bins + 1 edges of equal-width bins of [0, 1], float64."""
    if num_bins < 1:
        raise InputError(expected="num_bins >= 1", got=str(num_bins), hint="15, the usual number")
    return torch.linspace(0, 1, num_bins + 1, dtype=torch.float64)


def assign_bins(confidence: Tensor, num_bins: int) -> Tensor:
    """The bin (low, high] of each confidence, int64 in [0, num_bins); confidence 0 is in the first bin."""
    inner_edges = bin_edges(num_bins)[1:-1].to(confidence.device)
    return torch.bucketize(confidence, inner_edges)


def membership(groups: Tensor, num_groups: int) -> Tensor:
    """Indicator matrix of shape (N, num_groups), float64."""
    return torch.nn.functional.one_hot(groups, num_groups).double()


def expected_calibration_error(
    labels: Tensor, *, logits: Tensor | None = None, probs: Tensor | None = None, num_bins: int = 15
) -> float:
    """Expected calibration error, ECE = Σ_b (n_b / N) |confidence_b - accuracy_b| (Guo et al. 2017, eq. 3).

    Bins are equally wide, (low, high]; the first also holds 0. A confidence of exactly 1 is in the last bin.
    Finite samples inflate it: a perfectly calibrated model shows `ece_noise_floor`, not 0.

    Example: confidences 0.9 and 0.9, one right and one wrong, share a bin: |0.9 - 0.5| = 0.4.

    Args:
        labels: integer, shape (N,), in [0, K).
        logits: finite floats, shape (N, K); or
        probs: rows in [0, 1] that sum to 1 within 1e-3, shape (N, K).
        num_bins: number of bins; values for different numbers cannot be compared.

    Raises:
        InputError: see `outcomes`.
    """
    examples = outcomes(labels, logits=logits, probs=probs)
    bins = assign_bins(examples.confidence, num_bins)
    # (n_b / N) |mean gap| = |sum of gaps| / N: empty bins need no special case.
    gap_sums = torch.zeros(num_bins, dtype=torch.float64, device=bins.device).index_add_(0, bins, examples.gap)
    return float(gap_sums.abs().sum() / len(bins))


def subset_calibration_error(
    labels: Tensor, subsets: Tensor, *, logits: Tensor | None = None, probs: Tensor | None = None
) -> SubsetCalibrationError:
    """Mean and largest |confidence - accuracy| over the robustness subsets that hold examples.

    Unlike ECE it sees opposite gaps at equal confidence.

    Args:
        labels: integer, shape (N,), in [0, K).
        subsets: integer >= 0, shape (N,), the subset of each example.
        logits: finite floats, shape (N, K); or
        probs: rows in [0, 1] that sum to 1 within 1e-3, shape (N, K).

    Raises:
        InputError: see `outcomes`; subsets of another shape, or negative.
    """
    examples = outcomes(labels, logits=logits, probs=probs)
    check_subsets(subsets, len(labels))
    members = subset_membership(subsets.to(examples.gap.device))
    errors = (examples.gap @ members / members.sum(0)).abs()
    return SubsetCalibrationError(mean=float(errors.mean()), largest=float(errors.max()))


def subset_membership(subsets: Tensor) -> Tensor:
    """Indicator matrix of the non-empty subsets in increasing order, float64, shape (N, R)."""
    present, groups = torch.unique(subsets, return_inverse=True)
    return membership(groups, len(present))


def wilson_interval(successes: Tensor, counts: Tensor, *, level: float = 0.95) -> tuple[Tensor, Tensor]:
    """Wilson's score interval of a proportion (Wilson 1927), elementwise; NaN where the count is 0.

    Unlike a resampling interval it does not shrink to a point when all or none succeed.
    """
    z = torch.special.ndtri(torch.tensor((1 + level) / 2, dtype=torch.float64, device=counts.device))
    counts = counts.double()
    share = successes / counts
    centre = (share + z**2 / (2 * counts)) / (1 + z**2 / counts)
    half_width = z / (1 + z**2 / counts) * (share * (1 - share) / counts + (z / (2 * counts)) ** 2).sqrt()
    # At share 0 and 1 the ends are 0 and 1 up to rounding.
    return (centre - half_width).clamp(min=0), (centre + half_width).clamp(max=1)


def reliability_diagram(
    labels: Tensor, *, logits: Tensor | None = None, probs: Tensor | None = None, num_bins: int = 15
) -> ReliabilityDiagram:
    """Confidence, accuracy and its 95 % interval in the bins of `expected_calibration_error`.

    Arguments and errors as there.
    """
    examples = outcomes(labels, logits=logits, probs=probs)
    members = membership(assign_bins(examples.confidence, num_bins), num_bins)
    count = members.sum(0)
    correct = examples.correct @ members
    accuracy_low, accuracy_high = wilson_interval(correct, count)
    edges = bin_edges(num_bins).to(count.device)
    return ReliabilityDiagram(
        low=edges[:-1],
        high=edges[1:],
        count=count.long(),
        confidence=examples.confidence @ members / count,
        accuracy=correct / count,
        accuracy_low=accuracy_low,
        accuracy_high=accuracy_high,
    )


def confidence_threshold(
    labels: Tensor, max_error: float, *, logits: Tensor | None = None, probs: Tensor | None = None
) -> ConfidenceThreshold | None:
    """The smallest observed confidence above which at most ``max_error`` of the predictions are wrong.

    Equal confidences are taken together. The error is that of these examples; on new ones it will vary.

    Example: confidences 0.9, 0.8, 0.7, of which only the second is wrong, and max_error 0.4: threshold 0.7
        (one of three is wrong), although one of two is wrong at 0.8.

    Args:
        labels: integer, shape (N,), in [0, K).
        max_error: fraction in [0, 1].
        logits: finite floats, shape (N, K); or
        probs: rows in [0, 1] that sum to 1 within 1e-3, shape (N, K).

    Returns:
        The threshold with its coverage, or None if even the most confident predictions are wrong too often.

    Raises:
        InputError: see `outcomes`; ``max_error`` outside [0, 1].
    """
    if not 0 <= max_error <= 1:
        raise InputError(expected="max_error in [0, 1]", got=str(max_error), hint="0.01 for one error in 100")
    examples = outcomes(labels, logits=logits, probs=probs)
    confidence, order = examples.confidence.sort(descending=True)
    kept = torch.arange(1, len(order) + 1, device=order.device)
    error = (1 - examples.correct[order]).cumsum(0) / kept
    ends_tie = torch.ones_like(kept, dtype=torch.bool)
    ends_tie[:-1] = confidence[1:] < confidence[:-1]
    (allowed,) = torch.nonzero(ends_tie & (error <= max_error), as_tuple=True)
    if len(allowed) == 0:
        return None
    last = int(allowed[-1])
    return ConfidenceThreshold(
        threshold=float(confidence[last]),
        coverage=(last + 1) / len(order),
        n=last + 1,
        error=float(error[last]),
    )
