"""Metrics with confidence intervals, from one bootstrap over examples.

Accuracies have Wilson's interval, which stays correct when every prediction is right. Confidence, NLL and Brier score
are means, for which bootstrap percentiles suffice. AURC and AUROC behave nearly like means on the scales of logarithms
and log-odds. Calibration errors need more care, see `calibration_error_interval`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from aradals.checks import check_subsets
from aradals.errors import InputError
from aradals.metrics.bootstrap import resample_means
from aradals.metrics.calibration import debiased_l2_gap, equal_mass_sums, largest_cumulative_gap
from aradals.metrics.family import coverage_key
from aradals.metrics.intervals import (
    Norm,
    abs_max,
    abs_mean,
    abs_sum,
    calibration_error_interval,
    largest_partial_sum,
    root_sum_square,
)
from aradals.metrics.outcomes import Outcomes, assign_bins, equal_mass_bins, membership, outcomes, subset_membership
from aradals.metrics.proper import wilson_interval
from aradals.metrics.selective import aurc_terms, auroc_terms, effective_sample, ranked_auroc
from aradals.metrics.smooth import grid_gaps, grid_position, smooth_error, smoother


@dataclass(frozen=True)
class Estimate:
    """A metric on the examples at hand, and an interval for its value in the population.

    For calibration errors, ``value`` is the usual estimate, which finite samples inflate. The interval is for the true
    error, so that ``value`` may lie near or above ``high``.
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
        and the interval of ``aurc`` if it is 0.

    Raises:
        InputError: see `outcomes`; a wrong ``level``, ``num_resamples``, ``coverage`` or ``subsets``.
    """
    examples = outcomes(labels, logits=logits, probs=probs)
    if subsets is not None:
        check_subsets(subsets, len(labels))
    return estimate_outcomes(
        examples,
        subsets,
        num_bins=num_bins,
        coverage=coverage,
        smooth=smooth,
        num_resamples=num_resamples,
        level=level,
        seed=seed,
    )


def estimate_outcomes(
    examples: Outcomes,
    subsets: Tensor | None = None,
    *,
    num_bins: int = 15,
    coverage: float = 0.9,
    smooth: bool = True,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Compute `estimate_metrics` from known outcomes."""
    if not 0 < level < 1 or num_resamples < 2:
        raise InputError(
            expected="level in (0, 1) and num_resamples >= 2",
            got=f"level={level} and num_resamples={num_resamples}",
            hint="level=0.95 and num_resamples=1000",
        )
    examples = examples.cpu()
    ranking, gap, n = examples.ranking, examples.gap[:, None], len(examples.gap)
    auroc = ranked_auroc(ranking)
    smooth_ece = smooth_error(grid_gaps(examples.confidence, examples.gap) / n) if smooth else math.inf
    mass_bins = torch.empty_like(ranking.order).scatter_(0, ranking.order, equal_mass_bins(ranking, num_bins))
    mass_members = membership(mass_bins, num_bins)
    subset_members = mass_members[:, :0] if subsets is None else subset_membership(subsets.cpu())
    # A subset's gap is a ratio (sum of gaps / number of examples). Only its linear part is resampled, so that a
    # resample without examples of a small subset is no problem. The terms of AURC and AUROC are linear parts, too.
    subset_shares = subset_members.mean(0)
    subset_gaps = (gap * subset_members).mean(0) / subset_shares
    columns = {
        "confidence": examples.confidence[:, None],
        "nll": examples.nll[:, None],
        "brier": examples.brier[:, None],
        "aurc": aurc_terms(ranking)[:, None],
        "error_auroc": auroc_terms(ranking, auroc)[:, None],
        "width_gaps": gap * membership(assign_bins(examples.confidence, num_bins), num_bins),
        "mass_gaps": gap * mass_members,
        "grid_gaps": gap * grid_members(examples.confidence, num_grid_cells(smooth_ece)),
        "subset_gaps": (gap - subset_gaps) * subset_members / subset_shares,
    }
    table = torch.cat(list(columns.values()), 1)
    means, widths = table.mean(0), [column.shape[1] for column in columns.values()]
    center = dict(zip(columns, means.split(widths), strict=True))
    deviations = dict(zip(columns, (resample_means(table, num_resamples, seed) - means).split(widths, 1), strict=True))

    def mean_estimate(name: str) -> Estimate:
        value = float(center[name])
        if math.isinf(value):  # a label of probability 0 makes the population's NLL infinite, too
            return Estimate(value, value, value)
        return Estimate(value, *_quantiles(value + deviations[name][:, 0], level))

    def error_estimate(gaps: Tensor, noise: Tensor, norm: Norm, value: float | None = None) -> Estimate:
        low, high = calibration_error_interval(gaps, noise, norm, level=level)
        return Estimate(float(norm(gaps)) if value is None else value, low, high)

    mass_gaps, mass_noise = center["mass_gaps"], deviations["mass_gaps"]
    # The L2 error weights each bin's squared gap by the bin's share. Ties can leave a bin empty.
    root_shares = mass_members.mean(0).sqrt().clamp(min=1 / n)
    l2_ece = debiased_l2_gap(equal_mass_sums(ranking, num_bins))
    estimates = {
        "accuracy": _proportion(examples.correct.sum(), torch.tensor(n), level),
        "confidence": mean_estimate("confidence"),
        "nll": mean_estimate("nll"),
        "brier": mean_estimate("brier"),
        "ece": error_estimate(center["width_gaps"], deviations["width_gaps"], abs_sum),
        "adaptive_ece": error_estimate(mass_gaps, mass_noise, abs_sum),
        "debiased_l2_ece": error_estimate(mass_gaps / root_shares, mass_noise / root_shares, root_sum_square, l2_ece),
        "ks_error": error_estimate(mass_gaps, mass_noise, largest_partial_sum, largest_cumulative_gap(ranking)),
        "aurc": _aurc_estimate(float(center["aurc"]), deviations["aurc"][:, 0], level),
        "error_auroc": _auroc_estimate(auroc, deviations["error_auroc"][:, 0], level),
        coverage_key(coverage): _proportion(*effective_sample(ranking, coverage), level),
    }
    if smooth:
        gaps, noise = (smoother(each["grid_gaps"])(smooth_ece) for each in (center, deviations))
        estimate = error_estimate(gaps, noise, abs_sum, smooth_ece)
        # The interval is for the error e at this bandwidth, which is the observed smooth ECE. The smooth ECE of the
        # population is the fixed point of an error that falls with the bandwidth, and so lies between e and the
        # bandwidth.
        estimates["smooth_ece"] = replace(estimate, high=max(estimate.high, smooth_ece))
    if subsets is not None:
        noise = deviations["subset_gaps"]
        estimates["subset_calibration_error"] = error_estimate(subset_gaps, noise, abs_mean)
        estimates["largest_subset_calibration_error"] = error_estimate(subset_gaps, noise, abs_max)
    return estimates


