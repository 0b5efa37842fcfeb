"""CCAT: confidence that falls to chance along adversarial directions."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from aradals.checks import check_norm_order, check_positive
from aradals.geometry import per_example, perturbation_norm, project_to_ball, unit, working_dtype
from aradals.inference.gradients import forward_with_graph, gradients_enabled, input_gradient, model_inputs
from aradals.losses import soft_cross_entropy


def ccat(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    target_prob: Tensor | None = None,
    *,
    radius: float = 0.03,
    norm_order: float | Literal["inf"] = math.inf,
    steps: int = 10,
    step_size: float | None = None,
    transition_power: float = 10.0,
) -> tuple[Tensor, Tensor]:
    """Confidence-calibrated adversarial training: one half of the batch is clean, the other half is attacked.

    1. Perturb one half of the batch so that the confidence of a wrong class is as large as possible
       (`max_confidence_attack`).
    2. Move the target of each perturbed example towards uniform; larger perturbations get more uniform targets
       (`transition_target_prob`).
    3. Compute the cross-entropy to these targets and to the targets of the clean half, in one pass of the model, which
       stays in its own mode.

    Args:
        model: maps inputs in [0, 1] to logits of shape (N, K).
        inputs: shape (N, ...), values in [0, 1]; the last ⌊N/2⌋ are attacked, so the batch should be shuffled.
        labels: int64, shape (N,).
        target_prob: p of unperturbed examples, shape (N,); 1 by default.
        radius: radius of the ball that contains the perturbations. The default suits L-inf; L2 needs a larger radius,
            such as 0.5.
        norm_order: inf or 2; inf may be text, because YAML reads ``inf`` as text.
        steps: steps of the attack.
        step_size: length of a step in the same norm, by default 2.5 * radius / steps.
        transition_power: ρ > 0; with a larger ρ, smaller perturbations get uniform targets.

    Returns:
        ``(loss, logits)``: a scalar in nats, and the logits of clean and attacked inputs, shape (N, K).

    Raises:
        InputError: inputs outside [0, 1], or settings out of their range.

    References:
        Stutz, Hein and Schiele, Confidence-calibrated adversarial training: generalizing to unseen attacks, ICML 2020,
        arXiv:1910.06259, algorithm 1. This code departs from the paper in one point: it takes fewer and plain steps.
        The authors take 40 steps with momentum and backtracking.
    """
    norm_order = float(norm_order)
    num_clean = len(inputs) - len(inputs) // 2
    adv_inputs = max_confidence_attack(
        model,
        inputs[num_clean:],
        labels[num_clean:],
        radius=radius,
        norm_order=norm_order,
        steps=steps,
        step_size=step_size,
    )
    points = torch.cat([inputs[:num_clean], adv_inputs])
    logits: Tensor = model(points)
    transition_prob = transition_target_prob(
        points - inputs,
        logits.shape[1],
        target_prob,
        radius=radius,
        norm_order=norm_order,
        transition_power=transition_power,
    )
    return soft_cross_entropy(logits, labels, transition_prob), logits


def max_confidence_attack(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    radius: float,
    norm_order: float = math.inf,
    steps: int = 10,
    step_size: float | None = None,
) -> Tensor:
    r"""Perturb inputs so that the largest confidence of a class other than the label is as large as possible.

    The attack is projected gradient ascent on :math:`\max_{k \ne y} p_k(x + \delta)` in an L2 or L-inf ball, within
    [0, 1], in evaluation mode. The start is uniform in direction and in norm, and the result is the best point of all
    steps. The model does not change: its modes, parameters and their gradients stay the same.

    Args:
        model: maps inputs in [0, 1] to logits of shape (N, K).
        inputs: shape (N, ...), values in [0, 1].
        labels: int64, shape (N,).
        radius: radius of the ball.
        norm_order: inf or 2.
        steps: gradient steps.
        step_size: length of a step in the same norm, by default 2.5 * radius / steps.

    Returns:
        Perturbed inputs, shape (N, ...), without a graph.

    Raises:
        InputError: inputs outside [0, 1], or settings out of their range.

    References:
        Stutz, Hein and Schiele, ICML 2020, arXiv:1910.06259, algorithm 1.
    """
    step_size = 2.5 * radius / max(steps, 1) if step_size is None else step_size
    check_positive(radius=radius, steps=steps, step_size=step_size)
    check_norm_order(norm_order)
    if len(inputs) == 0:
        return inputs

    with gradients_enabled(model):
        x = model_inputs(model, inputs)
        exact = x.to(working_dtype(x))
        radii = torch.full_like(exact.flatten(1)[:, 0], radius)
        delta = radius * _draw_direction(exact, norm_order) * per_example(torch.rand_like(radii), exact)
        adv_inputs, highest = x.clone(), torch.full_like(radii, -math.inf)

        for step in range(steps + 1):  # the last iteration only checks the end of the last step
            delta = (exact + delta).clamp(0, 1) - exact
            points = (exact + delta).to(x.dtype)
            leaf, logits = forward_with_graph(model, points)
            # The logarithm has the same maximum, and its gradient does not saturate.
            other_confidence = logits.log_softmax(1).scatter(1, labels[:, None], -math.inf).amax(1)
            higher = other_confidence.detach() > highest
            highest = torch.where(higher, other_confidence.detach(), highest)
            adv_inputs = torch.where(per_example(higher, points), points, adv_inputs)
            if step < steps:
                gradient = input_gradient(other_confidence, leaf)
                direction = gradient.sign() if norm_order == math.inf else unit(gradient)
                delta = project_to_ball(delta + step_size * direction, radii, norm_order)
    return adv_inputs.to(inputs)


def transition_target_prob(
    delta: Tensor,
    num_classes: int,
    target_prob: Tensor | None = None,
    *,
    radius: float,
    norm_order: float = math.inf,
    transition_power: float = 10.0,
) -> Tensor:
    r"""True-class target probability of perturbed examples: p for no perturbation, 1/K from the radius on.

    The target is :math:`\lambda` times the target of the clean example plus :math:`1 - \lambda` times the uniform
    distribution, where :math:`\lambda(\delta) = (1 - \min(1, \|\delta\| / radius))^\rho`.

    Args:
        delta: shape (N, ...).
        num_classes: K.
        target_prob: p of the clean examples, shape (N,); 1 by default.
        radius: norm from which on the target is uniform.
        norm_order: inf or 2.
        transition_power: ρ > 0.

    Returns:
        Shape (N,), in [1/K, 1].

    Raises:
        InputError: settings out of their range.

    References:
        Stutz, Hein and Schiele, ICML 2020, arXiv:1910.06259, algorithm 1.
    """
    check_positive(radius=radius, transition_power=transition_power)
    check_norm_order(norm_order)
    weight = (1 - perturbation_norm(delta, norm_order) / radius).clamp(min=0) ** transition_power
    clean = 1.0 if target_prob is None else target_prob.to(weight.dtype)
    return weight * clean + (1 - weight) / num_classes


def _draw_direction(like: Tensor, norm_order: float) -> Tensor:
    """Draw directions of norm 1, uniformly on the sphere of the norm, in the shape of ``like``."""
    if norm_order == math.inf:
        noise = 2 * torch.rand_like(like) - 1
        return noise / per_example(perturbation_norm(noise, math.inf), noise)
    return unit(torch.randn_like(like))
