"""Metrics with confidence intervals, from one bootstrap over examples.

Accuracy has Wilson's interval, which stays honest when every prediction is right. Confidence, NLL and Brier
score are means, for which bootstrap percentiles do. Calibration errors need more care, see
`calibration_error_interval`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from aradals.errors import InputError
from aradals.metrics.outcomes import assign_bins, check_subsets, membership, outcomes, subset_membership
from aradals.metrics.scores import wilson_interval
from aradals.metrics.noise import chunk_sizes

Norm = Callable[[Tensor], Tensor]
"""A norm over the last dimension: what makes one calibration error of the gaps of several bins or subsets."""


def abs_sum(gaps: Tensor) -> Tensor:
    """Σ |gap|: the ECE, if the gaps are weighted by the shares of their bins."""
    return gaps.abs().sum(-1)


def abs_mean(gaps: Tensor) -> Tensor:
    """Mean |gap|."""
    return gaps.abs().mean(-1)


def abs_max(gaps: Tensor) -> Tensor:
    """Largest |gap|."""
    return gaps.abs().amax(-1)


@dataclass(frozen=True)
class Estimate:
    """A metric on the examples at hand, and an interval for its value in the population.

    For calibration errors ``value`` is the usual estimate, which finite samples inflate, while the interval
    is for the true error: ``value`` may lie near or above ``high``.
    """

    value: float
    low: float
    high: float


def estimate_metrics(
    labels: Tensor,
    *,
    logits: Tensor | None = None,
    probs: Tensor | None = None,
    subsets: Tensor | None = None,
    num_bins: int = 15,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Every metric with its interval; examples are resampled once for all of them.

    Args:
        labels: integer, shape (N,), in [0, K).
        logits: finite floats, shape (N, K); or
        probs: rows in [0, 1] that sum to 1 within 1e-3, shape (N, K).
        subsets: integer >= 0, shape (N,); adds the subset calibration errors.
        num_bins: bins of the ECE.
        num_resamples: bootstrap resamples.
        level: nominal coverage of the intervals, in (0, 1).
        seed: of the resamples.

    Returns:
        Keys ``accuracy, confidence, nll, brier, ece`` and, with subsets, ``subset_calibration_error`` and
        ``largest_subset_calibration_error``.

    Raises:
        InputError: see `outcomes`; a wrong ``level``, ``num_resamples`` or ``subsets``.
    """
    if not 0 < level < 1 or num_resamples < 2:
        raise InputError(
            expected="level in (0, 1) and num_resamples >= 2",
            got=f"{level} and {num_resamples}",
            hint="0.95 and 1000",
        )
    examples = outcomes(labels, logits=logits, probs=probs)
    gap, correct = examples.gap.cpu(), examples.correct.cpu()
    n = len(gap)
    means = torch.stack([examples.confidence, examples.nll, examples.brier], 1).cpu()
    bin_gaps = gap[:, None] * membership(assign_bins(examples.confidence.cpu(), num_bins), num_bins)
    if subsets is None:
        members = torch.zeros(n, 0, dtype=torch.float64)
    else:
        check_subsets(subsets, n)
        members = subset_membership(subsets.cpu())
    # A subset's gap is a ratio (sum of gaps / number of examples); its linear part is resampled, so that a
    # resample without examples of a small subset does no harm.
    shares = members.mean(0)
    subset_gaps = gap @ members / n / shares
    subset_residuals = (gap[:, None] - subset_gaps) * members / shares

    columns = torch.cat([means, bin_gaps, subset_residuals], 1)
    deviations = resample_means(columns, num_resamples, seed) - columns.mean(0)
    mean_deviations, bin_deviations, subset_deviations = torch.tensor_split(deviations, (3, 3 + num_bins), 1)

    def mean_estimate(column: int) -> Estimate:
        value = float(means[:, column].mean())
        if math.isinf(value):  # a label of probability 0 makes the population's NLL infinite, too
            return Estimate(value, value, value)
        low, high = mean_deviations[:, column].quantile(mean_deviations.new_tensor([tail, 1 - tail]))
        return Estimate(value, value + float(low), value + float(high))

    def error_estimate(gaps: Tensor, gap_deviations: Tensor, norm: Norm) -> Estimate:
        low, high = calibration_error_interval(gaps, gap_deviations, norm, level=level)
        return Estimate(float(norm(gaps)), low, high)

    tail = (1 - level) / 2
    low, high = wilson_interval(correct.sum(), torch.tensor(n), level=level)
    estimates = {
        "accuracy": Estimate(float(correct.mean()), float(low), float(high)),
        "confidence": mean_estimate(0),
        "nll": mean_estimate(1),
        "brier": mean_estimate(2),
        "ece": error_estimate(bin_gaps.mean(0), bin_deviations, abs_sum),
    }
    if subsets is not None:
        estimates |= {
            "subset_calibration_error": error_estimate(subset_gaps, subset_deviations, abs_mean),
            "largest_subset_calibration_error": error_estimate(subset_gaps, subset_deviations, abs_max),
        }
    return estimates


