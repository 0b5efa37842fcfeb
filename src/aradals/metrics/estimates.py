"""Metrics with confidence intervals, from one bootstrap over examples.

Accuracies have Wilson's interval, which stays honest when every prediction is right. Confidence, NLL and Brier score
are means, for which bootstrap percentiles do; AURC and AUROC are nearly so, on the scales of logarithms and log-odds.
Calibration errors need more care, see `calibration_error_interval`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from aradals.metrics.bootstrap import Bootstrap, Resampled, metric_columns
from aradals.metrics.family import coverage_key, family
from aradals.metrics.intervals import (
    Norm,
    abs_max,
    abs_mean,
    abs_sum,
    calibration_error_interval,
    largest_partial_sum,
    root_sum_square,
)
from aradals.metrics.outcomes import Outcomes, equal_mass_bins, membership, outcomes_and_class_gaps
from aradals.metrics.proper import wilson_interval
from aradals.metrics.selective import effective_sample
from aradals.metrics.smooth import grid_position, smoother


@dataclass(frozen=True)
class Estimate:
    """A metric on the examples at hand, and an interval for its value in the population.

    For calibration errors ``value`` is the usual estimate, which finite samples inflate, while the interval
    is for the true error: ``value`` may lie near or above ``high``.
    """

    value: float
    low: float
    high: float


Interval = tuple[float, float]

Scale = Callable[[float, Tensor], Tensor]
"""Values in resamples, from the value observed and the deviations of the resamples from it, shape (B,)."""


def linear(value: float, deviations: Tensor) -> Tensor:
    """The values as they are."""
    return value + deviations


def logarithmic(value: float, deviations: Tensor) -> Tensor:
    """Values in (0, 1] that are skewed where they are small; NaN where 0 was observed."""
    return value * (deviations / value).exp() if value > 0 else torch.full_like(deviations, math.nan)


def log_odds(value: float, deviations: Tensor) -> Tensor:
    """Values in (0, 1) that are skewed towards its ends; NaN where an end was observed."""
    if not 0 < value < 1:
        return torch.full_like(deviations, math.nan)
    return (math.log(value / (1 - value)) + deviations / (value * (1 - value))).sigmoid()


SCALES: dict[str, tuple[Scale, float]] = {
    "confidence": (linear, 1.0),
    "nll": (linear, math.inf),
    "brier": (linear, 2.0),
    "aurc": (logarithmic, 1.0),
    "error_auroc": (log_odds, 1.0),
}
"""Metrics that are means to first order: the scale on which their percentiles are taken, and their largest value."""

ERRORS: dict[str, tuple[str, Norm]] = {
    "ece": ("width_gaps", abs_sum),
    "adaptive_ece": ("mass_gaps", abs_sum),
    "debiased_l2_ece": ("root_gaps", root_sum_square),
    "ks_error": ("mass_gaps", largest_partial_sum),
    "smooth_ece": ("smooth_gaps", abs_sum),
    "subset_calibration_error": ("subset_gaps", abs_mean),
    "largest_subset_calibration_error": ("subset_gaps", abs_max),
}
"""Calibration errors, each a norm of gaps, see `error_gaps`."""


def estimate_metrics(
    labels: Tensor,
    *,
    logits: Tensor | None = None,
    probs: Tensor | None = None,
    subsets: Tensor | None = None,
    num_bins: int = 15,
    coverage: float = 0.9,
    smooth: bool = True,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Every metric that has an honest interval, with it; examples are resampled once for all of them.

    Left out are the metrics for which the resamples cannot tell what noise does to them: the largest gap of a bin,
    which is often that of a bin with a handful of examples, and those of gaps in K times ``num_bins`` bins
    (class-wise ECE, the parts of the Brier score).

    Args:
        labels: integer, shape (N,), in [0, K).
        logits: finite floats, shape (N, K); or
        probs: rows in [0, 1] that sum to 1 within 1e-3, shape (N, K).
        subsets: integer >= 0, shape (N,); adds the subset calibration errors.
        num_bins: bins of the ECE, of the adaptive and of the debiased L2 ECE.
        coverage: at which the accuracy of the most confident predictions is measured.
        smooth: also the smooth ECE, which costs as much as all others together.
        num_resamples: bootstrap resamples.
        level: nominal coverage of the intervals, in (0, 1).
        seed: of the resamples.

    Returns:
        Keys ``accuracy, confidence, nll, brier, ece, adaptive_ece, debiased_l2_ece, ks_error, aurc, error_auroc,
        accuracy_at_coverage_90`` (its number is the coverage in percent); with ``smooth`` also ``smooth_ece``; and with
        subsets ``subset_calibration_error`` and ``largest_subset_calibration_error``. NaN is what is not defined:
        ``error_auroc`` where all predictions are right or all wrong, its interval where it is 0 or 1, and the interval
        of ``aurc`` where it is 0.

    Raises:
        InputError: see `outcomes`; a wrong ``level``, ``num_resamples``, ``coverage`` or ``subsets``.
    """
    bootstrap = Bootstrap(num_resamples, level, seed)
    examples, class_gaps = outcomes_and_class_gaps(labels, logits=logits, probs=probs, num_bins=num_bins)
    values = family(examples, class_gaps, coverage=coverage)
    return estimate_outcomes(examples, values, subsets, num_bins, bootstrap, coverage=coverage, smooth=smooth)[0]


