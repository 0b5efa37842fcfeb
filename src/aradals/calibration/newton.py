"""Newton's method for the convex losses that calibrators minimize."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

Hessian = TypeVar("Hessian")
"""A matrix of shape (D, D), or what a step needs instead of it."""

Loss = Callable[[Tensor], tuple[Tensor, Tensor, Hessian]]
"""point (D,) -> (value, gradient (D,), Hessian)."""

Step = Callable[[Tensor, Tensor, Hessian], Tensor]
"""(point, gradient, Hessian) -> the step to the minimum of the quadratic model, over the allowed points."""

Face = tuple[Tensor, Tensor]
"""A point of a face of a polytope, shape (D,), and the directions (columns) that span the face, shape (D, any)."""


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


def step_over_faces(
    point: Tensor, gradient: Tensor, hessian: Tensor, faces: Sequence[Face], is_allowed: Callable[[Tensor], bool]
) -> Tensor:
    """Find the step to the exact minimum of a quadratic over a polytope: the lowest of the minima over its faces.

    Args:
        point: the point where the quadratic has this gradient, float64, shape (D,).
        gradient: shape (D,).
        hessian: shape (D, D); a tiny multiple of the identity is added, because the matrix may be singular.
        faces: all faces of the polytope, so D must be small.
        is_allowed: whether a point is in the polytope.
    """
    v, g, h = point.cpu(), gradient.cpu(), hessian.cpu()
    h = h + (1e-10 * h.diagonal().mean() + 1e-30) * torch.eye(len(v), dtype=v.dtype)
    best, lowest = torch.zeros_like(v), 0.0
    for corner, directions in faces:
        to_corner = corner - v
        along = torch.linalg.solve(directions.T @ h @ directions, -directions.T @ (g + h @ to_corner))
        step = to_corner + directions @ along
        value = float(step @ g + step @ h @ step / 2)
        if value < lowest and is_allowed(v + step):
            best, lowest = step, value
    return best.to(point)
