"""Targets of a level and a shape."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aradals import AdaptiveSmoothing, InputError
from aradals.smoothing import shaped_target_prob, soft_targets


@given(st.floats(0, 0.4), st.floats(-1, 1), st.integers(1, 20))
def test_the_level_is_the_mean_and_the_slope_is_the_spread(smoothing: float, slope: float, num_subsets: int) -> None:
    target_prob = shaped_target_prob(smoothing, slope, num_subsets, num_classes=10)
    assert target_prob.mean().item() == pytest.approx(1 - smoothing, abs=1e-12)
    steps = target_prob.diff()
    assert steps.tolist() == pytest.approx([2 * smoothing * slope / num_subsets] * (num_subsets - 1), abs=1e-12)


def test_subsets_of_a_large_number_approach_the_line() -> None:
    target_prob = shaped_target_prob(0.2, 0.5, 1000, num_classes=10)
    assert target_prob[[0, -1]].tolist() == pytest.approx([1 - 0.2 * 1.5, 1 - 0.2 * 0.5], abs=1e-3)


@pytest.mark.parametrize(
    ("smoothing", "slope", "num_subsets", "message"),
    [
        (1.2, 0.0, 4, "smoothing from 0 to 1"),
        (0.2, 1.5, 4, "slope from -1 to 1"),
        (0.2, 0.0, 0, "at least one subset"),
        (0.8, 1.0, 4, "targets of at least 1/10, got -0.4"),
    ],
)
def test_settings_out_of_range_are_refused(smoothing: float, slope: float, num_subsets: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        shaped_target_prob(smoothing, slope, num_subsets, num_classes=10)


def test_the_loss_is_the_cross_entropy_with_the_target_of_each_subset() -> None:
    target_prob = shaped_target_prob(0.3, 0.4, 3, num_classes=4)
    criterion = AdaptiveSmoothing(4, 3, rule=None, initial_target_prob=target_prob)
    logits, labels, subsets = torch.randn(6, 4), torch.arange(6) % 4, torch.arange(6) % 3
    expected = -(soft_targets(labels, target_prob[subsets], 4) * logits.log_softmax(1)).sum(1).mean()
    assert criterion(logits, labels, subsets).item() == pytest.approx(expected.item(), rel=1e-6)
    criterion.update(labels, logits, subsets)
    assert criterion.target_prob.tolist() == target_prob.tolist()  # no rule, no change
    assert criterion.history[0]["target_prob"] == target_prob.tolist()


def test_another_number_of_targets_than_subsets_is_refused() -> None:
    with pytest.raises(InputError, match="one for each of 3 subsets, got shape \\(2,\\)"):
        AdaptiveSmoothing(4, 3, rule=None, initial_target_prob=torch.tensor([0.8, 0.9]))
