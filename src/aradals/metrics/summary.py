"""All metrics of a set of predictions as one flat row, as the result files contain it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from aradals.checks import Values, check_subsets, to_tensor
from aradals.metrics.bootstrap import Bootstrap, replicates
from aradals.metrics.estimates import estimate_outcomes
from aradals.metrics.family import family
from aradals.metrics.noise_floor import noise_floors
from aradals.metrics.outcomes import outcomes_and_class_gaps

MetricRow = dict[str, float | None]


def summarize(
    labels: Values,
    *,
    logits: Values | None = None,
    probs: Values | None = None,
    subsets: Values | None = None,
    num_bins: int = 15,
    num_resamples: int = 1000,
    seed: int = 0,
    smooth: bool = True,
) -> MetricRow:
    """Compute all metrics, their 95 % intervals (``_low``, ``_high``) and the noise floors; fractions, not percent.

    The calibration errors are the usual estimates, which finite samples inflate. Their intervals are for the true
    errors, and may lie below the estimates (see `calibration_error_interval`). Compare an estimate with its noise
    floor, and compare models by their intervals.

    Args:
        labels: integer, shape (N,), in [0, K).
        logits: finite floats, shape (N, K); or
        probs: rows in [0, 1] that sum to 1 within 1e-3, shape (N, K).
        subsets: robustness subset of each example, integer >= 0, shape (N,).
        num_bins: bins of all binned metrics.
        num_resamples: number of bootstrap resamples.
        seed: seed of the resamples and of the noise floors.
        smooth: include the interval of the smooth ECE, which costs as much as all other intervals together.

    Returns:
        ``n``; the metrics of `all_metrics`, with ``_low`` and ``_high`` if `estimate_metrics` has an interval for the
        metric; ``ece_noise_floor`` (the mean) and ``ece_noise_floor_p95``. With subsets also
        ``subset_calibration_error`` and ``largest_subset_calibration_error``, each with ``_low`` and ``_high``, and
        ``subset_noise_floor`` and ``largest_subset_noise_floor`` (means), each with ``_p95``. An undefined value is
        None, see `estimate_metrics`.

    Raises:
        InputError: see `outcomes`; subsets of another shape, or negative.
    """
    row, _ = summarize_and_resample(
        labels,
        logits=logits,
        probs=probs,
        subsets=subsets,
        num_bins=num_bins,
        num_resamples=num_resamples,
        seed=seed,
        smooth=smooth,
    )
    return row


def summarize_and_resample(
    labels: Values,
    *,
    logits: Values | None = None,
    probs: Values | None = None,
    subsets: Values | None = None,
    num_bins: int = 15,
    num_resamples: int = 1000,
    seed: int = 0,
    smooth: bool = True,
) -> tuple[MetricRow, dict[str, Tensor]]:
    """Run `summarize` and `resampled_metrics` on the same outcomes and resamples, with the arguments of `summarize`.

    The metrics of the resamples include ``aurc`` and ``error_auroc``.
    """
    examples, class_gaps = outcomes_and_class_gaps(labels, logits=logits, probs=probs, num_bins=num_bins)
    metrics = family(examples, class_gaps)
    subsets = None if subsets is None else check_subsets(subsets, len(labels))
    bootstrap = Bootstrap(num_resamples, seed=seed)
    estimates, sample = estimate_outcomes(examples, metrics, subsets, num_bins, bootstrap, smooth=smooth)
    row: MetricRow = {"n": len(examples.correct)}
    for name, value in (metrics | {name: estimate.value for name, estimate in estimates.items()}).items():
        row[name] = value
        if name in estimates:
            row |= {f"{name}_low": estimates[name].low, f"{name}_high": estimates[name].high}
    floor, subset_floor = noise_floors(examples.confidence.cpu(), subsets, num_bins=num_bins, seed=seed)
    row |= {"ece_noise_floor": floor.mean, "ece_noise_floor_p95": floor.p95}
    if subset_floor is not None:
        row |= {
            "subset_noise_floor": subset_floor.mean.mean,
            "subset_noise_floor_p95": subset_floor.mean.p95,
            "largest_subset_noise_floor": subset_floor.largest.mean,
            "largest_subset_noise_floor_p95": subset_floor.largest.p95,
        }
    row = {name: None if value is None or math.isnan(value) else value for name, value in row.items()}
    return row, replicates(sample)


def summarize_by_subset(
    labels: Values,
    subsets: Values,
    *,
    logits: Values | None = None,
    probs: Values | None = None,
    num_bins: int = 15,
    num_resamples: int = 1000,
    seed: int = 0,
) -> list[MetricRow]:
    """Run `summarize` on each robustness subset that contains examples, without the interval of the smooth ECE.

    The rows are in the order of the subsets; the key ``subset`` names the subset.
    """
    subsets = check_subsets(subsets, len(labels))
    given = {"logits": logits, "probs": probs}
    parts = {name: None if each is None else to_tensor(each) for name, each in given.items()}
    labels = to_tensor(labels)
    return [
        {"subset": int(subset)}
        | summarize(
            labels[subsets == subset],
            **{name: None if each is None else each[subsets == subset] for name, each in parts.items()},
            num_bins=num_bins,
            num_resamples=num_resamples,
            seed=seed,
            smooth=False,
        )
        for subset in torch.unique(subsets)
    ]
