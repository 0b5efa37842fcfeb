"""CalMO: cross-entropy, consistency under attack, and a flat logit margin."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aradals.checks import check_between, check_positive
from aradals.geometry import working_dtype
from aradals.inference.gradients import (
    class_margin,
    forward_with_graph,
    gradients_enabled,
    input_gradient,
    model_inputs,
)
from aradals.losses import soft_cross_entropy


def calmo(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    robustness: float = 0.5,
    flatness: float = 0.01,
    radius: float = 8 / 255,
    steps: int = 3,
    step_size: float = 2 / 255,
) -> tuple[Tensor, Tensor]:
    r"""Calibration with margin objective: large margins that neither an attack nor a steep slope takes away.

    .. math:: CE(x, y) + \lambda_r \, KL\big(p(x) \,\|\, p(x_{adv})\big) + \lambda_s \|\nabla_x m(x, y)\|_2^2

    :math:`m(x, y) = z_y - \max_{j \ne y} z_j` is the margin of the label. :math:`x_{adv}` is the point of an L-inf ball
    with the largest cross-entropy, found by projected gradient ascent from x in evaluation mode. A weight of 0 omits a
    term and its cost. The flatness term alone (``robustness=0``) needs one more backward pass.

    Args:
        model: maps inputs in [0, 1] to logits z of shape (N, K).
        inputs: shape (N, ...), values in [0, 1].
        labels: int64, shape (N,).
        robustness: weight λ_r >= 0 of the consistency under attack.
        flatness: weight λ_s >= 0 of the squared slope of the margin.
        radius: radius of the L-inf ball.
        steps: steps of the attack.
        step_size: length of a step.

    Returns:
        ``(loss, logits)``: a scalar, and the logits of the inputs, shape (N, K).

    Raises:
        InputError: inputs outside [0, 1], or settings out of their range.

    References:
        Morosini, Gjika, Poggio and Beneventano, Too sharp, too sure: when calibration follows curvature, 2026,
        arXiv:2604.20614, equation 2. The defaults are theirs. The paper does not state the mode of the network during
        the attack.
    """
    check_between(0, float("inf"), robustness=robustness, flatness=flatness)
    check_positive(radius=radius, steps=steps, step_size=step_size)
    leaf = inputs.detach().clone().requires_grad_(flatness > 0)
    logits: Tensor = model(leaf.clone())
    loss = soft_cross_entropy(logits, labels)
    if robustness > 0:
        adv_logits = model(_hardest_inputs(model, inputs, labels, radius, steps, step_size))
        log_probs, adv_log_probs = (z.log_softmax(1, dtype=working_dtype(z)) for z in (logits, adv_logits))
        loss = loss + robustness * F.kl_div(adv_log_probs, log_probs, reduction="batchmean", log_target=True)
    if flatness > 0:
        margin, _, _ = class_margin(logits, labels)
        (slope,) = torch.autograd.grad(margin.sum(), leaf, create_graph=True)
        loss = loss + flatness * slope.to(loss.dtype).flatten(1).square().sum(1).mean()
    return loss, logits


def _hardest_inputs(
    model: nn.Module, inputs: Tensor, labels: Tensor, radius: float, steps: int, step_size: float
) -> Tensor:
    """Raise the cross-entropy by signed gradient steps within the L-inf ball and [0, 1]."""
    with gradients_enabled(model):
        start = points = model_inputs(model, inputs)
        for _ in range(steps):
            leaf, logits = forward_with_graph(model, points)
            gradient = input_gradient(F.cross_entropy(logits, labels, reduction="none"), leaf)
            delta = (points + step_size * gradient.sign().to(points) - start).clamp(-radius, radius)
            points = (start + delta).clamp(0, 1)
    return points.to(inputs)