def estimate_outcomes(
    examples: Outcomes,
    values: Mapping[str, float],
    subsets: Tensor | None,
    num_bins: int,
    bootstrap: Bootstrap,
    *,
    coverage: float = 0.9,
    smooth: bool = True,
) -> tuple[dict[str, Estimate], Resampled]:
    """`estimate_metrics` of outcomes that are known already, and the resamples that the intervals come from.

    Args:
        examples: of N examples.
        values: their metrics, see `family`.
        subsets: robustness subset of each example, or None.
        num_bins: of the values.
        bootstrap: resamples and level.
        coverage: of the values.
        smooth: also the interval of the smooth ECE.
    """
    examples = examples.cpu()
    ranking, level = examples.ranking, bootstrap.level
    columns = metric_columns(examples, subsets, num_bins)
    mass_bins = torch.empty_like(ranking.order).scatter_(0, ranking.order, equal_mass_bins(ranking, num_bins))
    mass_members = membership(mass_bins, num_bins)
    columns["mass_gaps"] = examples.gap[:, None] * mass_members
    if smooth:
        cells = num_grid_cells(values["smooth_ece"])
        columns["grid_gaps"] = examples.gap[:, None] * grid_members(examples.confidence, cells)
    sample = bootstrap.resample(columns)

    gaps = error_gaps(sample, mass_members.mean(0), values["smooth_ece"])
    errors = {name: (*gaps[key], norm) for name, (key, norm) in ERRORS.items() if key in gaps}
    known = {name: float(norm(observed)) for name, (observed, _, norm) in errors.items()} | dict(values)
    intervals = {
        "accuracy": _proportion(examples.correct.sum(), torch.tensor(len(examples.gap)), level),
        coverage_key(coverage): _proportion(*effective_sample(ranking, coverage), level),
        **{name: _mean(known[name], sample.gaps(name)[1][:, 0], *scale, level) for name, scale in SCALES.items()},
        **{name: calibration_error_interval(*error, level=level) for name, error in errors.items()},
    }
    if smooth:
        # The interval is for the error e at this bandwidth. The smooth ECE of the population is the fixed point of an
        # error that falls with the bandwidth, hence between e and the bandwidth, which is the smooth ECE observed.
        low, high = intervals["smooth_ece"]
        intervals["smooth_ece"] = low, max(high, known["smooth_ece"])
    return {name: Estimate(known[name], *interval) for name, interval in intervals.items()}, sample


def error_gaps(sample: Resampled, mass_shares: Tensor, smooth_ece: float) -> dict[str, tuple[Tensor, Tensor]]:
    """The gaps that `ERRORS` are norms of, and how far resamples deviate from them; shapes (G,) and (B, G).

    Args:
        sample: of the columns of `estimate_outcomes`.
        mass_shares: share of the examples in each bin of equally many, shape (num_bins,).
        smooth_ece: the bandwidth of the smoothed gaps.
    """
    mass_gaps, mass_noise = sample.gaps("mass_gaps")
    # The L2 error weighs each bin's squared gap by its share; ties can leave a bin empty, whose gap is 0.
    roots = torch.where(mass_shares > 0, mass_shares, 1).sqrt()
    gaps = {
        "width_gaps": sample.gaps("width_gaps"),
        "mass_gaps": (mass_gaps, mass_noise),
        "root_gaps": (mass_gaps / roots, mass_noise / roots),
    }
    if "grid_gaps" in sample.means:
        smoothed, noise = (smoother(each)(smooth_ece) for each in sample.gaps("grid_gaps"))
        gaps["smooth_gaps"] = smoothed, noise
    if "subset_gaps" in sample.means:
        # A subset's gap is a ratio (sum of gaps / number of examples); the deviations are those of its linear part, so
        # that a resample without examples of a small subset does no harm.
        (sums, sum_noise), (shares, share_noise) = sample.gaps("subset_gaps"), sample.gaps("subset_shares")
        gaps["subset_gaps"] = sums / shares, (sum_noise - sums / shares * share_noise) / shares
    return gaps


def _proportion(successes: Tensor, count: Tensor, level: float) -> Interval:
    low, high = wilson_interval(successes, count, level=level)
    return float(low), float(high)


def _mean(value: float, deviations: Tensor, scale: Scale, top: float, level: float) -> Interval:
    """The percentiles of a mean, or of a metric that is one to first order, on a scale that makes its spread even."""
    if math.isinf(value):  # a label of probability 0 makes the population's NLL infinite, too
        return value, value
    tail = (1 - level) / 2
    low, high = scale(value, deviations).quantile(deviations.new_tensor([tail, 1 - tail])).tolist()
    return low, min(high, top)


def num_grid_cells(sigma: float) -> int:
    """Cells on [0, 1] that resolve a kernel of this width well enough for an interval."""
    return min(max(16, math.ceil(3 / max(sigma, 1e-9))), 96)


def grid_members(confidence: Tensor, num_cells: int) -> Tensor:
    """How much of each example is at each point of a grid, see `grid_gaps`; shape (N, num_cells + 1)."""
    left, share = grid_position(confidence, num_cells)
    members = confidence.new_zeros(len(confidence), num_cells + 1)
    members.scatter_(1, left[:, None], 1 - share[:, None])
    return members.scatter_(1, left[:, None] + 1, share[:, None])