def _quantiles(values: Tensor, level: float) -> list[float]:
    tail = (1 - level) / 2
    ends: list[float] = values.quantile(values.new_tensor([tail, 1 - tail])).tolist()
    return ends


def _proportion(successes: Tensor, count: Tensor, level: float) -> Estimate:
    low, high = wilson_interval(successes, count, level=level)
    return Estimate(float(successes / count), float(low), float(high))


def _aurc_estimate(aurc: float, deviations: Tensor, level: float) -> Estimate:
    if aurc <= 0:
        return Estimate(0.0, math.nan, math.nan)
    # The percentiles are taken on the scale of logarithms. With few errors the distribution of the AURC is skewed, and
    # plain percentiles end too low.
    low, high = _quantiles(aurc * (deviations / aurc).exp(), level)
    return Estimate(aurc, low, min(high, 1.0))


def _auroc_estimate(auroc: float, deviations: Tensor, level: float) -> Estimate:
    if not 0 < auroc < 1:
        return Estimate(auroc, math.nan, math.nan)
    # The percentiles are taken on the scale of log-odds, where the distribution is less skewed and no end of the
    # interval can leave [0, 1].
    log_odds = math.log(auroc / (1 - auroc)) + deviations / (auroc * (1 - auroc))
    return Estimate(auroc, *_quantiles(log_odds.sigmoid(), level))


def num_grid_cells(sigma: float) -> int:
    """Choose the number of cells on [0, 1] that resolve a kernel of this width; 0 for an infinite width."""
    return 0 if math.isinf(sigma) else min(max(16, math.ceil(3 / max(sigma, 1e-9))), 96)


def grid_members(confidence: Tensor, num_cells: int) -> Tensor:
    """Compute the share of each example at each point of a grid, see `grid_gaps`; shape (N, num_cells + 1)."""
    if num_cells == 0:
        return confidence.new_zeros(len(confidence), 0)
    left, share = grid_position(confidence, num_cells)
    members = confidence.new_zeros(len(confidence), num_cells + 1)
    members.scatter_(1, left[:, None], 1 - share[:, None])
    return members.scatter_(1, left[:, None] + 1, share[:, None])