def resampled_metrics(
    labels: Tensor,
    *,
    logits: Tensor,
    subsets: Tensor | None = None,
    num_bins: int = 15,
    num_resamples: int = 1000,
    seed: int = 0,
    metrics: Collection[str] | None = None,
) -> dict[str, Tensor]:
    """The plain metrics on each of many resamples of the examples.

    Two models on the same N examples in the same order see the same resamples (given one seed), so that the
    difference of their results is the paired bootstrap of the difference. See `compare_methods`.

    Args:
        labels: integer, shape (N,), in [0, K).
        logits: finite floats, shape (N, K).
        subsets: integer >= 0, shape (N,); adds the subset calibration error.
        num_bins: bins of the ECE.
        num_resamples: B, the number of resamples.
        seed: of the resamples.
        metrics: the keys that are wanted; by default all.

    Returns:
        Keys ``accuracy, confidence, nll, brier, ece`` and, with subsets, ``subset_calibration_error``; float64,
        shape (B,). In a resample the subset calibration error is the mean over the subsets that it holds.

    Raises:
        InputError: see `outcomes`; wrong ``subsets``; a metric that is unknown, or that needs subsets.
    """
    examples = outcomes(labels, logits=logits)
    means = torch.stack([examples.correct, examples.confidence, examples.nll, examples.brier], 1).cpu()
    gap = examples.gap.cpu()[:, None]
    bins = membership(assign_bins(examples.confidence.cpu(), num_bins), num_bins)
    if subsets is None:
        members = bins[:, :0]
    else:
        check_subsets(subsets, len(gap))
        members = subset_membership(subsets.cpu())

    resampled = resample_means(torch.cat([means, gap * bins, gap * members, members], 1), num_resamples, seed)
    sizes = (means.shape[1], num_bins, members.shape[1], members.shape[1])
    means, bin_gaps, subset_gaps, subset_shares = resampled.split(sizes, 1)
    values = dict(zip(("accuracy", "confidence", "nll", "brier"), means.T.contiguous(), strict=True))
    values["ece"] = abs_sum(bin_gaps)
    if subsets is not None:
        values["subset_calibration_error"] = (subset_gaps / subset_shares).abs().nanmean(1)
    if metrics is None:
        return values
    unknown = [name for name in metrics if name not in values]
    if unknown:
        raise InputError(
            expected="metrics among " + ", ".join(values),
            got=", ".join(unknown),
            hint="these, or subsets= for the subset calibration error",
        )
    return {name: values[name] for name in metrics}


def resample_means(columns: Tensor, num_resamples: int, seed: int) -> Tensor:
    """Column means of resamples with replacement; (N, C) -> (num_resamples, C).

    A resample is a vector of multinomial counts, so all columns cost one matrix product.
    """
    n = len(columns)
    generator = torch.Generator().manual_seed(seed)
    means = []
    for rows in chunk_sizes(num_resamples, n):
        drawn = torch.randint(n, (rows, n), generator=generator)
        drawn += n * torch.arange(rows)[:, None]
        counts = torch.bincount(drawn.view(-1), minlength=rows * n).view(rows, n)
        means.append(counts.double() @ columns / n)
    return torch.cat(means)


