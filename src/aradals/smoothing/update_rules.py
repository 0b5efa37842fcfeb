"""How the targets answer to the calibration gaps: the adaptive update, and the ways in which it can be steadied.

With p_r the target of subset r, gap_r = conf(S_r) - acc(S_r) on validation data, and means over validation examples:

    integral (the paper's, λ = 0)   p_r <- p_r - α (gap_r + λ (p_r - mean p))
    hybrid                          level <- level - α mean gap;   p_r = level - β (gap_r - mean gap)

clipped to [1/K, 1] in both cases. The paper's rule integrates each gap on its own. A subset's validation gap answers
only weakly to its own training target, because subsets share features; the integrals of neighbors then work against
each other and run to opposite bounds: they wind up. The leak and the hybrid rule let a subset leave the common level
only as far as its own gap justifies. `UpdateRule` chooses and combines, `update_target_prob` is the step.

Y. Qin, X. Wang, A. Beutel, E. Chi, "Improving Calibration through the Relationship with Adversarial Robustness",
NeurIPS 2021 (arXiv 2006.16375). The other rules are ours, except where a source is given.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from aradals.errors import InputError


@dataclass(frozen=True)
class UpdateRule:
    """The settings of the adaptive update. They combine freely, but for the leak, which the hybrid rule does not have.

    Args:
        rate: α, at least 0. What counts is α times the number of updates; "auto" is `default_update_rate`, once
            `for_updates` has been told how many there will be.
        leak: λ, at least 0, the pull of a target towards the common level. At rest gap_r = -λ (p_r - mean p), and the
            mean gap is 0. 0 is the paper's rule. Without effect in the hybrid rule.
        proportional_gain: β, at least 0, makes the rule hybrid: the common level integrates the mean gap, and the
            distance of a target from it is proportional to its own gap's distance from the mean. At rest the mean gap
            is 0 and p_r = level - β gap_r, as with a leak of 1/β. Only the level has a memory, so that no subset winds
            up.
        averaging: a in [0, 1), the weight of earlier epochs in the gaps: g <- a g + (1 - a) gap, from the first gap
            on. Noise that is independent from epoch to epoch is left with (1 - a)/(1 + a) of its variance. The level
            of the hybrid rule, an average already, takes the gaps as they are.
        shrink: draw the subsets' gaps together as far as their differences could be chance: see `shrink_gaps`.
        floor: no target below the subset's own validation accuracy, which is what the confidence is to become: a
            target under it asks for under-confidence.
        monotone: targets do not fall with robustness (r = 0, the least robust, has the lowest): isotonic regression,
            weighted by the size of the subset. Means nothing where subsets have no order.

    Raises:
        InputError: a setting out of its range.

    Example:
        >>> UpdateRule(leak=0)  # the paper's rule
        UpdateRule(rate=0.1, leak=0, proportional_gain=None, averaging=0.0, shrink=False, floor=False, monotone=False)
        >>> UpdateRule(rate="auto").for_updates(200).rate
        0.03
    """

    rate: float | Literal["auto"] = 0.1
    leak: float = 0.3
    proportional_gain: float | None = None
    averaging: float = 0.0
    shrink: bool = False
    floor: bool = False
    monotone: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.rate, str) and self.rate != "auto":
            raise InputError(expected='a rate that is a number or "auto"', got=repr(self.rate), hint='rate="auto"')
        at_least_0 = {"leak": self.leak, "proportional_gain": self.proportional_gain or 0.0}
        if not isinstance(self.rate, str):
            at_least_0["rate"] = self.rate
        for name, value in at_least_0.items():
            if not 0 <= value < math.inf:
                raise InputError(
                    expected=f"{name} of at least 0",
                    got=f"{name}={value}",
                    hint='rate="auto", leak=0.3, proportional_gain=1',
                )
        if not 0 <= self.averaging < 1:
            raise InputError(
                expected="averaging of at least 0 and below 1", got=f"averaging={self.averaging}", hint="0 or 0.7"
            )

    def for_updates(self, num_updates: int) -> UpdateRule:
        """The same rule for a schedule of so many updates: "auto" becomes a number, a number stays."""
        return replace(self, rate=default_update_rate(num_updates)) if self.rate == "auto" else self

    @property
    def update_rate(self) -> float:
        """α as a number.

        Raises:
            InputError: it is still "auto".
        """
        if isinstance(self.rate, str):
            raise InputError(
                expected="an update rate that is a number",
                got=f"rate={self.rate!r}, which depends on the number of updates",
                hint="rule.for_updates(num_updates)",
            )
        return self.rate


def default_update_rate(num_updates: int) -> float:
    """The α that suits a schedule: 6 / (number of updates), at most 0.1.

    The update integrates, so that α times the number of updates is what counts. But a brisk α follows the first epochs,
    when a network is over-confident for want of training, and a short schedule does not leave it the time to come back.
    """
    return min(0.1, 6 / num_updates)


@dataclass(frozen=True)
class Measurement:
    """What one pass over the validation data says of each subset.

    Attributes:
        confidence: mean confidence, shape (R,); NaN where the subset is empty.
        accuracy: shape (R,); NaN where the subset is empty.
        standard_error: of confidence - accuracy, shape (R,), see `measure`; NaN where the subset is empty.
        count: number of examples, float, shape (R,); not 0 for all.
    """

    confidence: Tensor
    accuracy: Tensor
    standard_error: Tensor
    count: Tensor

    @property
    def gap(self) -> Tensor:
        """Confidence minus accuracy, shape (R,): positive = over-confident."""
        return self.confidence - self.accuracy


def measure(confidence: Tensor, correct: Tensor, subsets: Tensor, num_subsets: int) -> Measurement:
    """Confidence, accuracy and the standard error of their difference, by subset.

    The standard error is that of a calibrated model: an example of confidence c is right with probability c, so that
    the variance of the gap is sum c (1 - c) / n². Since the same validation examples come back every epoch, an average
    of gaps over epochs is no surer than one of them.

    Args:
        confidence: of each example, float, shape (N,).
        correct: 1 where the prediction is right, else 0, float, shape (N,).
        subsets: int64 in [0, R), shape (N,).
        num_subsets: R.
    """

    def sum_by_subset(values: Tensor) -> Tensor:
        return values.new_zeros(num_subsets).index_add_(0, subsets, values)

    count = sum_by_subset(torch.ones_like(confidence))
    variance = sum_by_subset(confidence * (1 - confidence)) / count**2
    return Measurement(sum_by_subset(confidence) / count, sum_by_subset(correct) / count, variance.sqrt(), count)


@dataclass(frozen=True)
class TargetState:
    """What the update remembers.

    Attributes:
        target_prob: p, in [1/K, 1], shape (R,).
        level: common level of the hybrid rule, in [1/K, 1], shape ().
        average_gap: gap averaged over epochs, shape (R,); NaN before its first measurement.
    """

    target_prob: Tensor
    level: Tensor
    average_gap: Tensor

    @classmethod
    def initial(cls, num_subsets: int, target_prob: float = 1.0) -> TargetState:
        """Equal targets, float64, and no gap measured yet."""
        targets = torch.full((num_subsets,), target_prob, dtype=torch.float64)
        return cls(targets, targets[0].clone(), torch.full_like(targets, torch.nan))


def update_target_prob(state: TargetState, measurement: Measurement, rule: UpdateRule, num_classes: int) -> TargetState:
    """The adaptive update: over-confident subsets get softer labels, under-confident ones get them back.

    A subset without validation examples keeps its target but for the leak; under the hybrid rule it has the common
    level. With one subset leak, shape rate, shrinkage and monotonicity change nothing.

    Args:
        state: targets and memory before the update.
        measurement: confidence and accuracy by subset on validation data.
        rule: a rule whose rate is a number.
        num_classes: K.

    Returns:
        The state after the update.

    Raises:
        InputError: the rate is still "auto".

    Example:
        >>> confidence, correct = torch.tensor([0.9, 0.7, 0.8]), torch.tensor([1.0, 0.0, 1.0])
        >>> measurement = measure(confidence, correct, subsets=torch.tensor([0, 0, 1]), num_subsets=2)
        >>> state = TargetState.initial(num_subsets=2)
        >>> update_target_prob(state, measurement, UpdateRule(rate=0.5, leak=0), num_classes=10).target_prob
        tensor([0.8500, 1.0000], dtype=torch.float64)
    """
    alpha, leak, beta = rule.update_rate, rule.leak, rule.proportional_gain
    share = measurement.count / measurement.count.sum()
    measured = measurement.count > 0

    def mean(values: Tensor) -> Tensor:
        return (share * values.nan_to_num(0.0)).sum()

    def clip(values: Tensor) -> Tensor:
        return values.clamp(1 / num_classes, 1.0)

    average = average_gaps(state.average_gap, measurement.gap, rule.averaging)
    gap = shrink_gaps(average, measurement) if rule.shrink else average

    if beta is None:
        step = gap.where(measured, 0.0) + leak * (state.target_prob - mean(state.target_prob))
        level, target_prob = state.level, clip(state.target_prob - alpha * step)
    else:
        level = clip(state.level - alpha * mean(measurement.gap))
        target_prob = clip(level - beta * (gap - mean(gap)).where(measured, 0.0))

    floor = measurement.accuracy.nan_to_num(0.0) if rule.floor else torch.zeros_like(target_prob)
    if rule.monotone:
        # The larger of two sequences that do not fall does not fall either, so that both promises hold.
        target_prob, floor = isotonic_regression(target_prob, measurement.count), floor.cummax(0).values
    return TargetState(target_prob.maximum(floor), level, average)


def average_gaps(average: Tensor, gap: Tensor, weight: float) -> Tensor:
    """Exponential average ``weight * average + (1 - weight) * gap``, which starts with the first gap.

    Args:
        average: shape (R,); NaN where nothing was measured before.
        gap: shape (R,); NaN where nothing was measured now, and the average stays.
        weight: a, of what was before, in [0, 1).
    """
    updated = weight * average.where(~average.isnan(), gap) + (1 - weight) * gap
    return updated.where(~gap.isnan(), average)


def shrink_gaps(gap: Tensor, measurement: Measurement) -> Tensor:
    """Draw the subsets' gaps towards the gap of the whole, as far as their differences could be chance.

    Empirical Bayes with the method of moments: gap_r ← gap + w_r (gap_r - gap), w_r = τ²/(τ² + se_r²), where
    τ² = max(0, var(gap_r) - mean se_r²) is the variance that sampling does not explain. All are the gap of the whole
    where it explains everything.

    Args:
        gap: by subset, shape (R,); NaN where the subset is empty.
        measurement: sizes and standard errors of the subsets.

    Returns:
        Shape (R,); NaN where the subset is empty.

    References:
        Efron and Morris, Data analysis using Stein's estimator and its generalizations, JASA 70, 1975.
    """
    measured = measurement.count > 0
    variance = measurement.standard_error**2
    overall = (measurement.count / measurement.count.sum() * gap)[measured].sum()
    # One subset has no variance.
    spread = gap[measured].var() if int(measured.sum()) > 1 else torch.zeros_like(overall)
    between = (spread - variance[measured].mean()).clamp(min=0.0)
    weight = (between / (between + variance)).nan_to_num(0.0)  # 0/0: no spread, and no error either
    return overall + weight * (gap - overall)


def isotonic_regression(values: Tensor, weights: Tensor) -> Tensor:
    """The closest sequence that does not fall, in weighted squares: pool adjacent violators.

    Args:
        values: shape (R,).
        weights: shape (R,); less than 1 counts as 1, so that an empty subset goes where its neighbors are.

    References:
        Ayer, Brunk, Ewing, Reid and Silverman, An empirical distribution function for sampling with incomplete
        information, Annals of Mathematical Statistics 26, 1955.
    """
    blocks: list[tuple[float, float, int]] = []  # mean, weight, length
    for mean, weight in zip(values.tolist(), weights.clamp(min=1.0).tolist(), strict=True):
        length = 1
        while blocks and blocks[-1][0] > mean:
            last_mean, last_weight, last_length = blocks.pop()
            mean = (last_weight * last_mean + weight * mean) / (last_weight + weight)
            weight, length = last_weight + weight, last_length + length
        blocks.append((mean, weight, length))
    return values.new_tensor([mean for mean, _, length in blocks for _ in range(length)])
