"""Fast minimum-norm attack: projected gradient steps in a ball whose radius follows the boundary."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from aradals.attacks.base import AttackResult, attacked, verified_result
from aradals.checks import check_norm_order, check_output, check_positive
from aradals.errors import InputError
from aradals.geometry import (
    box_diagonal,
    linear_distance,
    per_example,
    perturbation_norm,
    project_to_ball,
    project_to_plane,
    unit,
    working_dtype,
)
from aradals.inference.gradients import (
    class_margin,
    forward_with_graph,
    input_gradient,
    margin_rounding,
)

_OVERSHOOT = 0.02


def fmn(
    model: nn.Module,
    inputs: Tensor,
    *,
    norm_order: float = 2,
    steps: int = 100,
    gamma: float = 0.05,
    num_candidates: int = 10,
) -> AttackResult:
    """Fast minimum-norm attack (FMN), L2 or L-inf, untargeted, on the model's own prediction.

    Each step follows the gradient and projects the perturbation onto a ball around the input. Until the first
    adversarial example is found, the ball reaches to the linearized boundary. From then on, the radius shrinks by
    ``gamma`` if the prediction has changed, and grows by ``gamma`` if not.

    Args:
        model: maps inputs in [0, 1] to logits of shape (N, K).
        inputs: shape (N, ...), values in [0, 1].
        norm_order: 2 or inf.
        steps: gradient steps, the same number for every example.
        gamma: fraction by which the radius changes at first, in (0, 1).
        num_candidates: number of other classes, largest logits first, that are linearized at the input; at most K - 1.

    Raises:
        InputError: inputs outside [0, 1]; logits that are NaN, of a wrong shape, or probabilities; another norm.

    References:
        Pintor, Roli, Brendel and Biggio, Fast minimum-norm adversarial attacks through adaptive norm constraints,
        NeurIPS 2021, arXiv:2102.12827, algorithm 1. This code departs from the paper in three points. First, the
        search starts across the nearest linearized boundary. From the input, the loss leads to the class with the
        second largest logit, which need not be the nearest class. Second, the first step is as long as the distance to
        that boundary. The paper uses 1, but undefended networks have norms far below 1. Third, until an adversarial
        example is found, the radius grows by at least ``gamma``. Otherwise, if the linearized boundary is always a
        little too near, the search stops in front of the true boundary, and fails on the least robust examples.
    """
    check_positive(steps=steps, gamma=gamma, num_candidates=num_candidates)
    check_norm_order(norm_order)
    if gamma >= 1:
        raise InputError(expected="gamma < 1", got=f"gamma={gamma}", hint="gamma=0.05")

    with attacked(model, inputs) as (model, inputs):
        exact = inputs.to(working_dtype(inputs))
        delta, predicted, margin_at_input, fallback = _nearest_plane(model, inputs, norm_order, num_candidates)
        radius, step_size = perturbation_norm(delta, norm_order), perturbation_norm(delta)
        adv_inputs, best_norm = inputs.clone(), torch.full_like(fallback, math.inf)

        for step in range(steps):
            delta = (exact + delta).clamp(0, 1) - exact
            points = (exact + delta).to(inputs.dtype)
            leaf, logits = forward_with_graph(model, points)
            margin, _, rival = class_margin(logits, predicted)
            gradient = input_gradient(margin, leaf)
            margin = margin.detach() + margin_rounding(logits, predicted, rival)

            # The best perturbation so far.
            crossed, norm = margin < 0, perturbation_norm(points.to(exact) - exact, norm_order)
            better = crossed & (norm < best_norm)
            best_norm = torch.where(better, norm, best_norm)
            adv_inputs = torch.where(per_example(better, points), points, adv_inputs)

            # The annealing goes from 1 down to 0.01.
            annealing = 0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2
            smaller, larger = radius * (1 - annealing * gamma), radius * (1 + annealing * gamma)
            to_plane = norm + linear_distance(margin, gradient, norm_order)
            larger = torch.where(best_norm.isfinite(), larger, larger.maximum(to_plane))
            radius = torch.where(crossed, smaller.minimum(best_norm), larger)
            delta = delta - per_example(annealing * step_size, delta) * unit(gradient)
            delta = project_to_ball(delta, radius, norm_order)

    return verified_result(
        model,
        inputs,
        adv_inputs,
        best_norm.isfinite(),
        predicted=predicted,
        margin=margin_at_input,
        fallback=fallback,
        norm_order=norm_order,
    )


def _nearest_plane(
    model: nn.Module, inputs: Tensor, norm_order: float, num_candidates: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Find the shortest step across a linearized boundary; for L-inf the step ignores the box.

    Returns:
        ``(delta, predicted, margin, fallback)``: the step, shape (N, ...), which is 0 if every gradient vanishes; the
        predicted class, its margin over the runner-up, and the distance to the runner-up's plane, shape (N,) each.
    """
    points, logits = forward_with_graph(model, inputs)
    check_output(logits, len(inputs))
    predicted = logits.argmax(1)
    others = logits.detach().scatter(1, predicted[:, None], -math.inf)
    candidates = others.topk(min(num_candidates, logits.shape[1] - 1)).indices
    origin = inputs.to(working_dtype(inputs))
    # A step shorter than the rounding of the inputs cannot be taken.
    shortest = box_diagonal(inputs, norm_order) * torch.finfo(inputs.dtype).eps

    delta, nearest = torch.zeros_like(origin), torch.full_like(others[:, 0], math.inf)
    for k in range(candidates.shape[1]):
        if k > 0:
            points, logits = forward_with_graph(model, inputs)
        margin = (logits.gather(1, predicted[:, None]) - logits.gather(1, candidates[:, [k]]))[:, 0]
        gradient, margin = input_gradient(margin, points), margin.detach()
        to_cross = margin + margin_rounding(logits, predicted, candidates[:, k])
        distance = linear_distance(to_cross, gradient, norm_order)
        if k == 0:
            margin_at_input, fallback = margin, distance
        if norm_order == math.inf:
            step = -per_example(distance, gradient) * gradient.sign()
        else:
            step, _ = project_to_plane(origin, gradient, to_cross)
        length = perturbation_norm(step, norm_order)
        nearer = (distance > 0) & (length < nearest)
        nearest = torch.where(nearer, length, nearest)
        stretch = (1 + _OVERSHOOT) * length.clamp(min=shortest) / length
        delta = torch.where(per_example(nearer, step), per_example(stretch, step) * step, delta)
    return delta, predicted, margin_at_input, fallback
