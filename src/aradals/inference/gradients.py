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


def logit_rounding(logits: Tensor) -> Tensor:
    """Estimate the rounding of logits, shape (N,): between batches, logits differ by about 1e-6 of their size."""
    return 1e-6 * logits.detach().abs().amax(1)


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


def input_gradient(values: Tensor, points: Tensor, *, keep_graph: bool = False) -> Tensor:
    """Compute the gradient of each example's value, shape of ``points``; entries that are not finite count as 0.

    Args:
        values: shape (N,); ``values[i]`` depends on ``points[i]`` only.
        points: the leaf that the values were computed from, shape (N, ...).
        keep_graph: keep the graph, because another gradient of it follows.
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
