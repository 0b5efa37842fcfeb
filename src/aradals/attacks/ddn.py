"""Decoupled direction and norm: a gradient attack on a sphere whose radius follows the boundary."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from aradals.attacks.base import AttackResult, attacked, verified_result
from aradals.attacks.deepfool import deepfool
from aradals.checks import check_positive
from aradals.errors import InputError
from aradals.geometry import per_example, perturbation_norm, unit, working_dtype
from aradals.inference.gradients import (
    class_margin,
    forward_with_graph,
    input_gradient,
    margin_rounding,
)


def ddn(
    model: nn.Module, inputs: Tensor, *, steps: int = 100, gamma: float = 0.05, num_candidates: int = 10
) -> AttackResult:
    """Decoupled direction and norm attack (DDN), L2, untargeted, on the model's own prediction.

    Each step follows the gradient from the current point, then puts the perturbation back on a sphere around the
    input. The radius of the sphere shrinks by ``gamma`` if the prediction has changed at the current point, and grows
    by ``gamma`` if not.

    Args:
        model: maps inputs in [0, 1] to logits of shape (N, K).
        inputs: shape (N, ...), values in [0, 1].
        steps: gradient steps, the same number for every example.
        gamma: fraction by which the radius changes at first, in (0, 1).
        num_candidates: ``num_candidates`` of the DeepFool run that the search starts from.

    Raises:
        InputError: inputs outside [0, 1]; logits that are NaN, of a wrong shape, or probabilities.

    References:
        Rony, Hafemann, Oliveira, Ben Ayed, Sabourin and Granger, Decoupling direction and norm for efficient
        gradient-based L2 adversarial attacks and defenses, CVPR 2019, arXiv:1811.09600, algorithm 1. This code departs
        from the paper in four points. First, the search starts at DeepFool's adversarial example. From the input, the
        loss leads to the class with the second largest logit, which need not be the nearest class. Second, the first
        radius is the norm of that example, and the first step size is half of it. The paper uses 1 for both, but
        undefended networks have norms far below 1. Third, the loss is the logit margin, whose gradient does not vanish
        where the softmax saturates. Fourth, ``gamma`` is annealed with the step size. At a constant gamma the last
        radii still vary around the boundary by several per cent.
    """
    check_positive(steps=steps, gamma=gamma, num_candidates=num_candidates)
    if gamma >= 1:
        raise InputError(expected="gamma < 1", got=f"gamma={gamma}", hint="gamma=0.05")

    with attacked(model, inputs) as (model, inputs):
        exact = inputs.to(working_dtype(inputs))
        nearest = deepfool(model, inputs, num_candidates=num_candidates)
        predicted = nearest.predicted
        adv_inputs, best_norm = nearest.adv_inputs.clone(), nearest.norm

        delta = nearest.adv_inputs.to(exact) - exact
        # The radius is the norm of delta. If DeepFool failed, delta is 0, and the radius is the first-order distance.
        radius = nearest.score
        step_size = radius / 2

        for step in range(steps):
            points = (exact + delta).to(inputs.dtype)
            leaf, logits = forward_with_graph(model, points)
            margin, _, rival = class_margin(logits, predicted)
            gradient = input_gradient(margin, leaf)

            # The best perturbation so far.
            crossed = margin < -margin_rounding(logits, predicted, rival)
            norm = perturbation_norm(points.to(exact) - exact)
            better = crossed & (norm < best_norm)
            best_norm = torch.where(better, norm, best_norm)
            adv_inputs = torch.where(per_example(better, points), points, adv_inputs)

            # The annealing goes from 1 down to 0.01.
            annealing = 0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2
            delta = delta - per_example(annealing * step_size, delta) * unit(gradient)
            radius = radius * torch.where(crossed, 1 - annealing * gamma, 1 + annealing * gamma)
            delta = (exact + per_example(radius, delta) * unit(delta)).clamp(0, 1) - exact

    return verified_result(
        model,
        inputs,
        adv_inputs,
        best_norm.isfinite(),
        predicted=predicted,
        margin=nearest.margin,
        fallback=nearest.score,
    )
