"""The secant attack: a few linearizations, which give nearly the ranking of a long search."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from aradals.attacks.base import (
    AttackResult,
    CountedModel,
    attacked,
    closest_crossing,
    estimate_result,
    prediction_changes,
    verified_result,
)
from aradals.attacks.starts import NUM_STARTS, Boundaries, Starts, as_starts, step_across
from aradals.checks import check_output, check_positive
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
from aradals.inference.gradients import forward_with_graph, input_gradient, margin_and_gradient, margin_rounding

_MAX_CANDIDATES = 10
_STEEPER = 1.15


def secant(
    model: nn.Module,
    inputs: Tensor,
    *,
    num_candidates: int = 3,
    accurate: bool = False,
    reach: float | None = None,
    steps: int | None = None,
    tolerance: float | None = None,
    verified: bool = False,
    num_starts: int | None = None,
    starts: Starts | Tensor | None = None,
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
    4. With ``starts``, because in flat regions no gradient at the input points to the nearest boundary: find the
       boundary nearest to each of these examples once, by steps 1 to 3 and on the straight lines to two examples of
       other classes. Linearized there, these boundaries give planes that need no gradient at the input. Follow the
       boundary from the nearest of these planes, too, as long as it stays within reach. If no boundary was found so
       far, take the straight ways. Forward passes verify every boundary, and the score is the smallest verified norm.

    Args:
        model: maps inputs in [0, 1] to logits of shape (N, K).
        inputs: shape (N, ...), values in [0, 1].
        num_candidates: number of other classes, largest logits first, that are linearized at the input. The number
            rises to up to 10 if the logits of further classes are close, and always with ``verified``.
        accurate: search farther, longer and to a smaller tolerance, in 9 to 20 passes instead of 7.
        reach: a further candidate is followed if its plane is nearer than this multiple of the score so far; 1.1 by
            default, 1.5 if ``accurate``.
        steps: largest number of linearizations for each class that is followed, including the one at the input; 6 by
            default, 10 if ``accurate``.
        tolerance: the two estimates agree if the logarithm of their ratio is smaller than this; 0.05 by default, 0.02
            if ``accurate``.
        verified: search along the final direction, by a few forward passes, for a point where the prediction changes;
            its norm is ``norm``. The score remains an estimate, except with ``starts``.
        num_starts: number of boundaries near other examples that the search starts from, for each input; 0 for none,
            3 by default. `aradals.score` decides by default, see there.
        starts: the other examples, shape (M, ...), or these with their predicted classes; none by default.
            `aradals.score` draws them from the data by default.

    Raises:
        InputError: inputs outside [0, 1]; logits that are NaN, of a wrong shape, or probabilities.

    References:
        The method is new. It takes two ideas from others: the projection of the input, not of the current point, from
        Croce and Hein, Minimally distorted adversarial examples with a fast adaptive boundary attack, ICML 2020,
        arXiv:1907.02044, section 3; and the choice among planes from DeepFool (`aradals.attacks.deepfool`).
    """
    check_positive(num_candidates=num_candidates)
    given: dict[str, Any] = {"reach": reach, "steps": steps, "tolerance": tolerance}
    given = {name: value for name, value in given.items() if value is not None}
    search = replace(_ACCURATE if accurate else _FAST, **given)
    num_starts = NUM_STARTS if num_starts is None else num_starts
    if not isinstance(num_starts, int) or num_starts < 0:
        hint = "num_starts=0 for none"
        raise InputError(expected="num_starts, a number from 0", got=f"num_starts={num_starts!r}", hint=hint)
    with attacked(model, inputs) as (model, inputs):
        planes = candidate_planes(model, inputs, max(num_candidates, _MAX_CANDIDATES if verified else 1))
        distance, direction = follow(model, inputs, planes, search)
        if starts is not None and num_starts > 0:
            starts = as_starts(model.model, starts)
            if starts.boundaries is None:
                everyone = torch.arange(len(starts.inputs), device=inputs.device)
                starts.boundaries = boundaries_near(model.model, starts, everyone, len(inputs))
            nearest = Nearest.along(model, inputs, planes, distance, direction)
            for rows, delta in starts.boundaries.steps(inputs, planes.predicted, num_starts):
                nearest.follow(rows, delta)
            nowhere = nearest.norm.isinf().nonzero()[:, 0]
            if len(nowhere) > 0:
                nearest.cross(nowhere, starts)
            return nearest.result()
        if verified:
            return verify(model, inputs, planes, distance, direction)
    found = distance.isfinite()
    score = torch.where(found, distance, planes.fallback)
    return estimate_result(model, inputs, score, predicted=planes.predicted, margin=planes.margins.amin(1), sound=found)


