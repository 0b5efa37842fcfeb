"""The adaptive update, which changes the targets by the calibration gaps, and its variants, which are more stable.

p_r is the target of subset r, gap_r = conf(S_r) - acc(S_r) its gap on validation data; means are over validation
examples.

    integral (λ = 0 in the paper)   p_r <- p_r - α (gap_r + λ (p_r - mean p))
    hybrid                          level <- level - α mean gap;   p_r = level - β (gap_r - mean gap)

Both rules clip p_r to [1/K, 1]. The paper's rule integrates each gap on its own. But a subset's own training target
has only a weak effect on its validation gap, because subsets share features. The integrals of neighboring subsets then
work against each other and run to opposite bounds; this is called wind-up. The leak and the hybrid rule let a subset
leave the common level only as far as its own gap justifies. `UpdateRule` holds the settings of the rule,
`update_target_prob` is one update.

Y. Qin, X. Wang, A. Beutel, E. Chi, "Improving Calibration through the Relationship with Adversarial Robustness",
NeurIPS 2021 (arXiv 2006.16375). The other rules are new in this package, unless a source is given.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from aradals.checks import check_between, check_subsets
from aradals.errors import InputError
from aradals.geometry import exact_dtype

_LARGEST = 1e6
"""Largest value of a setting, far above any of use. Much larger numbers would overflow."""


@dataclass(frozen=True)
class UpdateRule:
    """Settings of the adaptive update. All combinations are possible, but the leak has no effect in the hybrid rule.

    Args:
        rate: α, at least 0. The effect depends on α times the number of updates. "auto" means `default_update_rate`,
            which `for_updates` computes from the number of updates.
        leak: λ, at least 0, the pull of a target towards the common level. In equilibrium gap_r = -λ (p_r - mean p),
            and the mean gap is 0. λ = 0 is the paper's rule. The hybrid rule ignores the leak.
        proportional_gain: β, at least 0; a number makes the rule hybrid. The common level integrates the mean gap. The
            distance of a target from the level is proportional to the distance of its gap from the mean gap. In
            equilibrium the mean gap is 0 and p_r = level - β gap_r, as with a leak of 1/β. Only the level has a
            memory, so that no subset winds up.
        averaging: a in [0, 1), the weight of earlier epochs in the gaps: g <- a g + (1 - a) gap, which starts with the
            first gap. The average reduces the variance of noise that is independent between epochs to the fraction
            (1 - a)/(1 + a). The level of the hybrid rule is an average already, and uses the gaps themselves.
        shrink: move the gaps of the subsets together, as far as chance can explain their differences: see
            `shrink_gaps`.
        floor: keep each target at or above the subset's own validation accuracy. The confidence should become this
            accuracy, and a lower target asks for under-confidence.
        monotone: let no target fall with robustness (r = 0, the least robust subset, has the lowest target), by
            isotonic regression with the subset sizes as weights. This has no meaning if the subsets have no order.

    Raises:
        InputError: a setting is out of its range.

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
            if not 0 <= value <= _LARGEST:
                raise InputError(
                    expected=f"{name} from 0 to {_LARGEST:g}",
                    got=f"{name}={value}",
                    hint='rate="auto", leak=0.3 or proportional_gain=1',
                )
        if not 0 <= self.averaging < 1:
            raise InputError(
                expected="averaging in [0, 1)",
                got=f"averaging={self.averaging}",
                hint="averaging=0.7, or averaging=0 for no average",
            )

    def for_updates(self, num_updates: int) -> UpdateRule:
        """Return the rule for a schedule of ``num_updates`` updates: "auto" becomes a number, a number stays."""
        return replace(self, rate=default_update_rate(num_updates)) if self.rate == "auto" else self

    @property
    def update_rate(self) -> float:
        """α as a number.

        Raises:
            InputError: the rate is still "auto".
        """
        if isinstance(self.rate, str):
            raise InputError(
                expected="an update rate that is a number",
                got=f"rate={self.rate!r}, which depends on the number of updates",
                hint="rule.for_updates(num_updates)",
            )
        return self.rate


