"""Newton's method for the convex losses that calibrators minimize."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor

Hessian = TypeVar("Hessian")
"""A matrix of shape (D, D), or what a step needs instead of it."""

Loss = Callable[[Tensor], tuple[Tensor, Tensor, Hessian]]
"""point (D,) -> (value, gradient (D,), Hessian)."""

Step = Callable[[Tensor, Tensor, Hessian], Tensor]
"""(point, gradient, Hessian) -> the step to the minimum of the quadratic model, over the allowed points."""


def minimize_convex(loss: Loss[Hessian], start: Tensor, step: Step[Hessian]) -> Tensor:
    """Find the minimum of a smooth convex function by Newton's method with backtracking.

    The method is deterministic and has no learning rate. It stops when the quadratic model predicts a gain below 1e-12,
    or after 200 steps. It still takes the last step, because this step squares the error.

    Args:
        loss: function that returns value, gradient and Hessian.
        start: an allowed point, float64, shape (D,).
        step: the step under constraints; every part of a step must be allowed, as in a convex set.

    References:
        Boyd and Vandenberghe, Convex Optimization, 2004, algorithm 9.5.
    """
    point = start
    value, gradient, hessian = loss(point)
    for _ in range(200):
        move = step(point, gradient, hessian)
        gain = -float(gradient @ move)
        if gain < 1e-12:
            return point + move
        size = 1.0
        while True:
            candidate = loss(point + size * move)
            if candidate[0] <= value - 0.1 * size * gain or size < 1e-9:
                break
            size /= 2
        point = point + size * move
        value, gradient, hessian = candidate
    return point
