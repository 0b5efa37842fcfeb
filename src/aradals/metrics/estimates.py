"""Metrics with confidence intervals, from one bootstrap over examples.

Accuracies have Wilson's interval, which stays correct when every prediction is right. Confidence, NLL and Brier score
are means, for which bootstrap percentiles suffice. AURC and AUROC behave nearly like means on the scales of logarithms
and log-odds. Calibration errors need more care, see `calibration_error_interval`. All except Wilson's interval need
enough examples, see `unreliable`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from aradals.checks import Values, check_subsets
from aradals.metrics.bootstrap import MIN_EXAMPLES, Bootstrap, Resampled, metric_columns
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
from aradals.metrics.selective import auroc_terms, effective_sample, ood_ranking, ranked_auroc
from aradals.metrics.smooth import grid_position, smoother


@dataclass(frozen=True)
class Estimate:
    """A metric on the examples at hand, and an interval for its value in the population.

    For calibration errors, ``value`` is the usual estimate, which finite samples inflate. The interval is for the true
    error, so that ``value`` may lie near or above ``high``.
    """

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan


Interval = tuple[float, float]

Scale = Callable[[float, Tensor], Tensor]
"""Function from an observed value and the deviations of the resamples to their values, shape (B,)."""


def linear(value: float, deviations: Tensor) -> Tensor:
    """Scale of values that are not skewed."""
    return value + deviations


def logarithmic(value: float, deviations: Tensor) -> Tensor:
    """Scale of values in (0, 1] whose distribution is skewed near 0; NaN if the observed value is 0."""
    return value * (deviations / value).exp() if value > 0 else torch.full_like(deviations, math.nan)


def log_odds(value: float, deviations: Tensor) -> Tensor:
    """Scale of values in (0, 1) whose distribution is skewed near both ends; NaN if the observed value is an end."""
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
"""Metrics that are means to first order -> the scale for their percentiles, and their largest value."""

ERRORS: dict[str, tuple[str, Norm]] = {
    "ece": ("width_gaps", abs_sum),
    "adaptive_ece": ("mass_gaps", abs_sum),
    "debiased_l2_ece": ("root_gaps", root_sum_square),
    "ks_error": ("mass_gaps", largest_partial_sum),
    "smooth_ece": ("smooth_gaps", abs_sum),
    "subset_calibration_error": ("subset_gaps", abs_mean),
    "largest_subset_calibration_error": ("subset_gaps", abs_max),
}
"""Calibration errors -> their gaps, see `error_gaps`, and the norm of the gaps."""

MIN_EVENTS = 5
"""The least number of right, and of wrong predictions whose resamples give an interval."""

MIN_IN_SUBSET, MIN_EVENTS_IN_SUBSET = 20, 2
"""The same for subset calibration errors: examples in every subset, and right and wrong predictions in the mean one."""


def estimate_metrics(
    labels: Values,
    *,
    logits: Values | None = None,
    probs: Values | None = None,
    subsets: Values | None = None,
    num_bins: int = 15,
    coverage: float = 0.9,
    smooth: bool = True,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Compute the metrics that have a valid interval, each with its interval, from one resampling of the examples.

    Some metrics are left out, because the resamples do not show the effect of noise on them: the largest gap of a bin,
    which is often a bin with very few examples, and the metrics of gaps in K times ``num_bins`` bins (class-wise ECE,
    the parts of the Brier score).

    Args:
        labels: integer, shape (N,), in [0, K).
        logits: finite floats, shape (N, K); or
        probs: rows in [0, 1] that sum to 1 within 1e-3, shape (N, K).
        subsets: integer >= 0, shape (N,); adds the subset calibration errors.
        num_bins: bins of the ECE, the adaptive ECE and the debiased L2 ECE.
        coverage: share of the most confident predictions whose accuracy is measured.
        smooth: include the smooth ECE, which costs as much as all other metrics together.
        num_resamples: number of bootstrap resamples.
        level: nominal coverage of the intervals, in (0, 1).
        seed: seed of the resamples.

    Returns:
        Keys ``accuracy, confidence, nll, brier, ece, adaptive_ece, debiased_l2_ece, ks_error, aurc, error_auroc,
        accuracy_at_coverage_90`` (the number is the coverage in percent); with ``smooth`` also ``smooth_ece``; with
        subsets also ``subset_calibration_error`` and ``largest_subset_calibration_error``. An undefined value is NaN:
        ``error_auroc`` if all predictions are right or all are wrong, the interval of ``error_auroc`` if it is 0 or 1,
        and all intervals that too few examples would make too short, see `unreliable`.

    Raises:
        InputError: see `outcomes`; a wrong ``level``, ``num_resamples``, ``coverage`` or ``subsets``.
    """
    bootstrap = Bootstrap(num_resamples, level, seed)
    examples, class_gaps = outcomes_and_class_gaps(labels, logits=logits, probs=probs, num_bins=num_bins)
    values = family(examples, class_gaps, coverage=coverage)
    subsets = None if subsets is None else check_subsets(subsets, len(labels))
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
    """Compute `estimate_metrics` from known outcomes, and return the resamples of the intervals as well.

    Args:
        examples: outcomes of N examples.
        values: metrics of the examples, see `family`.
        subsets: robustness subset of each example, or None.
        num_bins: number of bins of ``values``.
        bootstrap: resamples and level.
        coverage: coverage of ``values``.
        smooth: include the interval of the smooth ECE.
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
        # The interval is for the error e at this bandwidth, which is the observed smooth ECE. The smooth ECE of the
        # population is the fixed point of an error that falls with the bandwidth, and so lies between e and the
        # bandwidth.
        low, high = intervals["smooth_ece"]
        intervals["smooth_ece"] = low, max(high, known["smooth_ece"])
    intervals |= dict.fromkeys(unreliable(examples, subsets) & intervals.keys(), (math.nan, math.nan))
    return {name: Estimate(known[name], *interval) for name, interval in intervals.items()}, sample


def estimate_ood_auroc(
    in_distribution: Tensor, out_of_distribution: Tensor, bootstrap: Bootstrap
) -> tuple[Estimate, Tensor | None]:
    """Estimate `ood_auroc`, whose arguments and errors these are, and compute it on resamples of both data sets.

    The interval is that of Newcombe 2006 (method 5). It does not become too short if one data set is small, and exists
    for an AUROC of 1. Each of the B resamples draws from both data sets together, and is exact to first order (DeLong
    et al. 1988), float64, shape (B,). With fewer than `MIN_EXAMPLES` of one data set they vary too little: then None.
    """
    ranking = ood_ranking(in_distribution, out_of_distribution)
    value, sizes = ranked_auroc(ranking), (len(in_distribution), len(out_of_distribution))
    estimate = Estimate(value, *auroc_interval(value, *sizes, level=bootstrap.level))
    if min(sizes) < MIN_EXAMPLES:
        return estimate, None
    return estimate, bootstrap.resample({"auroc": auroc_terms(ranking, value)[:, None]}).resampled["auroc"][:, 0]


def auroc_interval(value: float, n: int, m: int, *, level: float = 0.95) -> Interval:
    """Compute the interval of an AUROC between n and m examples: all θ with abs(value - θ) at most z standard errors.

    The variance is θ (1 - θ) [1 + N (1 - θ) / (2 - θ) + N θ / (1 + θ)] / (n m) with N = (n + m) / 2 - 1 (Newcombe 2006,
    Statistics in Medicine 25, method 5). One step of bisection follows another until the ends are exact.
    """
    z, half = NormalDist().inv_cdf((1 + level) / 2), (n + m) / 2 - 1

    def is_inside(theta: float) -> bool:
        spread = 1 + half * (1 - theta) / (2 - theta) + half * theta / (1 + theta)
        return abs(value - theta) <= z * math.sqrt(theta * (1 - theta) * spread / (n * m))

    def end(outside: float) -> float:
        inside = value
        for _ in range(60):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if is_inside(middle) else (inside, middle)
        return inside

    return end(0.0), end(1.0)


def unreliable(examples: Outcomes, subsets: Tensor | None) -> set[str]:
    """Name the metrics whose intervals would miss the true value too often, because resamples show too little.

    Resamples of few examples vary too little. Resamples of few wrong predictions, or of few right ones, often contain
    none. ``docs/metrics.md`` has the coverage that was measured with and without these limits.
    """
    n, num_right = len(examples.correct), int(examples.correct.sum())
    num_events = min(num_right, n - num_right)
    if n < MIN_EXAMPLES:
        return {*SCALES, *ERRORS}
    if num_events < MIN_EVENTS:
        return {*SCALES, *ERRORS} - {"confidence"}
    if subsets is None:
        return set()
    sizes = subsets.unique(return_counts=True)[1]
    enough = int(sizes.min()) >= MIN_IN_SUBSET and num_events >= MIN_EVENTS_IN_SUBSET * len(sizes)
    return set() if enough else {"subset_calibration_error", "largest_subset_calibration_error"}


def error_gaps(sample: Resampled, mass_shares: Tensor, smooth_ece: float) -> dict[str, tuple[Tensor, Tensor]]:
    """Compute the gaps of `ERRORS`, and the deviations of the resamples from them; shapes (G,) and (B, G).

    Args:
        sample: resamples of the columns of `estimate_outcomes`.
        mass_shares: share of the examples in each equal-mass bin, shape (num_bins,).
        smooth_ece: bandwidth of the smoothed gaps.
    """
    mass_gaps, mass_noise = sample.gaps("mass_gaps")
    # The L2 error weights each bin's squared gap by the bin's share. Ties can leave a bin empty; its gap is 0.
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
        # A subset's gap is a ratio (sum of gaps / number of examples). The deviations are those of its linear part, so
        # that a resample without examples of a small subset is no problem.
        (sums, sum_noise), (shares, share_noise) = sample.gaps("subset_gaps"), sample.gaps("subset_shares")
        gaps["subset_gaps"] = sums / shares, (sum_noise - sums / shares * share_noise) / shares
    return gaps


def _proportion(successes: Tensor, count: Tensor, level: float) -> Interval:
    low, high = wilson_interval(successes, count, level=level)
    return float(low), float(high)


def _mean(value: float, deviations: Tensor, scale: Scale, top: float, level: float) -> Interval:
    """Compute the percentiles of a mean, or of a metric that is a mean to first order, on a suitable scale."""
    if math.isinf(value):  # a label of probability 0 makes the population's NLL infinite, too
        return value, value
    tail = (1 - level) / 2
    low, high = scale(value, deviations).quantile(deviations.new_tensor([tail, 1 - tail])).tolist()
    return low, min(high, top)


def num_grid_cells(sigma: float) -> int:
    """Choose the number of cells on [0, 1] that resolve a kernel of this width."""
    return min(max(16, math.ceil(3 / max(sigma, 1e-9))), 96)


def grid_members(confidence: Tensor, num_cells: int) -> Tensor:
    """Compute the share of each example at each point of a grid, see `grid_gaps`; shape (N, num_cells + 1)."""
    left, share = grid_position(confidence, num_cells)
    members = confidence.new_zeros(len(confidence), num_cells + 1)
    members.scatter_(1, left[:, None], 1 - share[:, None])
    return members.scatter_(1, left[:, None] + 1, share[:, None])
