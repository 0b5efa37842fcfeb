"""DeepFool: steps to the nearest boundary of the linearized classifier."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from aradals.attacks.base import AttackResult, attacked, prediction_changes, verified_result
from aradals.checks import check_output, check_positive
from aradals.geometry import linear_distance, per_example, perturbation_norm, unit, working_dtype
from aradals.inference.gradients import forward_with_graph, input_gradient, margin_rounding

_NUM_RIVALS = 2


def deepfool(
    model: nn.Module, inputs: Tensor, *, steps: int = 50, num_candidates: int = 10, overshoot: float = 0.01
) -> AttackResult:
    """Multi-class DeepFool, L2, within the box [0, 1].

    Each step linearizes the margins of the predicted class over its rivals, and moves to the nearest plane where one
    of these linear margins is zero. On a linear model the first step is exact up to the overshoot.

    Args:
        model: maps inputs in [0, 1] to logits of shape (N, K).
        inputs: shape (N, ...), values in [0, 1].
        steps: largest number of linearizations.
        num_candidates: number of other classes, largest logits first, that the first step compares; at most K - 1.
        overshoot: fraction by which the perturbation is lengthened, so that it ends across the boundary.

    Raises:
        InputError: inputs outside [0, 1]; logits that are NaN, of a wrong shape, or probabilities.

    References:
        Moosavi-Dezfooli, Fawzi and Frossard, DeepFool: a simple and accurate method to fool deep neural
        networks, CVPR 2016, arXiv:1511.04599, algorithm 2. This code departs from the paper in two points: the
        gradient is 0 for every entry that the box does not allow to move, and after the first step only the nearest
        classes are followed.
    """
    check_positive(steps=steps, num_candidates=num_candidates, overshoot=overshoot)
    with attacked(model, inputs) as (model, inputs):
        delta = torch.zeros_like(inputs, dtype=working_dtype(inputs))
        adv_inputs = inputs.clone()
        active = torch.arange(len(inputs), device=inputs.device)
        success = torch.zeros_like(active, dtype=torch.bool)
        # A step is at least the rounding of the inputs, so that it leaves a boundary, and at most the box's diagonal.
        longest = math.sqrt(inputs[0].numel())
        shortest = longest * torch.finfo(delta.dtype).eps

        for step in range(steps):
            points, logits = forward_with_graph(model.at(active), adv_inputs[active])
            if step == 0:
                check_output(logits, len(inputs))
                predicted = logits.argmax(1)
                others = logits.detach().scatter(1, predicted[:, None], -math.inf)
                classes = others.topk(min(num_candidates, logits.shape[1] - 1)).indices

            # Logits that differ by less than their rounding are a tie. The step treats a tie as a margin as wide as
            # the rounding.
            rounding = margin_rounding(logits, predicted[active], classes, torch.finfo(inputs.dtype).eps)

            # The nearest plane: the class k with the least margin_k / ||gradient of margin_k||.
            distances = torch.empty_like(rounding)
            distance = torch.full_like(distances[:, 0], math.inf)
            direction = torch.zeros_like(delta[active])
            for k in range(classes.shape[1]):
                if k > 0:
                    points, logits = forward_with_graph(model.at(active), adv_inputs[active])
                margin = (logits.gather(1, predicted[active, None]) - logits.gather(1, classes[:, [k]]))[:, 0]
                gradient, margin = input_gradient(margin, points), margin.detach()
                if step == 0 and k == 0:  # the runner-up
                    margin_at_input, fallback = margin, linear_distance(margin, gradient)
                # An entry at a bound cannot move out of the box. On a linear model an entry that has reached its bound
                # stays there, so that the steps without such entries add up to the exact solution.
                outwards = ((points <= 0) & (gradient > 0)) | ((points >= 1) & (gradient < 0))
                gradient = gradient.masked_fill(outwards, 0.0)
                slope = perturbation_norm(gradient)
                distances[:, k] = torch.where(slope > 0, margin.maximum(rounding[:, k]) / slope, math.inf)
                nearer = distances[:, k] < distance
                direction = torch.where(per_example(nearer, gradient), -unit(gradient), direction)
                distance = torch.where(nearer, distances[:, k], distance)

            delta[active] += per_example(distance.clamp(shortest, longest), direction) * direction
            adv_inputs[active] = (inputs[active] + (1 + overshoot) * delta[active]).clamp(0, 1).to(inputs.dtype)
            success[active] = prediction_changes(model.at(active), adv_inputs[active], predicted[active])

            # Gradients are the main cost, and the set of nearest classes changes little from step to step.
            nearest = distances.topk(min(_NUM_RIVALS, classes.shape[1]), largest=False).indices
            classes = classes.gather(1, nearest)
            going_on = ~success[active] & distance.isfinite()
            active, classes = active[going_on], classes[going_on]
            if len(active) == 0:
                break

    return verified_result(
        model,
        inputs,
        adv_inputs,
        success,
        predicted=predicted,
        margin=margin_at_input,
        fallback=fallback,
    )
