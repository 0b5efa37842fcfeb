"""All metrics of a set of predictions as one flat row, the form in which they are written to files."""

from __future__ import annotations

import torch
from torch import Tensor

from aradals.metrics.bootstrap import estimate_metrics
from aradals.metrics.outcomes import check_subsets
from aradals.metrics.noise import ece_noise_floor, subset_noise_floor


def summarise(
    logits: Tensor,
    labels: Tensor,
    *,
    subsets: Tensor | None = None,
    num_bins: int = 15,
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, float]:
    """Metrics, 95 % intervals (``_low``, ``_high``) and noise floors; fractions, not percent.

    The calibration errors are the usual estimates, inflated by finite samples; their intervals are for the
    true error and may lie below them (see `calibration_error_interval`). Compare an estimate with its noise
    floor, and models by their intervals.

    Args:
        logits: finite floats, shape (N, K).
        labels: integer, shape (N,), in [0, K).
        subsets: robustness subset of each example, integer >= 0, shape (N,).
        num_bins: bins of the ECE.
        num_resamples: bootstrap resamples.
        seed: of the resamples and of the noise floors.

    Returns:
        ``n``; ``accuracy, confidence, nll, brier, ece``, each also with ``_low`` and ``_high``;
        ``ece_noise_floor`` (the mean) and ``ece_noise_floor_p95``. With subsets also
        ``subset_calibration_error`` and ``largest_subset_calibration_error``, each with ``_low`` and
        ``_high``, and ``subset_noise_floor`` and ``largest_subset_noise_floor`` (means).

    Raises:
        InputError: see `outcomes`; subsets of another shape, or negative.
    """
    estimates = estimate_metrics(
        labels, logits=logits, subsets=subsets, num_bins=num_bins, num_resamples=num_resamples, seed=seed
    )
    row: dict[str, float] = {"n": len(labels)}
    for name, estimate in estimates.items():
        row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    floor = ece_noise_floor(logits=logits, num_bins=num_bins, seed=seed)
    row |= {"ece_noise_floor": floor.mean, "ece_noise_floor_p95": floor.p95}
    if subsets is not None:
        subset_floor = subset_noise_floor(subsets, logits=logits, seed=seed)
        row |= {
            "subset_noise_floor": subset_floor.mean.mean,
            "largest_subset_noise_floor": subset_floor.largest.mean,
        }
    return row


def summarise_by_subset(
    logits: Tensor,
    labels: Tensor,
    subsets: Tensor,
    *,
    num_bins: int = 15,
    num_resamples: int = 1000,
    seed: int = 0,
) -> list[dict[str, float]]:
    """`summarise` for each robustness subset that holds examples, in order; the key ``subset`` says which."""
    check_subsets(subsets, len(labels))
    return [
        {"subset": int(subset)}
        | summarise(
            logits[subsets == subset],
            labels[subsets == subset],
            num_bins=num_bins,
            num_resamples=num_resamples,
            seed=seed,
        )
        for subset in torch.unique(subsets)
    ]
