"""Projected gradient descent: a search within a given radius for a perturbation that changes the prediction."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from aradals.attacks.base import AttackResult, attacked, verified_result
from aradals.attacks.margins import first_order_margin
from aradals.checks import check_norm_order, check_positive
from aradals.errors import InputError
from aradals.geometry import draw_from_ball, per_example, perturbation_norm, project_to_ball, unit, working_dtype
from aradals.inference.gradients import (
    class_margin,
    forward_with_graph,
    input_gradient,
    margin_rounding,
)


def pgd(
    model: nn.Module,
    inputs: Tensor,
    *,
    radius: float,
    norm_order: float = 2,
    steps: int = 20,
    step_size: float | None = None,
    loss: Literal["margin", "cross_entropy", "other_confidence"] = "margin",
    restarts: int = 1,
    random_start: bool = False,
    seed: int = 0,
) -> AttackResult:
    """Projected gradient descent (PGD) in an L2 or L-inf ball, untargeted, on the model's own prediction.

    Robust accuracy within the radius is the share of examples that are predicted right and that the attack did not
    change. The record has the smallest perturbation that was seen to succeed. If none succeeded, the score is at
    least the radius.

    Args:
        model: maps inputs in [0, 1] to logits of shape (N, K).
        inputs: shape (N, ...), values in [0, 1].
        radius: radius of the ball; the perturbations stay in the ball up to the rounding of the inputs.
        norm_order: 2 or inf.
        steps: gradient steps of each restart.
        step_size: length of a step in the same norm, by default 2.5 * radius / steps.
        loss: the quantity that the steps increase. ``margin``: the lead of another class over the predicted one, in
            logits. ``cross_entropy``: the cross-entropy of the predicted class, as in the paper; its gradient vanishes
            where the softmax saturates. ``other_confidence``: the logarithm of the largest probability of another
            class.
        restarts: number of starts. The first start is the input itself, the others are drawn from the ball.
        random_start: draw the first start as well.
        seed: seed of the draws. The draws are the same for every example, so that no result depends on the batch.

    Raises:
        InputError: inputs outside [0, 1]; logits that are NaN, of a wrong shape, or probabilities; another norm.

    References:
        Madry, Makelov, Schmidt, Tsipras and Vladu, Towards deep learning models resistant to adversarial attacks,
        ICLR 2018, arXiv:1706.06083, section 2.1. This code departs from the paper in two points: the default loss, and
        the default start, which the paper draws at random.
    """
    step_size = 2.5 * radius / max(steps, 1) if step_size is None else step_size
    check_positive(radius=radius, steps=steps, step_size=step_size, restarts=restarts)
    check_norm_order(norm_order)
    if loss not in ("margin", "cross_entropy", "other_confidence"):
        raise InputError(
            expected="a loss of PGD", got=repr(loss), hint="one of: margin, cross_entropy, other_confidence"
        )

    with attacked(model, inputs) as (model, inputs):
        exact = inputs.to(working_dtype(inputs))
        first_order = first_order_margin(model, inputs, norm_order=norm_order)
        predicted = first_order.predicted
        adv_inputs, best_norm = inputs.clone(), torch.full_like(first_order.score, math.inf)
        radii = torch.full_like(best_norm, radius)
        generator = torch.Generator().manual_seed(seed)

        for restart in range(restarts):
            delta = torch.zeros_like(exact)
            if restart > 0 or random_start:
                delta = delta + draw_from_ball(exact[:1], radius, norm_order, generator)

            for _ in range(steps + 1):  # the last iteration only checks the end of the last step
                delta = (exact + delta).clamp(0, 1) - exact
                points = (exact + delta).to(inputs.dtype)
                leaf, logits = forward_with_graph(model, points)
                margin, _, rival = class_margin(logits, predicted)

                # The best perturbation so far.
                crossed = margin < -margin_rounding(logits, predicted, rival)
                norm = perturbation_norm(points.to(exact) - exact, norm_order)
                better = crossed & (norm < best_norm)
                best_norm = torch.where(better, norm, best_norm)
                adv_inputs = torch.where(per_example(better, points), points, adv_inputs)

                if loss == "margin":
                    objective = -margin
                elif loss == "cross_entropy":
                    objective = -logits.log_softmax(1).gather(1, predicted[:, None])[:, 0]
                else:
                    objective = logits.log_softmax(1).scatter(1, predicted[:, None], -math.inf).max(1).values
                gradient = input_gradient(objective, leaf)
                direction = gradient.sign() if norm_order == math.inf else unit(gradient)
                delta = project_to_ball(delta + step_size * direction, radii, norm_order)

    return verified_result(
        model,
        inputs,
        adv_inputs,
        best_norm.isfinite(),
        predicted=predicted,
        margin=first_order.margin,
        fallback=first_order.score.clamp(min=radius),
        norm_order=norm_order,
    )