@dataclass(frozen=True)
class Search:
    """Settings of the search along boundaries, see `secant`."""

    reach: float
    steps: int
    tolerance: float

    def __post_init__(self) -> None:
        check_positive(steps=self.steps, tolerance=self.tolerance)
        if self.reach < 1:
            hint = "reach=1.0 to follow only the nearest class"
            raise InputError(expected="reach >= 1", got=f"reach={self.reach}", hint=hint)


_FAST, _ACCURATE = Search(reach=1.1, steps=6, tolerance=0.05), Search(reach=1.5, steps=10, tolerance=0.02)
_FROM_STARTS = Search(reach=1.5, steps=6, tolerance=0.05)
_FAR, _NUM_WAYS, _MUCH_NEARER = 3.0, 2, 0.95


@dataclass(frozen=True)
class Planes:
    """Boundaries with C candidates, linearized at the input.

    Attributes:
        predicted: int64, shape (N,).
        margins: leads of the predicted class in logits, at least their rounding; inf for the class itself; shape
            (N, K).
        candidates: other classes, the largest logit first, int64, shape (N, C).
        steps: the shortest step within the box to each plane, shape (N, C, ...).
        distances: length of each step, shape (N, C); inf for planes that do not exist or were not computed.
        fallback: first-order distance to the strongest rival, shape (N,).
    """

    predicted: Tensor
    margins: Tensor
    candidates: Tensor
    steps: Tensor
    distances: Tensor
    fallback: Tensor


def candidate_planes(model: CountedModel, inputs: Tensor, num_first: int) -> Planes:
    """Run step 1: compute the planes of the first few candidates for every example.

    Further candidates, up to 10 in total, count only if their plane would be the nearest with a gradient a little
    steeper than the steepest so far.
    """
    origin = inputs.to(working_dtype(inputs))
    points, logits = forward_with_graph(model, inputs)
    check_output(logits, len(inputs))
    predicted = logits.argmax(1)
    margins = logits.gather(1, predicted[:, None]) - logits
    # Logits that differ by less than their rounding are a tie. A tie counts as a margin as wide as the rounding.
    classes = torch.arange(logits.shape[1], device=logits.device).expand_as(logits)
    rounding = margin_rounding(logits, predicted, classes, torch.finfo(inputs.dtype).eps)
    margins_at_input = margins.detach().maximum(rounding).scatter(1, predicted[:, None], math.inf)

    num_others = logits.shape[1] - 1
    num_candidates = min(max(num_first, _MAX_CANDIDATES), num_others)
    margin, candidates = margins_at_input.topk(num_candidates, largest=False)
    distances, steepest = torch.full_like(margin, math.inf), torch.zeros_like(margin[:, 0])
    steps = origin.new_zeros(len(inputs), num_candidates, *inputs.shape[1:])
    for k in range(num_candidates):
        rows = torch.arange(len(inputs), device=inputs.device)
        if k >= num_first:
            rows = (margin[:, k] < _STEEPER * steepest * distances.amin(1)).nonzero()[:, 0]
            if len(rows) == 0:
                break
        if k == 0:
            gradient = input_gradient(margins.gather(1, candidates[:, :1])[:, 0], points)
            fallback = linear_distance(margin[:, 0], gradient)
        else:
            _, gradient, _ = margin_and_gradient(model.at(rows), inputs[rows], predicted[rows], candidates[rows, k])
        steps[rows, k], reachable = project_to_plane(origin[rows], gradient, margin[rows, k])
        distance = torch.where(reachable, perturbation_norm(steps[rows, k]), box_diagonal(inputs))
        slope = perturbation_norm(gradient)
        distances[rows, k] = torch.where(slope > 0, distance, math.inf)
        steepest[rows] = steepest[rows].maximum(slope)
    return Planes(predicted, margins_at_input, candidates, steps, distances, fallback)