def extreme_shapes(gaps: Tensor, deviations: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    """Two vectors of gaps that fit the observed ones, to which noise adds little and much of the ``norm``."""
    if norm is abs_max:
        # Noise adds least if one gap stands out, most if all are equal and any of them can come out largest.
        return torch.where(gaps.abs() >= abs_max(gaps), gaps, 0), gaps.sign()
    # Noise adds least if no gap is within a standard error of 0, most if only those are real that are two
    # standard errors from it.
    error = deviations.std(0)
    significance = (gaps.abs() / error).nan_to_num(nan=0.0)
    clear = significance >= significance.max().clamp(max=2)
    return torch.maximum(gaps.abs(), error).copysign(gaps), torch.where(clear, gaps, 0)


def calibration_error_interval(
    gaps: Tensor, deviations: Tensor, norm: Norm, *, level: float = 0.95
) -> tuple[float, float]:
    """Interval for the true calibration error: the true errors that explain the observed one.

    A calibration error is a norm of the gaps (of bins or subsets), and noise lengthens a vector: the estimate
    is too large, a resample's error larger still. So the resamples' errors are not used, only their
    deviations D from the observed gaps. A population with true error t is taken to have the gaps t·w; samples
    of it then show the error ``norm(t·w + D)``. The interval holds every t under which the observed error
    is neither among the 2.5 % largest nor among the 2.5 % smallest (test inversion, as in the grid bootstrap
    of Hansen 1999). At t = 0 the shape w does not matter, so a calibrated model is covered as it should be,
    and 0 is in the interval unless the miscalibration is significant.

    The shape w of the true gaps is unknown, and how much noise adds to the norm depends on it. Two extreme
    shapes bracket it (see `extreme_shapes`), and the wider end of each counts.

    Measured coverage of 95 % intervals, least and mean over twelve populations (calibrated; over- and
    under-confident by 0.005 to 0.12; gaps alike everywhere, in proportion to c (1 - c), alternating in sign,
    all in one bin; 300 samples each, 200 for n = 10,000; ``tests/metrics/test_interval_coverage.py``):

    =======  ============  ========================  ================================
    n        ECE           subset calibration error  largest subset calibration error
    =======  ============  ========================  ================================
    500      0.947, 0.961  0.910, 0.958              0.937, 0.966
    1,000    0.953, 0.970  0.933, 0.964              0.937, 0.966
    10,000   0.940, 0.958  0.930, 0.960              0.920, 0.963
    =======  ============  ========================  ================================

    At a true ECE of 0, bootstrap percentiles cover it never, the basic interval (clipped at 0) in 47 to 70 %
    of samples, and percentiles shifted down by twice the bootstrap's bias in 37 to 61 %.

    Args:
        gaps: observed gaps (times the bin's share, for ECE), float64, shape (G,).
        deviations: resampled minus observed gaps, shape (B, G).
        norm: see `Norm`.
        level: nominal coverage.

    Returns:
        (low, high) in [0, 1]. Both may lie below the observed error, which is inflated. The interval is
        (0, 0) where even a calibrated model would show so small an error in only 2.5 % of samples.
    """
    observed = norm(gaps)
    tail = (1 - level) / 2
    largest_error = float(observed + norm(deviations).max())

    def interval(shape: Tensor) -> tuple[float, float]:
        size = norm(shape)
        direction = shape / size if size > 0 else shape

        def simulated(error: float) -> Tensor:
            return norm(error * direction + deviations)

        low, _ = _bracket(lambda error: _share(simulated(error) >= observed) >= tail, largest_error)
        _, high = _bracket(lambda error: _share(simulated(error) <= observed) < tail, largest_error)
        return low, high

    lows, highs = zip(*(interval(shape) for shape in extreme_shapes(gaps, deviations, norm)), strict=True)
    return min(lows), min(max(highs), 1.0)


def _share(events: Tensor) -> float:
    return float(events.double().mean())


def _bracket(holds: Callable[[float], bool], top: float) -> tuple[float, float]:
    """Bisect for the smallest number in [0, ``top``] from which on ``holds`` is true."""
    if holds(0.0):
        return 0.0, 0.0
    below, above = 0.0, top
    for _ in range(40):  # 2^-40 of the range: far below any sampling error
        middle = (below + above) / 2
        if holds(middle):
            above = middle
        else:
            below = middle
    return below, above
