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
    logit_rounding,
)


def ddn(
    model: nn.Module, inputs: Tensor, *, steps: int = 100, gamma: float = 0.05, num_candidates: int = 10
) -> AttackResult:
    """Decoupled direction and norm attack (DDN), L2, untargeted, on the model's own prediction.

    Each step follows the gradient from the current point and puts the perturbation back on a sphere around the input,
    which is smaller by ``gamma`` if the prediction has changed there and larger by ``gamma`` if not.

    Args:
        model: maps inputs in [0, 1] to logits of shape (N, K).
        inputs: shape (N, ...), values in [0, 1].
        steps: gradient steps, the same number for every example.
        gamma: by what fraction the radius changes, at first; in (0, 1).
        num_candidates: of the DeepFool run that the search starts from.

    Raises:
        InputError: inputs outside [0, 1]; logits that are NaN, of a wrong shape, or probabilities.

    References:
        Rony, Hafemann, Oliveira, Ben Ayed, Sabourin and Granger, Decoupling direction and norm for efficient
        gradient-based L2 adversarial attacks and defenses, CVPR 2019, arXiv:1811.09600, algorithm 1. Four departures.
        The search starts at DeepFool's adversarial example: the class with the second largest logit, to which the loss
        is drawn from the input, need not be the nearest. Its norm is the first radius, and half of it the first step
        size, where the paper has 1, because undefended networks have norms far below 1. The loss is the logit
        margin, whose gradient does not vanish where the softmax saturates. And ``gamma`` is annealed with the
        step size: at a constant gamma the last radii still straddle the boundary by several per cent.
    """
    check_positive(steps=steps, gamma=gamma, num_candidates=num_candidates)
    if gamma >= 1:
        raise InputError(expected="gamma < 1", got=f"gamma={gamma}", hint="0.05")

    with attacked(model, inputs) as (model, inputs):
        exact = inputs.to(working_dtype(inputs))
        nearest = deepfool(model, inputs, num_candidates=num_candidates)
        predicted = nearest.predicted
        adv_inputs, best_norm = nearest.adv_inputs.clone(), nearest.norm

        delta = nearest.adv_inputs.to(exact) - exact
        # The norm of delta; where DeepFool failed, delta is 0, and this the first-order distance.
        radius = nearest.score
        step_size = radius / 2

        for step in range(steps):
            points = (exact + delta).to(inputs.dtype)
            leaf, logits = forward_with_graph(model, points)
            margin, _, _ = class_margin(logits, predicted)
            gradient = input_gradient(margin, leaf)

            # Best so far.
            crossed = margin < -logit_rounding(logits)
            norm = perturbation_norm(points.to(exact) - exact)
            better = crossed & (norm < best_norm)
            best_norm = torch.where(better, norm, best_norm)
            adv_inputs = torch.where(per_example(better, points), points, adv_inputs)

            # From 1 down to 0.01.
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
        fallback=nearest.score,
    )