def follow(model: CountedModel, inputs: Tensor, planes: Planes, search: Search) -> tuple[Tensor, Tensor]:
    """Run steps 2 and 3 from the nearest plane, then from the other planes within reach.

    Returns:
        ``(distance, direction)``: the estimate, shape (N,), which is inf if no boundary within the box was found; its
        direction, shape (N, ...), of unit norm or 0.
    """
    distances, nearest = planes.distances.sort(1)
    best, direction = torch.full_like(planes.fallback, math.inf), torch.zeros_like(planes.steps[:, 0])
    for rank in range(distances.shape[1]):
        rows = (distances[:, rank] < search.reach * best).nonzero()[:, 0]
        if len(rows) == 0:
            break  # further candidates are no nearer
        start = planes.steps[rows, nearest[rows, rank]]
        # The first search may change to a class that turns out to be nearer. The later searches keep their class.
        # Otherwise they would return to the boundary that the first search has found.
        rival = None if rank == 0 else planes.candidates[rows, nearest[rows, rank]]
        distance, delta = follow_plane(
            model.at(rows), inputs[rows], start, planes.predicted[rows], rival, planes.margins[rows], search
        )
        nearer = distance < best[rows]
        best[rows] = torch.where(nearer, distance, best[rows])
        direction[rows[nearer]] = unit(delta[nearer])
    # A boundary as far away as the box's diagonal is not within the box.
    return torch.where(best < box_diagonal(inputs), best, math.inf), direction


