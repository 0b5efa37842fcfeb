"""Piecewise linear functions, computed so that every exporter can represent them."""

from __future__ import annotations

import torch
from torch import Tensor


def interpolate(points: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """Evaluate piecewise linear functions, one for each row: constant outside their knots; at a step, the left value.

    Args:
        points: shape (K, N).
        knots: non-decreasing in each row, shape (K, M), M >= 2.
        values: values at the knots, shape (K, M).

    Returns:
        The values at the points, shape (K, N).
    """
    right = _count_below(points, knots).clamp(1, knots.shape[1] - 1)
    start, end = knots.gather(1, right - 1), knots.gather(1, right)
    share = ((points - start) / (end - start).clamp(min=torch.finfo(points.dtype).tiny)).clamp(0, 1)
    return torch.lerp(values.gather(1, right - 1), values.gather(1, right), share)


def _count_below(points: Tensor, knots: Tensor) -> Tensor:
    """Count the knots below each point, by a binary search of plain steps, because ONNX has no ``searchsorted``."""
    count, last = torch.zeros_like(points, dtype=torch.long), knots.shape[1] - 1
    for bit in reversed(range(knots.shape[1].bit_length())):
        further = count + 2**bit
        is_below = (further <= last + 1) & (knots.gather(1, (further - 1).clamp(max=last)) < points)
        count = torch.where(is_below, further, count)
    return count
