"""The secant attack: a few linearizations, which give nearly the ranking of a long search."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from aradals.attacks.base import AttackResult, closest_crossing
from aradals.checks import check_logits, check_positive
from aradals.errors import InputError
from aradals.geometry import (
    box_diagonal,
    linear_distance,
    per_example,
    perturbation_norm,
    project_to_plane,
    unit,
    working_dtype,
)
from aradals.inference.gradients import (
    forward_with_graph,
    gradients_enabled,
    input_gradient,
    margin_and_gradient,
    model_inputs,
)

_MAX_CANDIDATES = 10
_STEEPER = 1.15


def secant(
    model: nn.Module,
    inputs: Tensor,
    *,
    num_candidates: int = 3,
    reach: float = 1.1,
    steps: int = 6,
    tolerance: float = 0.05,
    verified: bool = False,
) -> AttackResult:
    r"""Distance to the nearest decision boundary, L2, within the box [0, 1], by a few damped linearizations.

    1. Linearize the margins over the strongest rivals at the input, and project the input on each of their planes.
    2. Start from the nearest plane, then from the other planes within reach. Linearize the margin at the current
       point, and project the *input* on the new plane. This step gives two estimates of the distance: the distance to
       the plane, and the secant through the margins at both ends of the step. The first estimate is too short if the
       boundary curves away. The second is too long as long as the direction is not the best one. The score is their
       geometric mean. The next point lies at this distance, in the running mean of the directions so far; the t-th
       direction has the weight 2 / (t + 1). This damping prevents oscillations, which occur if the radius of curvature
       of the boundary is smaller than the distance.
    3. An example is done when the two estimates agree.

    Args:
        model: maps inputs in [0, 1] to logits of shape (N, K).
        inputs: shape (N, ...), values in [0, 1].
        num_candidates: number of other classes, largest logits first, that are linearized at the input. The number
            rises to up to 10 if the logits of further classes are close, and always with ``verified``.
        reach: a further candidate is followed if its plane is nearer than this multiple of the score so far.
        steps: largest number of linearizations for each class that is followed, including the one at the input.
        tolerance: the two estimates agree if the logarithm of their ratio is smaller than this.
        verified: search along the final direction, by a few forward passes, for a point where the prediction changes;
            its norm is ``norm``. The score remains an estimate.

    Raises:
        InputError: inputs outside [0, 1]; logits that are NaN, of a wrong shape, or probabilities.

    References:
        The method is new. It takes two ideas from others: the projection of the input, not of the current point, from
        Croce and Hein, Minimally distorted adversarial examples with a fast adaptive boundary attack, ICML 2020,
        arXiv:1907.02044, section 3; and the choice among planes from DeepFool (`aradals.attacks.deepfool`).
    """
    check_positive(num_candidates=num_candidates, steps=steps, tolerance=tolerance)
    if reach < 1:
        raise InputError(expected="reach >= 1", got=f"reach={reach}", hint="reach=1.0 to follow only the nearest class")
    with gradients_enabled(model):
        inputs = model_inputs(model, inputs)
        origin = inputs.to(working_dtype(inputs))
        points, logits = forward_with_graph(model, inputs)
        check_logits(logits, len(inputs))
        predicted = logits.argmax(1)
        margins = logits.gather(1, predicted[:, None]) - logits
        # Logits that differ by less than their rounding are a tie. A tie counts as a margin as wide as the rounding.
        rounding = torch.finfo(inputs.dtype).eps * logits.detach().abs().amax(1, keepdim=True)
        margins_at_input = margins.detach().maximum(rounding).scatter(1, predicted[:, None], math.inf)

        # 1. Compute the planes of the candidates, linearized at the input. The first few candidates count for every
        # example. A further candidate counts only if its plane would be the nearest with a gradient a little steeper
        # than the steepest so far.
        num_first = min(max(num_candidates, _MAX_CANDIDATES if verified else 1), logits.shape[1] - 1)
        num_candidates = min(max(num_first, _MAX_CANDIDATES), logits.shape[1] - 1)
        margin, candidates = margins_at_input.topk(num_candidates, largest=False)
        distances, steepest = torch.full_like(margin, math.inf), torch.zeros_like(margin[:, 0])
        starts = origin.new_zeros(len(inputs), num_candidates, *inputs.shape[1:])
        num_forward, num_backward = torch.ones_like(predicted), torch.zeros_like(predicted)
        for k in range(num_candidates):
            if k < num_first:
                rows = torch.arange(len(inputs), device=inputs.device)
                gradient = input_gradient(margins.gather(1, candidates[:, [k]])[:, 0], points, keep_graph=True)
            else:
                rows = (margin[:, k] < _STEEPER * steepest * distances.amin(1)).nonzero()[:, 0]
                if len(rows) == 0:
                    break
                _, gradient, _ = margin_and_gradient(model, inputs[rows], predicted[rows], candidates[rows, k])
                num_forward[rows] += 1
            num_backward[rows] += 1
            if k == 0:
                fallback = linear_distance(margin[:, 0], gradient)
            delta, reachable = project_to_plane(origin[rows], gradient, margin[rows, k])
            distance = torch.where(reachable, perturbation_norm(delta), box_diagonal(inputs))
            slope = perturbation_norm(gradient)
            distances[rows, k] = torch.where(slope > 0, distance, math.inf)
            steepest[rows] = steepest[rows].maximum(slope)
            starts[rows, k] = delta
        distances, nearest = distances.sort(1)

        # 2. Start from the nearest plane, then from the other planes within reach.
        best, direction = torch.full_like(fallback, math.inf), torch.zeros_like(origin)
        for rank in range(num_candidates):
            rows = (distances[:, rank] < reach * best).nonzero()[:, 0]
            if len(rows) == 0:
                break  # further candidates are no nearer
            start = starts[rows, nearest[rows, rank]]
            # The first search may change to a class that turns out to be nearer. The later searches keep their class.
            # Otherwise they would return to the boundary that the first search has found.
            rival = None if rank == 0 else candidates[rows, nearest[rows, rank]]
            distance, delta, num_passes = _follow(
                model, inputs[rows], start, predicted[rows], rival, margins_at_input[rows], steps, tolerance
            )
            num_forward[rows] += num_passes
            num_backward[rows] += num_passes
            nearer = distance < best[rows]
            best[rows] = torch.where(nearer, distance, best[rows])
            direction[rows[nearer]] = unit(delta[nearer])

        found = best < box_diagonal(inputs)  # a boundary as far away as the box's diagonal is not within the box
        success, adv_inputs = found, inputs
        if verified:
            adv_inputs, success, num_checks = closest_crossing(
                model, inputs, direction, predicted, torch.where(found, best, fallback)
            )
            num_forward += num_checks
    norm = perturbation_norm(adv_inputs.double() - inputs.double()).to(best.dtype)
    return AttackResult(
        adv_inputs=adv_inputs,
        predicted=predicted,
        score=torch.where(success, torch.where(found, best, norm), fallback),
        norm=torch.where(success & verified, norm, math.inf),
        success=success,
        num_forward=num_forward,
        num_backward=num_backward,
    )


def _follow(
    model: nn.Module,
    inputs: Tensor,
    delta: Tensor,
    predicted: Tensor,
    rival: Tensor | None,
    margins_at_input: Tensor,
    steps: int,
    tolerance: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run steps 2 and 3 from the plane at ``inputs + delta``.

    Returns:
        ``(distance, delta, num_passes)``: the estimate, shape (N,), which is inf if the last linearization gave no
        distance; its direction, shape (N, ...); and the number of forward passes, which is also the number of backward
        passes.
    """
    origin, longest = inputs.to(delta.dtype), box_diagonal(inputs)
    distance, num_passes = perturbation_norm(delta), torch.zeros_like(predicted)
    # A step shorter than the rounding of the inputs cannot be taken.
    active = (distance > longest * torch.finfo(inputs.dtype).eps).nonzero()[:, 0]
    for number in range(2, steps + 1):
        if len(active) == 0:
            break
        x = origin[active]
        points = (x + delta[active]).clamp(0, 1).to(inputs.dtype)
        step = points.to(x) - x
        margin, gradient, other = margin_and_gradient(
            model, points, predicted[active], None if rival is None else rival[active]
        )
        num_passes[active] += 1

        offset = margin - (gradient * step).flatten(1).sum(1)  # the linearized margin at the input
        plane_step, reachable = project_to_plane(x, gradient, offset)
        plane = torch.where((offset > 0) & reachable, perturbation_norm(plane_step), math.nan)
        at_input = margins_at_input[active].gather(1, other[:, None])[:, 0]
        secant = perturbation_norm(step) * at_input / (at_input - margin)
        secant = torch.where((margin < at_input) & (secant > 0), secant, math.nan)
        # If only one of the two estimates is valid, it is used alone.
        estimate = (torch.where(plane.isnan(), secant, plane) * torch.where(secant.isnan(), plane, secant)).sqrt()
        estimate = estimate.clamp(max=longest)
        distance[active] = estimate.nan_to_num(math.inf)

        pointed = estimate.isfinite()
        weight = torch.full_like(plane, 2 / (number + 1)).masked_fill(plane.isnan(), 0.0)
        direction = torch.lerp(unit(step), unit(plane_step), per_example(weight, step))
        delta[active[pointed]] = (per_example(estimate, step) * unit(direction))[pointed]
        agreed = (plane / secant).log().abs() < tolerance
        active = active[pointed & ~agreed]
    return distance, delta, num_passes