def follow_plane(
    model: CountedModel,
    inputs: Tensor,
    delta: Tensor,
    predicted: Tensor,
    rival: Tensor | None,
    margins_at_input: Tensor,
    search: Search,
    farthest: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Follow one boundary from the plane at ``inputs + delta``, as long as it is nearer than ``farthest``, shape (N,).

    Returns:
        ``(distance, delta)``: the estimate, shape (N,), which is inf if the last linearization gave no distance; its
        direction, shape (N, ...).
    """
    origin, longest = inputs.to(delta.dtype), box_diagonal(inputs)
    distance = perturbation_norm(delta)
    # A step shorter than the rounding of the inputs cannot be taken.
    active = (distance > longest * torch.finfo(inputs.dtype).eps).nonzero()[:, 0]
    for number in range(2, search.steps + 1):
        if len(active) == 0:
            break
        x = origin[active]
        points = (x + delta[active]).clamp(0, 1).to(inputs.dtype)
        step = points.to(x) - x
        margin, gradient, other = margin_and_gradient(
            model.at(active), points, predicted[active], None if rival is None else rival[active]
        )

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
        agreed = (plane / secant).log().abs() < search.tolerance
        going_on = pointed & ~agreed
        if farthest is not None:
            going_on &= torch.fmin(plane, secant) < farthest[active]
        active = active[going_on]
    return distance, delta


def verify(model: CountedModel, inputs: Tensor, planes: Planes, distance: Tensor, direction: Tensor) -> AttackResult:
    """Make the record with norms that were seen to change the prediction; the scores remain the estimates."""
    expected = torch.where(distance.isfinite(), distance, planes.fallback)
    adv_inputs, crossed = closest_crossing(model, inputs, direction, planes.predicted, expected)
    margin, fallback = planes.margins.amin(1), planes.fallback
    result = verified_result(
        model, inputs, adv_inputs, crossed, predicted=planes.predicted, margin=margin, fallback=fallback
    )
    return replace(result, score=torch.where(crossed & distance.isfinite(), distance, result.score))


@dataclass
class Nearest:
    """The nearest points so far where the prediction was seen to change.

    Attributes:
        model: the attacked model.
        inputs: shape (N, ...).
        planes: the boundaries, linearized at the inputs.
        points: shape (N, ...); the inputs where no point was found.
        norm: shape (N,); inf where no point was found.
    """

    model: CountedModel
    inputs: Tensor
    planes: Planes
    points: Tensor
    norm: Tensor

    @classmethod
    def along(cls, model: CountedModel, inputs: Tensor, planes: Planes, distance: Tensor, direction: Tensor) -> Nearest:
        """Start with the crossings along ``direction``, where a search expects them at ``distance``."""
        nearest = cls(model, inputs, planes, inputs.clone(), torch.full_like(distance, math.inf))
        nearest.verify(torch.arange(len(inputs), device=inputs.device), distance, direction)
        return nearest

    def verify(self, rows: Tensor, distance: Tensor, delta: Tensor) -> None:
        """Search for a crossing along ``delta`` where an estimate ``distance`` promises a nearer one."""
        nearer = distance < self.norm[rows]
        rows, distance, delta = rows[nearer], distance[nearer], delta[nearer]
        if len(rows) == 0:
            return
        origin, predicted = self.inputs[rows], self.planes.predicted[rows]
        points, crossed = closest_crossing(self.model.at(rows), origin, unit(delta), predicted, distance)
        norm = perturbation_norm(points.to(delta.dtype) - origin.to(delta.dtype))
        better = crossed & (norm < self.norm[rows])
        self.points[rows[better]], self.norm[rows[better]] = points[better], norm[better]

    def follow(self, rows: Tensor, delta: Tensor) -> None:
        """Follow the boundary near ``inputs[rows] + delta``, and verify the distance that this gives."""
        near = perturbation_norm(delta) < _FAR * self.norm[rows]
        rows, delta = rows[near], delta[near]
        model, predicted, margins = self.model.at(rows), self.planes.predicted[rows], self.planes.margins[rows]
        farthest = _FROM_STARTS.reach * self.norm[rows]
        distance, direction = follow_plane(
            model, self.inputs[rows], delta.clone(), predicted, None, margins, _FROM_STARTS, farthest
        )
        # If the gradients led far away, the boundary may still be at the plane.
        length, lost = perturbation_norm(delta), torch.zeros_like(predicted, dtype=torch.bool)
        far = (distance > _FROM_STARTS.reach * length).nonzero()[:, 0]
        if len(far) > 0:
            points = (self.inputs[rows[far]] + delta[far]).clamp(0, 1).to(self.inputs.dtype)
            lost[far] = prediction_changes(model.at(far), points, predicted[far])
        direction = torch.where(per_example(lost, delta), delta, direction)
        self.verify(rows, torch.where(lost, length, distance), direction)

    def cross(self, rows: Tensor, starts: Starts) -> None:
        """Find boundaries on the straight ways to two examples of other classes, and follow them."""
        predicted = self.planes.predicted
        for further, ends in starts.nearest(self.inputs[rows], predicted[rows], _NUM_WAYS):
            crossing = rows[further]
            delta = step_across(self.model.at(crossing), self.inputs[crossing], ends, predicted[crossing])
            self.verify(crossing, perturbation_norm(delta), delta)
            self.follow(crossing, delta)

    def result(self) -> AttackResult:
        """Make the record, with the norms as scores."""
        return verified_result(
            self.model,
            self.inputs,
            self.points,
            self.norm.isfinite(),
            predicted=self.planes.predicted,
            margin=self.planes.margins.amin(1),
            fallback=self.planes.fallback,
        )


def boundaries_near(model: nn.Module, starts: Starts, rows: Tensor, batch_size: int) -> Boundaries:
    """Find the boundary nearest to each of some examples: by steps 1 to 3, and on two straight ways to the others."""
    found = [_nearest_boundaries(model, starts, part) for part in rows.split(batch_size)]
    return Boundaries(*map(torch.cat, zip(*found, strict=True)))


def _nearest_boundaries(model: nn.Module, starts: Starts, rows: Tensor) -> tuple[Tensor, ...]:
    with attacked(model, starts.inputs[rows]) as (counted, inputs):
        planes = candidate_planes(counted, inputs, 3)
        nearest = Nearest.along(counted, inputs, planes, *follow(counted, inputs, planes, _FAST))
        alone = nearest.norm.clone()
        nearest.cross(torch.arange(len(inputs), device=inputs.device), starts)
        _, gradient, outside = margin_and_gradient(model, nearest.points, planes.predicted)
        # The input lies on the side of its own class, also where the logits jump and their gradient is misleading.
        side = (gradient * (inputs - nearest.points)).flatten(1).sum(1).sign()
    found = nearest.norm.isfinite() & side.ne(0)
    columns = (
        nearest.points,
        unit(gradient) * per_example(side, gradient),
        planes.predicted,
        outside,
        nearest.norm < _MUCH_NEARER * alone,
    )
    return tuple(column[found] for column in columns)
