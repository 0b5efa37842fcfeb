"""Logit margins and their gradients with respect to the inputs: what the attacks are built from."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from aradals.errors import InputError
from aradals.inference import evaluation_mode, model_device_dtype

_NEWTON_STEPS = 20


def class_margin(logits: Tensor, predicted: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Logit of the predicted class minus the largest of the others; differentiable.

    Args:
        logits: shape (N, K), K >= 2.
        predicted: int64, shape (N,); the class whose lead is measured, by default the largest logit's. The
            margin is negative where another class has overtaken it.

    Returns:
        ``(margin, predicted, runner_up)``, each of shape (N,): the margin in logits, the class, and the
        strongest other class.
    """
    if predicted is None:
        predicted = logits.argmax(1)
    column = predicted[:, None]
    other_logit, runner_up = logits.scatter(1, column, -math.inf).max(1)
    return logits.gather(1, column)[:, 0] - other_logit, predicted, runner_up


def linear_distance(margin: Tensor, gradient: Tensor, norm_order: float = 2) -> Tensor:
    """Finite estimate of the distance to a boundary: the margin over the dual norm of its gradient, shape (N,).

    Where the gradient vanishes, or is so small that the distance exceeds the diagonal of the box [0, 1]^D, nothing is
    known. The estimate is then 0, because a failed estimate must never look like robustness.

    Args:
        margin: shape (N,).
        gradient: shape (N, ...), of each margin.
        norm_order: 2 or inf, of the distance.
    """
    slope = gradient.flatten(1).norm(p=1 if norm_order == math.inf else 2, dim=1)
    distance = margin / slope
    return torch.where((slope > 0) & (distance <= box_diagonal(gradient, norm_order)), distance, 0.0)


def logit_rounding(logits: Tensor) -> Tensor:
    """Logits differ by about 1e-6 of their size between batches; a margin smaller than that is not won. Shape (N,)."""
    return 1e-6 * logits.detach().abs().amax(1)


def box_diagonal(inputs: Tensor, norm_order: float = 2) -> float:
    """The norm of the largest perturbation that stays in [0, 1]^D, for inputs of shape (N, ...)."""
    return 1.0 if norm_order == math.inf else math.sqrt(math.prod(inputs.shape[1:]))


def project_to_plane(inputs: Tensor, gradient: Tensor, margin: Tensor) -> tuple[Tensor, Tensor]:
    r"""The smallest step within the box that takes a linear margin to zero.

    It is :math:`\delta(t) = clip(x - t g, 0, 1) - x` at the t where :math:`m + g \cdot \delta(t) = 0`. The drop of the
    margin is concave and piecewise linear in t, so that Newton's method from t = 0 finds the zero from below.

    Args:
        inputs: x, shape (N, ...), in [0, 1].
        gradient: g, the same shape.
        margin: m, shape (N,), at x.

    Returns:
        ``(delta, reachable)``: the step, shape (N, ...), and whether it reaches the plane, bool, shape (N,). Where the
        box ends before the plane, ``delta`` is as far as it goes; where the gradient vanishes, 0.
    """
    x, g = inputs.flatten(1), gradient.flatten(1)
    free, delta = g, torch.zeros_like(x)
    length, missing = torch.zeros_like(margin), margin
    for _ in range(_NEWTON_STEPS):
        slope = free.square().sum(1)
        # Each example stops on its own, or its step would depend on the batch that it is in.
        going_on = (slope > 0) & (missing.abs() > 1e-4 * margin.abs())
        if not going_on.any():
            break
        length = length + torch.where(going_on, missing / slope, 0.0)
        moved = x - length[:, None] * g
        target = moved.clamp(0, 1)
        delta, free = target - x, torch.where(target == moved, g, 0.0)
        missing = margin + (g * delta).sum(1)
    return delta.view_as(inputs), missing.abs() <= 1e-2 * margin.abs()


@contextmanager
def gradients_enabled(model: nn.Module) -> Iterator[None]:
    """Evaluation mode with gradients on, even where the caller has switched them off."""
    with evaluation_mode(model), torch.inference_mode(False), torch.enable_grad():
        yield


def check_inputs(inputs: Tensor) -> None:
    """Raise InputError unless ``inputs`` are at least one example of floats in [0, 1] (tolerance 1e-6)."""
    if not inputs.is_floating_point():
        raise InputError(
            expected="floating-point inputs in [0, 1]",
            got=f"{inputs.dtype} inputs",
            hint="inputs.float() / 255 for 8-bit images",
        )
    if inputs.ndim < 2 or inputs.numel() == 0:
        raise InputError(
            expected="inputs of shape (N, ...) with N >= 1",
            got=f"shape {tuple(inputs.shape)}",
            hint="a batch, also for a single example: inputs[None]",
        )
    low, high = float(inputs.min()), float(inputs.max())
    if not (low >= -1e-6 and high <= 1 + 1e-6):
        raise InputError(
            expected="inputs in [0, 1]",
            got=f"values from {low:.4g} to {high:.4g}",
            hint="inputs scaled to [0, 1], with normalisation as the first layer of the model",
        )


def model_inputs(model: nn.Module, inputs: Tensor) -> Tensor:
    """A copy of ``inputs``, checked, on the model's device, in its dtype and exactly within [0, 1]."""
    check_inputs(inputs)
    device, dtype = model_device_dtype(model)
    return inputs.detach().to(device, dtype, copy=True).clamp_(0, 1)


def forward_with_graph(model: nn.Module, points: Tensor) -> tuple[Tensor, Tensor]:
    """A leaf copy of ``points`` and the model's logits there, in its precision or single precision."""
    leaf = points.detach().clone().requires_grad_()
    # The model gets another copy, because a model that writes into its input must not write into a leaf.
    logits: Tensor = model(leaf.clone())
    return leaf, logits.to(working_dtype(points)) if isinstance(logits, Tensor) else logits


def input_gradient(values: Tensor, points: Tensor, *, keep_graph: bool = False) -> Tensor:
    """Gradient of each example's own value, shape of ``points``; entries that are not finite count as 0.

    Args:
        values: shape (N,); ``values[i]`` depends on ``points[i]`` only.
        points: the leaf that the values were computed from, shape (N, ...).
        keep_graph: whether another gradient of the same graph will be asked for.
    """
    if not values.requires_grad:
        return torch.zeros_like(points, dtype=working_dtype(points))
    (gradient,) = torch.autograd.grad(
        values.sum(), points, retain_graph=keep_graph, allow_unused=True, materialize_grads=True
    )
    return gradient.to(working_dtype(points)).nan_to_num(0.0, 0.0, 0.0)


def margin_and_gradient(
    model: nn.Module, points: Tensor, predicted: Tensor, rival: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The margin of ``predicted`` over its rival at ``points``, and its gradient: one forward and one backward pass.

    Args:
        model: maps inputs to logits of shape (N, K).
        points: shape (N, ...).
        predicted: int64, shape (N,).
        rival: the other class, int64, shape (N,); by default the strongest at each point.

    Returns:
        ``(margin, gradient, rival)``: shapes (N,), (N, ...) and (N,).
    """
    leaf, logits = forward_with_graph(model, points)
    if rival is None:
        margin, _, rival = class_margin(logits, predicted)
    else:
        margin = (logits.gather(1, predicted[:, None]) - logits.gather(1, rival[:, None]))[:, 0]
    return margin.detach(), input_gradient(margin, leaf), rival


def working_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype to compute in: half-precision values are too coarse to accumulate in."""
    return torch.promote_types(tensor.dtype, torch.float32) if tensor.is_floating_point() else tensor.dtype
