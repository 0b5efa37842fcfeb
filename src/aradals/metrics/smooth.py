"""Smooth calibration error: gaps smoothed over confidence by a kernel instead of bins."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from aradals.checks import Values
from aradals.metrics.outcomes import outcomes

GRID_CELLS = 2048
"""Number of cells of the grid on [0, 1]. The grid widens a kernel of width 0.01 by a factor of 1.0002."""


def smooth_calibration_error(labels: Values, *, logits: Values | None = None, probs: Values | None = None) -> float:
    """Smooth ECE (Błasiok and Nakkiran 2023) of the confidence of the predicted class, in [0, 1].

    smECE_σ = ∫ |(1 / N) Σ_i (confidence_i - correct_i) k_σ(t, confidence_i)| dt over [0, 1], where k_σ is the Gaussian
    kernel of width σ reflected at 0 and 1. smECE_σ falls with σ, and the smooth ECE is the one value with smECE_σ = σ.
    The smooth ECE needs no choice of bins, and it is continuous in the confidences. Noise inflates it like the ECE.

    Args:
        labels: integer, shape (N,), in [0, K).
        logits: finite floats, shape (N, K); or
        probs: rows in [0, 1] that sum to 1 within 1e-3, shape (N, K).

    Raises:
        InputError: see `outcomes`.
    """
    examples = outcomes(labels, logits=logits, probs=probs)
    return smooth_error(grid_gaps(examples.confidence, examples.gap) / len(labels))


def grid_gaps(confidence: Tensor, gap: Tensor, num_cells: int = GRID_CELLS) -> Tensor:
    """Sum gaps at the points of a grid on [0, 1]; shapes (N,), (N,) -> (num_cells + 1,).

    Each gap is divided between the two points next to its confidence so that the mean confidence stays the same.
    """
    left, share = grid_position(confidence, num_cells)
    sums = gap.new_zeros(num_cells + 1)
    return sums.index_add_(0, left, gap * (1 - share)).index_add_(0, left + 1, gap * share)


def grid_position(confidence: Tensor, num_cells: int) -> tuple[Tensor, Tensor]:
    """Find the grid point to the left, int64, and the share in [0, 1] of the grid point to the right."""
    position = confidence.clamp(0, 1) * num_cells
    left = position.long().clamp(max=num_cells - 1)
    return left, position - left


def smooth_error(gaps: Tensor) -> float:
    """Find the fixed point smECE_σ = σ for mean gaps at the points of a grid, shape (G + 1,)."""
    smoothed = smoother(gaps)
    low, high = 0.0, 1.0
    for _ in range(20):  # to 1e-6, far below the error of the grid
        sigma = (low + high) / 2
        if float(smoothed(sigma).abs().sum()) > sigma:
            low = sigma
        else:
            high = sigma
    return high


def smoother(gaps: Tensor) -> Callable[[float], Tensor]:
    """Return a function from σ to smoothed gaps at the points of a grid, shape (..., G + 1); their |.| sum to smECE_σ.

    A kernel that is reflected at both ends is a plain Gaussian on the even extension of period 2. In Fourier space,
    smoothing by this Gaussian is a product with exp(-(ωσ)² / 2) at wave number ω.
    """
    num_cells = gaps.shape[-1] - 1
    ends = torch.ones(num_cells + 1, dtype=gaps.dtype, device=gaps.device)
    ends[[0, -1]] = 2  # a gap at an end of [0, 1] coincides with its mirror image
    spectrum = torch.fft.rfft(torch.cat([gaps * ends, gaps[..., 1:-1].flip(-1)], -1))
    wave_number = math.pi * torch.arange(num_cells + 1, dtype=gaps.dtype, device=gaps.device)

    def smoothed(sigma: float) -> Tensor:
        kernel = (-(wave_number * sigma).square() / 2).exp()
        period: Tensor = torch.fft.irfft(spectrum * kernel, 2 * num_cells)
        return period[..., : num_cells + 1] / ends

    return smoothed
