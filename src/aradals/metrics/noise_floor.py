"""The noise floor: the calibration error of a perfectly calibrated model on finitely many examples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from aradals.checks import Values, check_subsets
from aradals.metrics.outcomes import assign_bins, confidences, membership, subset_membership

CHUNK_ELEMENTS = 2**22
"""Number of random numbers drawn at a time (32 MB in float64). It limits memory, and leaves the distribution as is."""


@dataclass(frozen=True)
class NoiseFloor:
    """Mean and 95th percentile of the calibration error of a calibrated model at this sample size."""

    mean: float
    p95: float


@dataclass(frozen=True)
class SubsetNoiseFloor:
    """Noise floors of the two summaries of `subset_calibration_error`."""

    mean: NoiseFloor
    largest: NoiseFloor


def chunk_sizes(num_draws: int, num_examples: int) -> Iterator[int]:
    """Split ``num_draws`` rows of ``num_examples`` numbers into chunks of bounded size."""
    rows = max(1, CHUNK_ELEMENTS // num_examples)
    for start in range(0, num_draws, rows):
        yield min(rows, num_draws - start)


def ece_noise_floor(
    *,
    logits: Values | None = None,
    probs: Values | None = None,
    num_bins: int = 15,
    num_draws: int = 200,
    seed: int = 0,
) -> NoiseFloor:
    """Estimate the ECE of a calibrated model with these confidences: it is right exactly as often as it says.

    Correctness is drawn ``num_draws`` times from Bernoulli(confidence). An ECE below ``p95`` is no evidence
    of miscalibration.

    Args:
        logits: finite floats, shape (N, K); or
        probs: rows in [0, 1] that sum to 1 within 1e-3, shape (N, K).
        num_bins: as in `expected_calibration_error`.
        num_draws: number of simulated label sets.
        seed: seed of the draws.

    Raises:
        InputError: see `outcomes`.
    """
    confidence = confidences(logits=logits, probs=probs).cpu()
    return noise_floors(confidence, num_bins=num_bins, num_draws=num_draws, seed=seed)[0]


def subset_noise_floor(
    subsets: Values,
    *,
    logits: Values | None = None,
    probs: Values | None = None,
    num_draws: int = 200,
    seed: int = 0,
) -> SubsetNoiseFloor:
    """Estimate the `subset_calibration_error` of a calibrated model with these confidences.

    Args:
        subsets: integer >= 0, shape (N,).
        logits: as in `ece_noise_floor`; or
        probs: as in `ece_noise_floor`.
        num_draws: number of simulated label sets.
        seed: seed of the draws.

    Raises:
        InputError: see `outcomes`; subsets of another shape, or negative.
    """
    confidence = confidences(logits=logits, probs=probs).cpu()
    floor = noise_floors(confidence, check_subsets(subsets, len(confidence)), num_draws=num_draws, seed=seed)[1]
    assert floor is not None
    return floor


def noise_floors(
    confidence: Tensor, subsets: Tensor | None = None, *, num_bins: int = 15, num_draws: int = 200, seed: int = 0
) -> tuple[NoiseFloor, SubsetNoiseFloor | None]:
    """Estimate the floors of the ECE and, with subsets, of the subset calibration errors, from the same draws.

    Args:
        confidence: float64, shape (N,), on the CPU, so that a seed gives the same draws on every device.
        subsets: integer >= 0, shape (N,), already checked.
        num_bins: bins of the ECE.
        num_draws: number of simulated label sets.
        seed: seed of the draws.
    """
    weights = membership(assign_bins(confidence, num_bins), num_bins) / len(confidence)
    if subsets is not None:
        members = subset_membership(subsets.cpu())
        weights = torch.cat([weights, members / members.sum(0)], 1)
    errors = _calibrated_gaps(confidence, weights, num_draws, seed).abs()
    floor, of_subsets = _floor(errors[:, :num_bins].sum(1)), errors[:, num_bins:]
    if subsets is None:
        return floor, None
    return floor, SubsetNoiseFloor(mean=_floor(of_subsets.mean(1)), largest=_floor(of_subsets.amax(1)))


def _calibrated_gaps(confidence: Tensor, weights: Tensor, num_draws: int, seed: int) -> Tensor:
    """Draw correctness, and sum confidence minus correctness with weights; (N,), (N, G) -> (num_draws, G)."""
    generator = torch.Generator().manual_seed(seed)
    draws = []
    for rows in chunk_sizes(num_draws, len(confidence)):
        uniform = torch.rand(rows, len(confidence), generator=generator, dtype=torch.float64)
        draws.append((confidence - (uniform < confidence).double()) @ weights)
    return torch.cat(draws)


def _floor(errors: Tensor) -> NoiseFloor:
    return NoiseFloor(mean=float(errors.mean()), p95=float(errors.quantile(0.95)))
