"""The outcomes of predictions, which all metrics share: one pass over the logits or probabilities."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property

import torch
from torch import Tensor

from aradals.checks import Values, check_examples, check_predictions, check_weights, counted, to_tensor
from aradals.errors import InputError

CHUNK_ELEMENTS = 2**17
"""Number of probabilities in memory at a time (1 MB in float64). Chunks that fit a cache are several times faster."""


@dataclass(frozen=True)
class Outcomes:
    """The outcome of each prediction, from which the metrics follow; float64, shape (N,) each.

    Attributes:
        confidence: the largest predicted probability.
        correct: 1 if the most probable class is the label, else 0.
        nll: negative log-probability of the label, in nats; inf if that probability is 0.
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

    @cached_property
    def ranking(self) -> Ranking:
        """The examples by increasing confidence, sorted once for all metrics that need ranks."""
        return rank(self.confidence, self.correct)

    def cpu(self) -> Outcomes:
        """Copy the outcomes to the CPU, so that a seed gives the same draws on every device."""
        if self.confidence.device.type == "cpu":
            return self  # with its ranking
        return Outcomes(*(getattr(self, field.name).cpu() for field in fields(self)))


@dataclass(frozen=True)
class Ranking:
    """Examples by increasing confidence; shape (N,) each.

    The order of equal confidences is arbitrary. Metrics that depend on this order use ``mean_correct``, and so return
    their mean over all orders.

    Attributes:
        order: indices of the examples, int64.
        confidence: the confidences in this order, not falling.
        correct: 1 or 0 for each example, in this order.
        mean_correct: the share of right predictions among the examples of the same confidence.
        first: rank (from 0) of the first example of the same confidence, int64.
    """

    order: Tensor
    confidence: Tensor
    correct: Tensor
    mean_correct: Tensor
    first: Tensor

    @property
    def gap(self) -> Tensor:
        """Confidence minus mean correctness."""
        return self.confidence - self.mean_correct


@dataclass(frozen=True)
class ClassGaps:
    """One-versus-rest sums of every class in equal-width bins of its probability; float64, shape (K, num_bins).

    Attributes:
        count: number of examples in the bin.
        gap: sum of the probabilities of the class, minus the number of examples of the class.
    """

    count: Tensor
    gap: Tensor


def rank(confidence: Tensor, correct: Tensor) -> Ranking:
    """Sort examples by confidence; both arguments of shape (N,)."""
    confidence, order = confidence.sort()
    correct = correct[order]
    starts = torch.ones_like(order)
    starts[1:] = confidence[1:] > confidence[:-1]
    tie = starts.cumsum(0) - 1
    count = torch.bincount(tie)
    mean_correct = torch.zeros_like(count, dtype=correct.dtype).index_add_(0, tie, correct) / count
    return Ranking(order, confidence, correct, mean_correct[tie], (count.cumsum(0) - count)[tie])


def outcomes(
    labels: Values, *, logits: Values | None = None, probs: Values | None = None, ignore_index: int | None = None
) -> Outcomes:
    """Confidence, correctness, NLL and Brier score of every example.

    Args:
        labels: integer, shape (N,), in [0, K).
        logits: finite floats, shape (N, K); or
        probs: rows in [0, 1] that sum to 1, as `aradals.checks.check_probs` has it, shape (N, K).
        ignore_index: label of the examples to leave out, for example -100.

    Raises:
        InputError: not exactly one of ``logits`` and ``probs``; values out of range; NaN; no examples.
    """
    labels, scores = check_examples(labels, logits=logits, probs=probs, ignore_index=ignore_index)
    return _join([_normalize(chunk, target, probs is None)[0] for chunk, target in _chunks(scores, labels)])


def outcomes_and_class_gaps(
    labels: Values, *, logits: Values | None = None, probs: Values | None = None, num_bins: int = 15
) -> tuple[Outcomes, ClassGaps]:
    """Compute `outcomes` and the gaps of every class in equal-width bins of its probability, from one softmax."""
    labels, scores = check_examples(labels, logits=logits, probs=probs)
    num_classes = scores.shape[1]
    edges = bin_edges(num_bins).to(scores.device)

    def cells(values: Tensor, classes: Tensor) -> Tensor:
        return torch.bucketize(values, edges[1:-1]) + num_bins * classes

    def sums(index: Tensor, weights: Tensor | None = None) -> Tensor:
        return torch.bincount(index, weights, num_classes * num_bins).double().view(num_classes, num_bins)

    parts = []
    count, total, label_count = torch.zeros(3, num_classes, num_bins, dtype=torch.float64, device=scores.device)
    for chunk, target in _chunks(scores, labels):
        part, weights, weight_sum = _normalize(chunk, target, probs is None)
        parts.append(part)
        class_probs = weights / weight_sum[:, None]
        # Probabilities sum to 1, so that few of many classes are beyond the first bin. The first bin gets the rest.
        beyond = class_probs > edges[1]
        values, index = class_probs[beyond], beyond.nonzero()[:, 1]
        index = cells(values, index)
        count += sums(index)
        total += sums(index, values)
        total[:, 0] += class_probs.sum(0)
        label_count += sums(cells(class_probs.gather(1, target[:, None])[:, 0], target))
    count[:, 0] = len(labels) - count[:, 1:].sum(1)
    total[:, 0] -= total[:, 1:].sum(1)
    return _join(parts), ClassGaps(count, total - label_count)


