"""Targets whose mean is a level, and whose differences between subsets are a shape."""

from __future__ import annotations

import torch
from torch import Tensor

from aradals.checks import check_between
from aradals.errors import InputError
from aradals.geometry import exact_dtype


def shaped_target_prob(smoothing: float, slope: float, num_subsets: int, num_classes: int) -> Tensor:
    """Compute targets that change evenly with robustness: 1 - p_r = ε (1 + β (1 - (2 r + 1)/R)), r = 0, ..., R - 1.

    The level ε and the shape β are separate. The level is the mean smoothing. It decides accuracy and NLL, and a
    temperature after training repairs its effect on the confidence. The shape decides which predictions have more
    confidence than others: with β > 0, the least robust examples have the softest labels.

    Args:
        smoothing: ε, mean of 1 - p over subsets of equal size, in [0, 1).
        slope: β, in [-1, 1]; 0 gives every subset the same target.
        num_subsets: R; subset 0 has the least robust examples.
        num_classes: K.

    Returns:
        p of each subset, float64, shape (R,).

    Raises:
        InputError: a setting is out of its range, or the softest target is below 1/K.

    Example:
        >>> shaped_target_prob(0.2, 0.4, num_subsets=4, num_classes=10)
        tensor([0.7400, 0.7800, 0.8200, 0.8600], dtype=torch.float64)
    """
    check_between(0, 1, smoothing=smoothing)
    check_between(-1, 1, slope=slope)
    if num_subsets < 1:
        raise InputError(expected="at least one subset", got=f"num_subsets={num_subsets}", hint="num_subsets=10")
    positions = torch.arange(num_subsets, dtype=exact_dtype(torch.get_default_device()))
    target_prob = 1 - smoothing * (1 + slope * (1 - (2 * positions + 1) / num_subsets))
    if target_prob.min() < 1 / num_classes:
        raise InputError(
            expected=f"targets of at least 1/{num_classes}",
            got=f"{target_prob.min():.3g}, because of smoothing={smoothing} and slope={slope}",
            hint="a smaller smoothing",
        )
    return target_prob
