"""A search that starts at other examples: it needs no gradient at the input."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from aradals.attacks.base import AttackResult, CountedModel, attacked, closest_crossing, verified_result
from aradals.attacks.starts import Starts, as_starts
from aradals.checks import check_logits, check_positive
from aradals.geometry import linear_distance, per_example, perturbation_norm, project_to_plane, unit, working_dtype
from aradals.inference.gradients import class_margin, forward_with_graph, input_gradient, margin_and_gradient


def neighbors(
    model: nn.Module,
    inputs: Tensor,
    *,
    num_starts: int = 3,
    steps: int = 6,
    starts: Starts | Tensor | None = None,
) -> AttackResult:
    """Distance to the boundary that is found on the way to the nearest examples of other classes, L2.

    1. Find the nearest examples that the model predicts to be of other classes. On the straight line to each of them,
       bisect for a point where the prediction changes. This needs no gradient, and the norm is a bound
       that no gradient can falsify.
    2. Linearize the margin at this point, where its gradient is large even if the network is flat around the input.
       Turn the direction towards the plane, and bisect along the new direction.

    Args:
        model: maps inputs in [0, 1] to logits of shape (N, K).
        inputs: shape (N, ...), values in [0, 1].
        num_starts: number of examples of other classes that the search starts from.
        steps: largest number of turns for each start.
        starts: the examples to start from, shape (M, ...), or these with their predicted classes; by default
            ``inputs``, so that the result depends on the other examples of the batch. `aradals.score` draws them from
            the data by default.

    Raises:
        InputError: inputs outside [0, 1]; logits that are NaN, of a wrong shape, or probabilities.
    """
    check_positive(num_starts=num_starts, steps=steps)
    with attacked(model, inputs) as (model, inputs):
        points, logits = forward_with_graph(model, inputs)
        margin, predicted, _ = class_margin(check_logits(logits, len(inputs)))
        fallback = linear_distance(margin.detach(), input_gradient(margin, points))
        best_norm, adv_inputs = torch.full_like(fallback, math.inf), inputs.clone()

        around = Starts(inputs, predicted) if starts is None else as_starts(model, starts)
        for rows, ends in around.nearest(inputs, predicted, num_starts):
            adv, norm = walk(model.at(rows), inputs[rows], ends - inputs[rows], predicted[rows], steps)
            nearer = norm < best_norm[rows]
            best_norm[rows[nearer]], adv_inputs[rows[nearer]] = norm[nearer], adv[nearer]
    return verified_result(
        model,
        inputs,
        adv_inputs,
        best_norm.isfinite(),
        predicted=predicted,
        margin=margin,
        fallback=fallback,
    )


def walk(model: CountedModel, inputs: Tensor, delta: Tensor, predicted: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Turn the direction of ``delta`` towards the boundary, step by step.

    Returns:
        ``(adv_inputs, norm)``: the nearest points where the prediction was seen to change, and their distances, which
        are inf if there is none.
    """
    origin = inputs.to(working_dtype(inputs))
    direction, expected = unit(delta.to(origin)), perturbation_norm(delta.to(origin))
    best, best_norm = inputs.clone(), torch.full_like(expected, math.inf)
    weight = torch.ones_like(expected)
    for number in range(steps + 1):
        points, crossed = closest_crossing(model, inputs, direction, predicted, expected)
        norm = torch.where(crossed, perturbation_norm(points.to(origin) - origin), math.inf)
        nearer = norm < best_norm
        best, best_norm = torch.where(per_example(nearer, best), points, best), norm.minimum(best_norm)
        if number == steps or not best_norm.isfinite().any():
            break
        step = best.to(origin) - origin
        margin, gradient, _ = margin_and_gradient(model, best, predicted)
        offset = margin - (gradient * step).flatten(1).sum(1)  # the linearized margin at the input
        plane_step, _ = project_to_plane(origin, gradient, offset.clamp(min=0))
        # After a turn that led no nearer, the next turn is smaller.
        weight = torch.where(nearer, 1.0, weight / 2)
        direction = unit(torch.lerp(unit(step), unit(plane_step), per_example(weight, step)))
        expected = torch.where(best_norm.isfinite(), best_norm, expected)
    return best, best_norm