def default_update_rate(num_updates: int) -> float:
    """Compute the α that suits a schedule: 6 / (number of updates), at most 0.1.

    The update integrates, so that its effect depends on α times the number of updates. But in the first epochs a
    network is over-confident, because it has had little training. A large α follows this early gap, and a short
    schedule leaves no time to recover.

    Raises:
        InputError: there is no update.
    """
    if num_updates < 1:
        raise InputError(expected="at least one update", got=str(num_updates), hint="the number of epochs")
    return min(0.1, 6 / num_updates)


@dataclass(frozen=True)
class Measurement:
    """Measurement of each subset in one pass over the validation data.

    Attributes:
        confidence: mean confidence, shape (R,); NaN for an empty subset.
        accuracy: shape (R,); NaN for an empty subset.
        standard_error: standard error of confidence - accuracy, shape (R,), see `measure`; NaN for an empty subset.
        count: number of examples, float, shape (R,); at least one subset is not empty.
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
    """Measure confidence, accuracy and the standard error of their difference in each subset.

    The standard error is that of a calibrated model. An example of confidence c is right with probability c, so that
    the variance of the gap is sum c (1 - c) / n². An average of gaps over epochs is not more certain than one gap,
    because every epoch uses the same validation examples.

    Args:
        confidence: confidence of each example, in [0, 1], shape (N,), N >= 1.
        correct: 1 if the prediction is right, else 0, shape (N,).
        subsets: int64 in [0, R), shape (N,).
        num_subsets: R.

    Returns:
        The measurement, float64, because sums in half precision are too coarse.

    Raises:
        InputError: shapes do not fit, or a value is out of its range.
    """
    if confidence.ndim != 1 or correct.shape != confidence.shape or not len(confidence):
        raise InputError(
            expected="confidence and correct of one shape (N,), with N >= 1",
            got=f"shapes {tuple(confidence.shape)} and {tuple(correct.shape)}",
            hint="one value of each for every validation example",
        )
    return measurement(sums_by_subset(confidence, correct, subsets, num_subsets))


def sums_by_subset(confidence: Tensor, correct: Tensor, subsets: Tensor, num_subsets: int) -> Tensor:
    """Sum what `measurement` needs over the examples of each subset; the sums of batches add up.

    Returns:
        Number of examples, confidence, correctness and variance of correctness; float64, shape (4, R).
    """
    exact = exact_dtype(confidence.device)
    confidence, correct = confidence.to(exact), correct.to(exact)
    check_between(0, 1, confidence=confidence, correct=correct)
    check_subsets(subsets, len(confidence), num_subsets)
    columns = (torch.ones_like(confidence), confidence, correct, confidence * (1 - confidence))
    return torch.stack([each.new_zeros(num_subsets).index_add_(0, subsets.long(), each) for each in columns])


def measurement(sums: Tensor) -> Measurement:
    """Compute the measurement from `sums_by_subset` of all examples."""
    count, confidence, correct, variance = sums
    return Measurement(confidence / count, correct / count, (variance / count**2).sqrt(), count)


@dataclass(frozen=True)
class TargetState:
    """State of the update: the targets and the memory of the rule.

    Attributes:
        target_prob: p, in [1/K, 1], shape (R,).
        level: common level of the hybrid rule, in [1/K, 1], shape ().
        average_gap: gap averaged over epochs, shape (R,); NaN before the first measurement of the subset.
    """

    target_prob: Tensor
    level: Tensor
    average_gap: Tensor

    @classmethod
    def initial(cls, num_subsets: int, target_prob: float | Tensor = 1.0) -> TargetState:
        """Make the state before the first update: the given targets, float64, their mean level, and no measured gap.

        Raises:
            InputError: ``target_prob`` has neither one value nor one for each subset.
        """
        given = torch.as_tensor(target_prob, dtype=exact_dtype(torch.get_default_device()))
        if given.shape not in ((), (num_subsets,)):
            raise InputError(
                expected=f"one initial target probability, or one for each of {num_subsets} subsets",
                got=f"shape {tuple(given.shape)}",
                hint=f"shaped_target_prob(0.2, 0.4, {num_subsets}, num_classes)",
            )
        return cls(given.expand(num_subsets).clone(), given.mean(), torch.full((num_subsets,), torch.nan).to(given))


def update_target_prob(state: TargetState, measurement: Measurement, rule: UpdateRule, num_classes: int) -> TargetState:
    """Update the targets: over-confident subsets get softer labels, under-confident subsets get harder ones.

    The target of a subset without validation examples changes only by the leak; in the hybrid rule it is the common
    level. With a single subset, leak, proportional gain, shrinkage and monotonicity have no effect.

    Args:
        state: targets and memory before the update.
        measurement: confidence and accuracy of each subset on validation data.
        rule: a rule whose rate is a number.
        num_classes: K.

    Returns:
        The state after the update.

    Raises:
        InputError: the rate is still "auto", or state and measurement have different numbers of subsets.

    Example:
        >>> confidence, correct = torch.tensor([0.9, 0.7, 0.8]), torch.tensor([1.0, 0.0, 1.0])
        >>> measurement = measure(confidence, correct, subsets=torch.tensor([0, 0, 1]), num_subsets=2)
        >>> state = TargetState.initial(num_subsets=2)
        >>> update_target_prob(state, measurement, UpdateRule(rate=0.5, leak=0), num_classes=10).target_prob
        tensor([0.8500, 1.0000], dtype=torch.float64)
    """
    if state.target_prob.shape != measurement.count.shape:
        raise InputError(
            expected=f"a measurement of {len(state.target_prob)} subsets",
            got=str(len(measurement.count)),
            hint="measure(..., num_subsets) with the number of targets",
        )
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
        # The maximum of two sequences that do not fall does not fall either, so that both conditions hold.
        target_prob, floor = isotonic_regression(target_prob, measurement.count), floor.cummax(0).values
    return TargetState(target_prob.maximum(floor), level, average)


def average_gaps(average: Tensor, gap: Tensor, weight: float) -> Tensor:
    """Exponential average ``weight * average + (1 - weight) * gap``, which starts with the first gap.

    Args:
        average: shape (R,); NaN for a subset that was never measured before.
        gap: shape (R,); NaN for a subset that was not measured now, whose average stays.
        weight: a, the weight of the previous average, in [0, 1).
    """
    updated = weight * average.where(~average.isnan(), gap) + (1 - weight) * gap
    return updated.where(~gap.isnan(), average)


def shrink_gaps(gap: Tensor, measurement: Measurement) -> Tensor:
    """Move the gaps of the subsets towards the overall gap, as far as chance can explain their differences.

    The method is empirical Bayes with the method of moments: gap_r ← gap + w_r (gap_r - gap), w_r = τ²/(τ² + se_r²),
    where τ² = max(0, var(gap_r) - mean se_r²) is the variance that sampling does not explain. If sampling explains all
    of the variance, every gap becomes the overall gap.

    Args:
        gap: gap of each subset, shape (R,); NaN for an empty subset.
        measurement: sizes and standard errors of the subsets.

    Returns:
        Shape (R,); NaN for an empty subset.

    References:
        Efron and Morris, Data analysis using Stein's estimator and its generalizations, JASA 70, 1975.
    """
    measured = measurement.count > 0
    variance = measurement.standard_error**2
    overall = (measurement.count / measurement.count.sum() * gap)[measured].sum()
    # A single subset has no variance.
    spread = gap[measured].var() if int(measured.sum()) > 1 else torch.zeros_like(overall)
    between = (spread - variance[measured].mean()).clamp(min=0.0)
    weight = (between / (between + variance)).nan_to_num(0.0)  # 0/0 if there is neither spread nor error
    return overall + weight * (gap - overall)


def isotonic_regression(values: Tensor, weights: Tensor) -> Tensor:
    """Find the sequence that does not fall and is closest in weighted squares, by pooling adjacent violators.

    Args:
        values: shape (R,).
        weights: shape (R,); a weight below 1 counts as 1, so that an empty subset follows its neighbors.

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
