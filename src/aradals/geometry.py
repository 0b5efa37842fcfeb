"""Geometry of the perturbation of each example: norms, unit vectors, projections on balls, planes and the box."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def perturbation_norm(delta: Tensor, norm_order: float = 2) -> Tensor:
    """Return the L2 or L-inf norm of each perturbation: shape (N, ...) -> shape (N,)."""
    scaled, exponent = _scaled(delta.flatten(1))
    norm: Tensor = scaled.norm(p=norm_order, dim=1).ldexp(exponent)
    return norm


def _scaled(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Divide each row by the power of 2 of its largest entry, so that no square overflows or vanishes.

    Returns:
        ``(scaled, exponent)``: ``rows`` is ``scaled`` times 2 to the power of ``exponent``, exactly.
    """
    # The exponent gets the dtype of the rows, because `ldexp` computes 2 to the power of an integer in float32.
    exponent = rows.detach().abs().amax(1).frexp().exponent.to(rows.dtype)
    limit = -math.log2(torch.finfo(rows.dtype).tiny)
    exponent = exponent.clamp(-limit, limit)
    return rows.ldexp(-exponent[:, None]), exponent


def unit(delta: Tensor) -> Tensor:
    """Divide each example of shape (N, ...) by its L2 norm; 0 stays 0."""
    scaled, _ = _scaled(delta.flatten(1))
    length = scaled.norm(dim=1, keepdim=True)
    return scaled.div(torch.where(length > 0, length, 1.0)).view_as(delta)


def per_example(values: Tensor, like: Tensor) -> Tensor:
    """Reshape ``values`` of shape (N,) so that they broadcast against ``like`` of shape (N, ...)."""
    return values.view(-1, *[1] * (like.ndim - 1))


_NEWTON_STEPS = 20


def linear_distance(margin: Tensor, gradient: Tensor, norm_order: float = 2) -> Tensor:
    """Finite estimate of the distance to a boundary: the margin over the dual norm of its gradient, shape (N,).

    The estimate is 0 if the gradient vanishes, or is so small that the distance exceeds the diagonal of the box
    [0, 1]^D. In these cases the distance is unknown, and a failed estimate must never look like robustness.

    Args:
        margin: shape (N,).
        gradient: gradient of each margin, shape (N, ...).
        norm_order: 2 or inf, the norm of the distance.
    """
    scaled, exponent = _scaled(gradient.flatten(1))
    slope = scaled.norm(p=1 if norm_order == math.inf else 2, dim=1)
    distance = margin.ldexp(-exponent) / slope
    return torch.where((slope > 0) & (distance <= box_diagonal(gradient, norm_order)), distance, 0.0)


def box_diagonal(inputs: Tensor, norm_order: float = 2) -> float:
    """Return the norm of the largest perturbation that stays in [0, 1]^D, for inputs of shape (N, ...)."""
    return 1.0 if norm_order == math.inf else math.sqrt(math.prod(inputs.shape[1:]))


def project_to_plane(inputs: Tensor, gradient: Tensor, margin: Tensor) -> tuple[Tensor, Tensor]:
    r"""Find the smallest step within the box that takes a linear margin to zero.

    The step is :math:`\delta(t) = clip(x - t g, 0, 1) - x` at the t where :math:`m + g \cdot \delta(t) = 0`. The drop
    of the margin is concave and piecewise linear in t, so that Newton's method from t = 0 approaches the zero from
    below.

    Args:
        inputs: x, shape (N, ...), in [0, 1].
        gradient: g, the same shape.
        margin: m, the margin at x, shape (N,).

    Returns:
        ``(delta, reachable)``: the step, shape (N, ...), and a bool, shape (N,), that is true if the step reaches the
        plane. If the box ends before the plane, ``delta`` goes to the end of the box. If the gradient vanishes,
        ``delta`` is 0.
    """
    x, (g, exponent) = inputs.flatten(1), _scaled(gradient.flatten(1))
    margin = margin.ldexp(-exponent)
    free, delta = g, torch.zeros_like(x)
    length, missing = torch.zeros_like(margin), margin
    for _ in range(_NEWTON_STEPS):
        slope = free.square().sum(1)
        # Each example stops on its own. Otherwise its step would depend on the other examples of its batch.
        going_on = (slope > 0) & (missing.abs() > 1e-4 * margin.abs())
        if not going_on.any():
            break
        length = length + torch.where(going_on, missing / slope, 0.0)
        moved = x - length[:, None] * g
        target = moved.clamp(0, 1)
        delta, free = target - x, torch.where(target == moved, g, 0.0)
        missing = margin + (g * delta).sum(1)
    return delta.view_as(inputs), missing.abs() <= 1e-2 * margin.abs()


def working_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype to compute in: at least float32, because sums in half precision are too coarse."""
    return torch.promote_types(tensor.dtype, torch.float32) if tensor.is_floating_point() else tensor.dtype


def exact_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype for values that add up over a training: float64, or float32 on MPS, which has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def project_to_ball(delta: Tensor, radius: Tensor, norm_order: float = 2) -> Tensor:
    """Project each perturbation on a ball: return the nearest point in L2 whose norm is at most the radius.

    Args:
        delta: shape (N, ...).
        radius: shape (N,), >= 0.
        norm_order: 2 or inf, the norm that defines the ball.
    """
    bound = per_example(radius, delta)
    if norm_order == math.inf:
        return delta.clamp(-bound, bound)
    norm = per_example(perturbation_norm(delta), delta)
    return torch.where(norm > bound, bound * unit(delta), delta)


def draw_from_ball(like: Tensor, radius: float, norm_order: float, generator: torch.Generator) -> Tensor:
    """Draw a perturbation uniformly from the ball, in the shape of ``like``, (1, ...)."""
    if norm_order == math.inf:
        noise = radius * (2 * torch.rand(like.shape, generator=generator) - 1)
    else:
        length = radius * torch.rand(1, generator=generator) ** (1 / like.numel())
        noise = length * unit(torch.randn(like.shape, generator=generator))
    return noise.to(like)
