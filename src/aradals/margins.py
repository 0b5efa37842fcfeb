"""Logit margins and their gradients with respect to the inputs: what the attacks are built from."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from aradals.errors import InputError
from aradals.inference import check_logits, evaluation_mode, model_device_dtype


def logit_margin(logits: Tensor, predicted: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
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


def first_order_margin(model: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """The logit margin over the L2 norm of its gradient: the distance to the linearised nearest boundary.

    One forward and one backward pass per example. The model is left as it was found.

    Args:
        model: maps inputs in [0, 1] to logits of shape (N, K).
        inputs: shape (N, ...), values in [0, 1].

    Returns:
        ``(score, predicted)``, each of shape (N,): the estimated distance in input units (see
        ``linear_distance``) and the predicted class.

    Raises:
        InputError: inputs outside [0, 1]; logits that are NaN, of a wrong shape, or probabilities.
    """
    with gradients_enabled(model):
        points, logits = forward_with_graph(model, model_inputs(model, inputs))
        check_logits(logits, len(inputs))
        margin, predicted, _ = logit_margin(logits)
        return linear_distance(margin.detach(), input_gradient(margin, points)), predicted


def linear_distance(margin: Tensor, gradient: Tensor) -> Tensor:
    """Finite estimate ``margin / ||gradient||_2`` of the distance to a boundary, shape (N,).

    It is at most the diagonal of the box [0, 1]^D, which no perturbation exceeds. Where the gradient vanishes
    nothing is known; the estimate is then 0, because a failed estimate must never look like robustness.
    """
    slope = gradient.flatten(1).norm(dim=1)
    diagonal = math.sqrt(gradient[0].numel())
    return torch.where(slope > 0, (margin / slope).clamp(max=diagonal), 0.0)


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
    """A leaf copy of ``points`` and the model's logits there, in at least single precision."""
    leaf = points.detach().clone().requires_grad_()
    # The model gets another copy, because a model that writes into its input must not write into a leaf.
    logits: Tensor = model(leaf.clone())
    return leaf, logits.to(working_dtype(logits)) if isinstance(logits, Tensor) else logits


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


def working_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype to compute in: half-precision values are too coarse to accumulate in."""
    return torch.promote_types(tensor.dtype, torch.float32) if tensor.is_floating_point() else tensor.dtype
