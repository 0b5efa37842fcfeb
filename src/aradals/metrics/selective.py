"""Selective prediction: how well confidence separates right from wrong predictions, and known from unknown inputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from aradals.checks import Values, check_predictions, check_subsets, to_tensor
from aradals.errors import InputError
from aradals.metrics.outcomes import Ranking, outcomes, rank
from aradals.metrics.proper import binomial_at_most, binomial_bound

COVERAGES = tuple(percent / 100 for percent in range(10, 101))
"""The shares of most confident predictions that `confidence_threshold` tests, in this order.

The first share is large enough that a single wrong label among the most confident examples of many does not end the
search; finer steps do not raise the coverage.
"""


@dataclass(frozen=True)
class ConfidenceThreshold:
    """A confidence threshold with a guarantee for the error of the predictions that reach it.

    Attributes:
        threshold: a confidence that occurs in the data.
        coverage: the share of all predictions that reach the threshold, in (0, 1].
        n: the number of predictions that reach the threshold.
        error: the share of these predictions that are wrong.
        bound: the upper confidence bound of the error on new examples, at most the requested error.
        level: the confidence level of the bound.
    """

    threshold: float
    coverage: float
    n: int
    error: float
    bound: float
    level: float


def selective_risk(ranking: Ranking) -> Tensor:
    """Share of wrong predictions among each example and all more confident ones, shape (N,), in ranking order."""
    wrong = (1 - ranking.mean_correct).flip(0).cumsum(0)
    return (wrong / torch.arange(1, len(wrong) + 1, device=wrong.device)).flip(0)


def ranked_auroc(ranking: Ranking) -> float:
    """Probability that a right example ranks above a wrong one, by the sum of ranks (Mann and Whitney)."""
    right = float(ranking.correct.sum())
    wrong = len(ranking.correct) - right
    if right == 0 or wrong == 0:
        return math.nan
    ranks = torch.arange(1, len(ranking.correct) + 1, dtype=torch.float64, device=ranking.correct.device)
    return (float(ranks @ ranking.mean_correct) - right * (right + 1) / 2) / (right * wrong)


def most_confident(ranking: Ranking, coverage: float) -> Tensor:
    """Mean correctness of the ceil(coverage · N) most confident examples, in ranking order.

    Raises:
        InputError: a coverage outside (0, 1].
    """
    if not 0 < coverage <= 1:
        raise InputError(expected="coverage in (0, 1]", got=str(coverage), hint="0.9 for 90 %")
    return ranking.mean_correct[-_num_covered(ranking, coverage) :]


def largest_coverage(ranking: Ranking, max_error: float) -> float:
    """Share of the most confident examples, as many as possible, of which at most ``max_error`` are wrong; or 0.

    Raises:
        InputError: ``max_error`` outside [0, 1].
    """
    _check_max_error(max_error)
    # Rounding errors of sums may lift an error above its limit.
    good = (selective_risk(ranking) <= max_error + 1e-12).nonzero()
    return 1 - int(good[0]) / len(ranking.order) if len(good) else 0.0


def _num_covered(ranking: Ranking, coverage: float) -> int:
    # The product is rounded first, so that 0.07 · 100 = 7.000000000000001 counts as 7.
    return max(1, math.ceil(round(coverage * len(ranking.order), 6)))


def aurc_terms(ranking: Ranking) -> Tensor:
    """Compute one term for each example: the mean of the terms is the AURC, their spread is its sampling error.

    The terms are the influence function. AURC = mean_j r_j with the risk r_j = (errors from rank j on) / k_j, where
    k_j is the number of examples from rank j on. An example at rank i adds its own r_i, and moves every risk r_j with
    j <= i by (error_i - r_j) / k_j.
    """
    risk = selective_risk(ranking)
    kept = torch.arange(len(risk), 0, -1, dtype=risk.dtype)
    terms = risk + (1 - ranking.correct) * (1 / kept).cumsum(0) - (risk / kept).cumsum(0)
    return torch.empty_like(terms).scatter_(0, ranking.order, terms)


def auroc_terms(ranking: Ranking, auroc: float) -> Tensor:
    """Compute the terms of `ranked_auroc` like `aurc_terms`: its projection on single examples (DeLong et al. 1988).

    A right example contributes the share of wrong examples below it, a wrong example the share of right examples above
    it.
    """
    n, right = len(ranking.order), float(ranking.correct.sum())
    if not 0 < auroc < 1:
        return torch.full((n,), auroc, dtype=torch.float64)
    wrong_share, right_share = ((n - right) / n, right / n)
    count = torch.bincount(ranking.first, minlength=n)[ranking.first]

    def share_below(events: Tensor) -> Tensor:
        """Share of examples of this kind with less confidence; those with equal confidence count half."""
        before = (events.cumsum(0) - events)[ranking.first]
        return (before + events * count / 2) / n  # examples of equal confidence share one mean number of events

    wrong_below = share_below(1 - ranking.mean_correct) / wrong_share
    right_above = 1 - share_below(ranking.mean_correct) / right_share
    terms = (
        auroc
        + ranking.correct * (wrong_below - auroc) / right_share
        + (1 - ranking.correct) * (right_above - auroc) / wrong_share
    )
    return torch.empty_like(terms).scatter_(0, ranking.order, terms)


def effective_sample(ranking: Ranking, coverage: float) -> tuple[Tensor, Tensor]:
    """Return successes and sample size of independent examples that have the sampling error of the accuracy A.

    A is the accuracy at a coverage c. Its confidence limit is a quantile of the sample, which adds noise. If the
    accuracy near the limit is a, the variance of A is [A (1 - A) + (1 - c) (A - a)²] / (c N). The first part is the
    variance for a fixed limit.
    """
    kept = most_confident(ranking, coverage)
    n, width = len(ranking.order), math.isqrt(len(ranking.order))
    limit = n - len(kept)
    near = ranking.mean_correct[max(0, limit - width) : limit + width + 1].mean()
    accuracy = kept.mean().clamp(0, 1)
    variance = accuracy * (1 - accuracy)
    inflation = 1 + (1 - coverage) * (accuracy - near).square() / variance
    count = len(kept) / (inflation if variance > 0 else torch.ones_like(variance))
    return accuracy * count, count


def aurc(labels: Values, *, logits: Values | None = None, probs: Values | None = None) -> float:
    """Area under the risk-coverage curve (Geifman et al. 2019), in [0, 1]; lower = better.

    The AURC is the mean over n = 1 .. N of the error among the n most confident predictions. If confidences are equal,
    the result is the mean over all their orders.

    Example: confidences 0.9, 0.8 and 0.7, where only the second prediction is wrong, give (0 + 1/2 + 1/3) / 3.

    Arguments and errors are those of `outcomes`.
    """
    return float(selective_risk(outcomes(labels, logits=logits, probs=probs).ranking).mean())


def accuracy_at_coverage(
    labels: Values, *, logits: Values | None = None, probs: Values | None = None, coverage: float = 0.9
) -> float:
    """Accuracy of the ceil(coverage · N) most confident predictions, in [0, 1].

    If several predictions at the limit have the same confidence, the result is the mean over all choices among them.

    Args:
        labels: integer, shape (N,), in [0, K).
        logits: finite floats, shape (N, K); or
        probs: rows in [0, 1] that sum to 1 within 1e-3, shape (N, K).
        coverage: share of the predictions that are kept, in (0, 1].

    Raises:
        InputError: see `outcomes`; a coverage outside (0, 1].
    """
    return float(most_confident(outcomes(labels, logits=logits, probs=probs).ranking, coverage).mean())


def coverage_at_error(
    labels: Values, *, logits: Values | None = None, probs: Values | None = None, max_error: float = 0.01
) -> float:
    """Largest share of the most confident predictions of which at most ``max_error`` are wrong, in [0, 1].

    The share is chosen on these examples, and so it is no promise for others; `confidence_threshold` gives one. If
    several predictions have the same confidence, their mean error counts.

    Example: confidences 0.9, 0.8, 0.7 and 0.6, where only the second prediction is wrong, have the errors 0, 1/2, 1/3
    and 1/4 among the most confident ones, and so the coverage 1 at ``max_error=0.25`` and 1/4 at 0.2.

    Args:
        labels: integer, shape (N,), in [0, K).
        logits: finite floats, shape (N, K); or
        probs: rows in [0, 1] that sum to 1 within 1e-3, shape (N, K).
        max_error: largest share of wrong predictions among those that are kept, in [0, 1].

    Raises:
        InputError: see `outcomes`; ``max_error`` outside [0, 1].
    """
    return largest_coverage(outcomes(labels, logits=logits, probs=probs).ranking, max_error)


def error_auroc(labels: Values, *, logits: Values | None = None, probs: Values | None = None) -> float:
    """AUROC of the confidence for error detection, in [0, 1]; 1/2 = chance (Hendrycks and Gimpel 2017).

    This is the probability that a right prediction is more confident than a wrong one; equal confidences count half.
    It is NaN if all predictions are right or all are wrong.

    Arguments and errors are those of `outcomes`.
    """
    return ranked_auroc(outcomes(labels, logits=logits, probs=probs).ranking)


def ood_auroc(in_distribution: Tensor, out_of_distribution: Tensor) -> float:
    """AUROC of a score for out-of-distribution detection, in [0, 1]; 1/2 = chance.

    This is the probability that an example of the first data set scores higher than one of the second; ties count half.

    Args:
        in_distribution: scores of N examples, shape (N,); larger = more likely in the distribution, see `ood_scores`.
        out_of_distribution: the same score of M examples of another data set, shape (M,).

    Raises:
        InputError: there are no examples, a score is NaN, or the shape is wrong.
    """
    return ranked_auroc(ood_ranking(in_distribution, out_of_distribution))


def ood_ranking(in_distribution: Tensor, out_of_distribution: Tensor) -> Ranking:
    """Rank the scores of two data sets together, where those of the first one count as right; see `ood_auroc`."""
    for scores in (in_distribution, out_of_distribution):
        if scores.ndim != 1 or len(scores) == 0 or not scores.is_floating_point() or scores.isnan().any():
            raise InputError(
                expected="one score for each example, not NaN, and at least one example",
                got=f"{scores.dtype} of shape {tuple(scores.shape)}"
                + (" with NaN" if scores.is_floating_point() and scores.isnan().any() else ""),
                hint="the scores of ood_scores(logits)",
            )
    scores = torch.cat([in_distribution.detach().double(), out_of_distribution.detach().double()])
    known = torch.zeros_like(scores)
    known[: len(in_distribution)] = 1
    return rank(scores, known)


OOD_SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "confidence": lambda logits: logits.softmax(1).amax(1),
    "max_logit": lambda logits: logits.amax(1),
    "energy": lambda logits: logits.logsumexp(1),
}
"""Scores of logits, shape (N, K), that are larger for inputs that resemble the training data."""


def ood_scores(logits: Tensor, score: str = "confidence") -> Tensor:
    """Compute the score by which `ood_auroc` separates data sets, float64, shape (N,).

    Args:
        logits: finite floats, shape (N, K).
        score: ``confidence``, the largest probability (Hendrycks and Gimpel 2017); ``max_logit`` (Hendrycks et al.
            2022); or ``energy``, the logsumexp of the logits, which is the negative free energy at temperature 1 (Liu
            et al. 2020).

    Raises:
        InputError: an unknown score; see `check_logits`.
    """
    if score not in OOD_SCORES:
        raise InputError(expected="the name of a score", got=score, hint="one of: " + ", ".join(OOD_SCORES))
    return OOD_SCORES[score](check_predictions(logits=logits).double())


def confidence_threshold(
    labels: Values,
    max_error: float,
    *,
    logits: Values | None = None,
    probs: Values | None = None,
    level: float = 0.95,
) -> ConfidenceThreshold | None:
    """Find the smallest confidence from which on at most ``max_error`` of new predictions are wrong, with a guarantee.

    The guarantee: in at least a share ``level`` of data sets like this one, the error of new accepted examples of the
    same population is at most ``max_error``, or no threshold is found. The search is a fixed sequence of tests
    (Angelopoulos et al. 2021, "Learn then test"). The candidates are the least confidences among the 10 %, 11 %, ...
    100 % most confident predictions. The sequence does not depend on correctness. Each test compares the exact upper
    bound of the error (Clopper and Pearson 1934) with ``max_error``. The first bound above ``max_error`` ends the
    search. Therefore the search needs no correction for the number of tests, if predictions below a threshold are
    wrong at least as often as those above it. Candidates with fewer than `min_accepted` predictions are left out. Equal
    confidences are taken together.

    Example: among 1,000 predictions, a threshold for ``max_error`` 0.01 needs no error in the 300 most confident
        predictions, because 299 examples without error have the 95 % bound 0.01.

    Args:
        labels: integer, shape (N,), in [0, K). They must be new to the model and to its calibrator.
        max_error: fraction in [0, 1].
        logits: finite floats, shape (N, K); or
        probs: rows in [0, 1] that sum to 1 within 1e-3, shape (N, K).
        level: confidence level of the guarantee, in (0, 1).

    Returns:
        The threshold with its coverage and bound, or None if no threshold can be guaranteed.

    Raises:
        InputError: see `outcomes`; ``max_error`` outside [0, 1], or ``level`` outside (0, 1).
    """
    needed = min_accepted(max_error, level=level)
    ranking = outcomes(labels, logits=logits, probs=probs).ranking
    num_wrong = (1 - ranking.correct).flip(0).cumsum(0).flip(0)
    found = None
    for coverage in COVERAGES:
        first = int(ranking.first[-_num_covered(ranking, coverage)])
        n, wrong = len(ranking.order) - first, int(num_wrong[first])
        if n < needed:
            continue
        if _is_above(max_error, wrong, n, level):
            break
        found = (first, n, wrong)
    if found is None:
        return None
    first, n, wrong = found
    bound = min(max_error, binomial_bound(wrong, n, level=level))  # without the rounding of the bound
    return ConfidenceThreshold(float(ranking.confidence[first]), n / len(ranking.order), n, wrong / n, bound, level)


def confidence_threshold_by_subset(
    labels: Values,
    subsets: Values,
    max_error: float,
    *,
    logits: Values | None = None,
    probs: Values | None = None,
    level: float = 0.95,
) -> dict[int, ConfidenceThreshold | None]:
    """Find a threshold of its own for each subset, see `confidence_threshold`; all guarantees hold together.

    A threshold for all examples promises nothing for a part of them: among the accepted examples, the least robust
    ones can be wrong more often. Here the promise holds within each subset (Mondrian, Vovk et al. 2003). With R
    subsets, each has the level 1 - (1 - ``level``) / R, so that all promises are kept in a share ``level`` of data sets
    (Bonferroni).

    Args:
        labels: integer, shape (N,), in [0, K).
        subsets: subset of each example, integer, at least 0, shape (N,).
        max_error: fraction in [0, 1].
        logits: finite floats, shape (N, K); or
        probs: rows in [0, 1] that sum to 1 within 1e-3, shape (N, K).
        level: confidence level of all guarantees together, in (0, 1).

    Returns:
        For each subset with examples, in order, its threshold, or None if no threshold can be guaranteed. ``coverage``
        is the share of the subset, and ``level`` is that of one subset.

    Raises:
        InputError: see `confidence_threshold`; wrong subsets.
    """
    _check_level(level)
    members = check_subsets(subsets, len(labels))
    labels = to_tensor(labels)
    given = {name: to_tensor(each) for name, each in {"logits": logits, "probs": probs}.items() if each is not None}
    numbers = torch.unique(members).tolist()
    own_level = level_of_each(level, len(numbers))
    return {
        number: confidence_threshold(
            labels[member], max_error, level=own_level, **{name: each[member] for name, each in given.items()}
        )
        for number in numbers
        for member in [members == number]
    }


def level_of_each(level: float, number: int) -> float:
    """Confidence level at which each of some guarantees must hold, so that all hold together at ``level``."""
    return 1 - (1 - level) / number


def min_accepted(max_error: float, *, level: float = 0.95) -> float:
    """Return the least number of predictions, all of them right, whose error has an upper bound of ``max_error``.

    Example:
        >>> min_accepted(0.01), min_accepted(0.05)
        (299, 59)

    Returns:
        An integer, or infinity for ``max_error`` 0.

    Raises:
        InputError: ``max_error`` outside [0, 1], or ``level`` outside (0, 1).
    """
    _check_max_error(max_error)
    _check_level(level)
    if max_error in (0, 1):
        return 1 if max_error else math.inf
    least = math.log(1 - level) / math.log1p(-max_error)
    return max(1, math.ceil(least - 1e-9))


def _is_above(max_error: float, wrong: int, n: int, level: float) -> bool:
    """Return True if the upper bound of the error is above ``max_error``: so few errors are not improbable there."""
    return max_error < 1 and binomial_at_most(wrong, n, max_error) > (1 - level) * (1 + 1e-9)


def _check_max_error(max_error: float) -> None:
    if not 0 <= max_error <= 1:
        raise InputError(expected="max_error in [0, 1]", got=str(max_error), hint="0.01 for one error in 100")


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise InputError(expected="level in (0, 1)", got=str(level), hint="0.95 for 95 %")
