"""Noise floors against direct simulation and closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from aradals.errors import InputError
from aradals.metrics import (
    ece_noise_floor,
    expected_calibration_error,
    subset_calibration_error,
    subset_noise_floor,
)


def calibrated_problem(n: int) -> tuple[torch.Tensor, torch.Generator]:
    generator = torch.Generator().manual_seed(3)
    return (2 * torch.randn(n, 5, generator=generator)).softmax(1), generator


def test_floors_equal_the_errors_of_calibrated_labels() -> None:
    """Labels drawn from the predicted probabilities make the model calibrated."""
    n = 500
    probs, generator = calibrated_problem(n)
    subsets = torch.arange(n) % 4
    eces, means, largests = [], [], []
    for _ in range(300):
        labels = torch.multinomial(probs, 1, generator=generator)[:, 0]
        eces.append(expected_calibration_error(labels, probs=probs))
        errors = subset_calibration_error(labels, subsets, probs=probs)
        means.append(errors.mean)
        largests.append(errors.largest)
    floor = ece_noise_floor(probs=probs, num_draws=1000)
    subset_floor = subset_noise_floor(subsets, probs=probs, num_draws=1000)
    for simulated, computed in [(eces, floor), (means, subset_floor.mean), (largests, subset_floor.largest)]:
        values = torch.tensor(simulated)
        assert computed.mean == pytest.approx(float(values.mean()), rel=0.1)
        assert computed.p95 == pytest.approx(float(values.quantile(0.95)), rel=0.15)


def test_one_bin_has_the_mean_of_a_folded_normal() -> None:
    """One bin: |mean of n centered Bernoulli| with variance c (1 - c) / n, whose mean is sqrt(2 / pi) sigma."""
    n, c = 4000, 0.8
    probs = torch.tensor([[c, 1 - c]], dtype=torch.float64).expand(n, 2)
    expected = math.sqrt(2 / math.pi * c * (1 - c) / n)
    assert ece_noise_floor(probs=probs, num_draws=4000).mean == pytest.approx(expected, rel=0.05)


def test_same_seed_same_floor_and_saturated_model_has_none() -> None:
    probs, _ = calibrated_problem(200)
    assert ece_noise_floor(probs=probs, seed=1) == ece_noise_floor(probs=probs, seed=1)
    assert ece_noise_floor(probs=probs, seed=1) != ece_noise_floor(probs=probs, seed=2)
    certain = torch.tensor([[1.0, 0.0]]).expand(50, 2)
    assert ece_noise_floor(probs=certain).p95 == 0


def test_bad_input_is_refused() -> None:
    probs, _ = calibrated_problem(10)
    with pytest.raises(InputError, match="exactly one"):
        ece_noise_floor()
    with pytest.raises(InputError, match="subset indices"):
        subset_noise_floor(torch.arange(9), probs=probs)
