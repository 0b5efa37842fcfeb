"""The calibration error that a perfectly calibrated model shows, because examples are finitely many."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from aradals.metrics.functional import (
    assign_bins,
    check_subsets,
    log_probabilities,
    membership,
    subset_membership,
)

CHUNK_ELEMENTS = 2**22
"""Random numbers drawn at a time (32 MB in float64); bounds memory, does not change the distribution."""


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
    logits: Tensor | None = None,
    probs: Tensor | None = None,
    num_bins: int = 15,
    num_draws: int = 200,
    seed: int = 0,
) -> NoiseFloor:
    """The ECE of a model with these confidences that is right exactly as often as it says.

    Correctness is drawn ``num_draws`` times from Bernoulli(confidence). An ECE below ``p95`` is no evidence
    of miscalibration.

    Args:
        logits: finite floats, shape (N, K); or
        probs: rows in [0, 1] that sum to 1 within 1e-3, shape (N, K).
        num_bins: as in `expected_calibration_error`.
        num_draws: number of simulated label sets.
        seed: of the draws.

    Raises:
        InputError: see `outcomes`.
    """
    confidence = _confidence(logits, probs)
    members = membership(assign_bins(confidence, num_bins), num_bins) / len(confidence)
    return _floor(_calibrated_gaps(confidence, members, num_draws, seed).abs().sum(1))


def subset_noise_floor(
    subsets: Tensor,
    *,
    logits: Tensor | None = None,
    probs: Tensor | None = None,
    num_draws: int = 200,
    seed: int = 0,
) -> SubsetNoiseFloor:
    """The `subset_calibration_error` of a model with these confidences that is right as often as it says.

    Args:
        subsets: integer >= 0, shape (N,).
        logits: as in `ece_noise_floor`; or
        probs: as there.
        num_draws: number of simulated label sets.
        seed: of the draws.

    Raises:
        InputError: see `outcomes`; subsets of another shape, or negative.
    """
    confidence = _confidence(logits, probs)
    check_subsets(subsets, len(confidence))
    members = subset_membership(subsets.cpu())
    errors = _calibrated_gaps(confidence, members / members.sum(0), num_draws, seed).abs()
    return SubsetNoiseFloor(mean=_floor(errors.mean(1)), largest=_floor(errors.amax(1)))


def _confidence(logits: Tensor | None, probs: Tensor | None) -> Tensor:
    """On the CPU, so that a seed means the same on every device."""
    _, probs = log_probabilities(logits=logits, probs=probs)
    return probs.amax(1).cpu()


def _calibrated_gaps(confidence: Tensor, weights: Tensor, num_draws: int, seed: int) -> Tensor:
    """Weighted sums of confidence - correctness for drawn correctness; (N,), (N, G) -> (num_draws, G)."""
    generator = torch.Generator().manual_seed(seed)
    draws = []
    for rows in chunk_sizes(num_draws, len(confidence)):
        uniform = torch.rand(rows, len(confidence), generator=generator, dtype=torch.float64)
        draws.append((confidence - (uniform < confidence).double()) @ weights)
    return torch.cat(draws)


def _floor(errors: Tensor) -> NoiseFloor:
    return NoiseFloor(mean=float(errors.mean()), p95=float(errors.quantile(0.95)))