def weighted_outcomes(
    labels: Values,
    *,
    logits: Values | None,
    probs: Values | None,
    sample_weight: Values | None,
    ignore_index: int | None,
) -> tuple[Outcomes, Tensor]:
    """Compute the outcomes of the examples that count, and their weights, float64, which are 1 by default."""
    labels = to_tensor(labels)
    found = outcomes(labels, logits=logits, probs=probs, ignore_index=ignore_index)
    if sample_weight is None:
        return found, torch.ones_like(found.correct)
    weights = to_tensor(sample_weight)
    if ignore_index is not None:
        weights = counted(weights, labels != ignore_index)
    return found, check_weights(weights, len(found.correct)).to(found.correct.device)


def weighted_mean(values: Tensor, weights: Tensor) -> float:
    """Average values, both of shape (N,); a weight of 0 leaves a value out, even if it is infinite."""
    return float((values * weights).where(weights > 0, 0).sum() / weights.sum())


def confidences(*, logits: Values | None = None, probs: Values | None = None) -> Tensor:
    """Compute the largest predicted probability of each example, without labels; float64, shape (N,)."""
    scores = check_predictions(logits=logits, probs=probs)
    return outcomes(scores.new_zeros(len(scores), dtype=torch.long), logits=logits, probs=probs).confidence


def _chunks(scores: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Scores and labels of a few examples at a time."""
    rows = max(1, CHUNK_ELEMENTS // scores.shape[1])
    return zip(scores.split(rows), labels.split(rows), strict=True)


def _normalize(scores: Tensor, labels: Tensor, from_logits: bool) -> tuple[Outcomes, Tensor, Tensor]:
    """Compute outcomes, and weights in proportion to the probabilities, with their sums; float64."""
    # The most probable class (the first of several) is taken from the argument itself, because distinct logits can
    # round to equal probabilities.
    top, predicted = scores.max(1)
    top, target = top.double(), scores.gather(1, labels[:, None])[:, 0].double()
    weights = scores.double()
    if from_logits:
        weights = (weights - top[:, None]).exp_()
        total = weights.sum(1)
        confidence, true_prob, nll = 1 / total, (target - top).exp() / total, total.log() - (target - top)
    else:
        total = torch.ones_like(top)
        confidence, true_prob, nll = top, target, -target.log()
    squares = torch.linalg.vecdot(weights, weights) / total.square()
    part = Outcomes(
        confidence=confidence,
        correct=(predicted == labels).double(),
        nll=nll,
        # Rounding may make the sum over the other classes slightly negative.
        brier=(squares - true_prob.square()).clamp(min=0) + (1 - true_prob).square(),
    )
    return part, weights, total


def _join(parts: list[Outcomes]) -> Outcomes:
    columns = zip(*((part.confidence, part.correct, part.nll, part.brier) for part in parts), strict=True)
    return Outcomes(*(torch.cat(column) for column in columns))


def bin_edges(num_bins: int) -> Tensor:
    """Return the num_bins + 1 edges of equal-width bins of [0, 1], float64."""
    if num_bins < 1:
        raise InputError(expected="num_bins >= 1", got=str(num_bins), hint="num_bins=15, the usual number")
    return torch.linspace(0, 1, num_bins + 1, dtype=torch.float64)


def assign_bins(confidence: Tensor, num_bins: int) -> Tensor:
    """Find the bin (low, high] of each confidence, int64 in [0, num_bins); confidence 0 is in the first bin."""
    return torch.bucketize(confidence, bin_edges(num_bins)[1:-1].to(confidence.device))


def equal_mass_bins(ranking: Ranking, num_bins: int) -> Tensor:
    """Assign each example, in order of confidence, to a bin of nearly equal size; int64, shape (N,).

    The ranks are cut into ``num_bins`` parts whose sizes differ by at most one; the first parts are the larger ones.
    Equal confidences stay together, in the bin of the first of them.
    """
    num_examples = len(ranking.order)
    bin_edges(num_bins)  # checks num_bins
    size, rest = divmod(num_examples, num_bins)
    sizes = torch.full((num_bins,), size, device=ranking.order.device)
    sizes[:rest] += 1
    return torch.arange(num_bins, device=sizes.device).repeat_interleave(sizes)[ranking.first]


def membership(groups: Tensor, num_groups: int) -> Tensor:
    """Make the indicator matrix of shape (N, num_groups), float64."""
    return torch.nn.functional.one_hot(groups, num_groups).double()


def subset_membership(subsets: Tensor) -> Tensor:
    """Make the indicator matrix of the non-empty subsets in increasing order, float64, shape (N, R)."""
    present, groups = torch.unique(subsets, return_inverse=True)
    return membership(groups, len(present))
