"""Logit margins and their gradients with respect to the inputs, the building blocks of the attacks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from aradals.checks import check_inputs
from aradals.geometry import working_dtype
from aradals.inference.predictions import evaluation_mode, model_device_dtype


def class_margin(logits: Tensor, predicted: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Logit of the predicted class minus the largest other logit; differentiable.

    Args:
        logits: shape (N, K), K >= 2.
        predicted: int64, shape (N,); the class whose lead is measured, by default the class with the largest logit.
            The margin is negative if another class has a larger logit.

    Returns:
        ``(margin, predicted, runner_up)``, each of shape (N,): the margin in logits, the class, and the
        strongest other class.
    """
    if predicted is None:
        predicted = logits.argmax(1)
    column = predicted[:, None]
    other_logit, runner_up = logits.scatter(1, column, -math.inf).max(1)
    return logits.gather(1, column)[:, 0] - other_logit, predicted, runner_up


def margin_rounding(logits: Tensor, predicted: Tensor, rival: Tensor, precision: float = 1e-6) -> Tensor:
    """Estimate the rounding of margins: the precision times the larger of the two logits that are compared.

    Other logits do not matter, because a masked class may have a logit of -1e9.

    Args:
        logits: shape (N, K).
        predicted: int64, shape (N,).
        rival: other classes, int64, shape (N,) or (N, C).
        precision: relative rounding of a logit; between batches, logits differ by about 1e-6 of their size.

    Returns:
        The shape of ``rival``.
    """
    size = logits.detach().abs()
    own, other = size.gather(1, predicted[:, None]), size.gather(1, rival.view(len(logits), -1))
    return precision * own.maximum(other).view_as(rival)


@contextmanager
def gradients_enabled(model: nn.Module) -> Iterator[None]:
    """Switch to evaluation mode with gradients, even if the caller has switched gradients off."""
    with evaluation_mode(model), torch.inference_mode(False), torch.enable_grad():
        yield


def model_inputs(model: nn.Module, inputs: Tensor) -> Tensor:
    """Check ``inputs``, and copy them to the model's device and dtype, exactly within [0, 1]."""
    check_inputs(inputs)
    device, dtype = model_device_dtype(model)
    return inputs.detach().to(device, dtype, copy=True).clamp_(0, 1)


def forward_with_graph(model: nn.Module, points: Tensor) -> tuple[Tensor, Tensor]:
    """Return a leaf copy of ``points`` and the model's logits at these points, in at least single precision."""
    leaf = points.detach().clone().requires_grad_()
    # The model gets another copy, because a model that writes into its input must not write into a leaf.
    logits: Tensor = model(leaf.clone())
    return leaf, logits.to(working_dtype(points)) if isinstance(logits, Tensor) else logits


def input_gradient(values: Tensor, points: Tensor) -> Tensor:
    """Compute the gradient of each example's value, shape of ``points``; entries that are not finite count as 0.

    Each gradient needs a forward pass of its own. Compiled models reuse the memory of a graph that was walked, and
    custom functions may free it, so that a second gradient of the same graph would be wrong or fail.

    Args:
        values: shape (N,); ``values[i]`` depends on ``points[i]`` only.
        points: the leaf that the values were computed from, shape (N, ...).
    """
    if not values.requires_grad:
        return torch.zeros_like(points, dtype=working_dtype(points))
    (gradient,) = torch.autograd.grad(values.sum(), points, allow_unused=True, materialize_grads=True)
    return gradient.to(working_dtype(points)).nan_to_num(0.0, 0.0, 0.0)


def margin_and_gradient(
    model: nn.Module, points: Tensor, predicted: Tensor, rival: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the margin of ``predicted`` over its rival at ``points``, and its gradient, by one pass each way.

    Args:
        model: maps inputs to logits of shape (N, K).
        points: shape (N, ...).
        predicted: int64, shape (N,).
        rival: the other class, int64, shape (N,); by default the strongest other class at each point.

    Returns:
        ``(margin, gradient, rival)``: shapes (N,), (N, ...) and (N,).
    """
    leaf, logits = forward_with_graph(model, points)
    if rival is None:
        margin, _, rival = class_margin(logits, predicted)
    else:
        margin = (logits.gather(1, predicted[:, None]) - logits.gather(1, rival[:, None]))[:, 0]
    return margin.detach(), input_gradient(margin, leaf), rival
