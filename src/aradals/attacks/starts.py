"""Where a search starts apart from its input: examples of other classes, and points on boundaries near examples."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from aradals.attacks.base import CountedModel, prediction_changes
from aradals.errors import InputError
from aradals.geometry import per_example, working_dtype
from aradals.inference.gradients import model_inputs
from aradals.inference.predictions import evaluation_mode

NUM_STARTS = 3
"""Number of starts for each input that a search of many boundaries needs."""

_HALVINGS = 3
_ALONG, _BEYOND = 0.3, 1.02


@dataclass(frozen=True, eq=False)
class Boundaries:
    """Points on decision boundaries, each with the plane that touches the boundary there.

    Attributes:
        points: shape (B, ...).
        normals: shape (B, ...), of unit norm; they point to the side of ``inside``.
        inside: int64, shape (B,); the class on one side.
        outside: int64, shape (B,); the class on the other side.
        missed: bool, shape (B,); true if gradients from the example led to no boundary, or to one much farther away.
    """

    points: Tensor
    normals: Tensor
    inside: Tensor
    outside: Tensor
    missed: Tensor

    def __add__(self, others: Boundaries) -> Boundaries:
        pairs = ((getattr(self, field.name), getattr(others, field.name)) for field in fields(self))
        return Boundaries(*map(torch.cat, pairs))

    def steps(self, inputs: Tensor, predicted: Tensor, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Choose up to ``count`` planes around the class of each input, and project the input on them.

        The plane with the nearest point comes first. Then come the planes that are near themselves: distances along a
        plane count less than those across, because a boundary that is nearly flat continues beyond its point.

        Args:
            inputs: shape (N, ...).
            predicted: int64, shape (N,).
            count: number of planes for each input.

        Yields:
            ``(rows, steps)``: the inputs that have a further plane, int64, shape (n,), and the steps from these
            inputs to a little beyond their planes, shape (n, ...).
        """
        if len(self.points) == 0:
            return
        flat, normals = inputs.flatten(1).to(self.normals.dtype), self.normals.flatten(1)
        # One point at a time, because a product of matrices rounds differently in batches of another size.
        ways = [(normal, flat - point) for normal, point in zip(normals, self.points.flatten(1), strict=True)]
        heights = torch.stack([(normal * way).sum(1) for normal, way in ways], 1)
        squares = torch.stack([way.square().sum(1) for _, way in ways], 1)
        around = torch.where(heights > 0, self.inside, self.outside) == predicted[:, None]
        far = (heights.square() + _ALONG**2 * (squares - heights.square())).masked_fill(~around, math.inf)
        for number in range(min(count, len(self.points))):
            order = far if number else squares.masked_fill(~around, math.inf)
            chosen = order.argmin(1)
            rows = order.gather(1, chosen[:, None])[:, 0].isfinite().nonzero()[:, 0]
            if len(rows) == 0:
                break
            height = heights[rows, chosen[rows]]
            yield rows, (-_BEYOND * height[:, None] * normals[chosen[rows]]).view_as(inputs[rows])
            far = far.scatter(1, chosen[:, None], math.inf)


@dataclass(eq=False)
class Starts:
    """Examples that a search starts from.

    Their text form names their number and the digest of their content, so that descriptions of attacks stay short.

    Attributes:
        inputs: shape (M, ...), values in [0, 1].
        predicted: int64, shape (M,); the classes that the attacked model predicts for them.
        boundaries: the boundaries nearest to them, once a search has found these.
    """

    inputs: Tensor
    predicted: Tensor
    boundaries: Boundaries | None = None

    def __repr__(self) -> str:
        digest = hashlib.sha256(self.inputs.double().cpu().numpy().tobytes()).hexdigest()
        return f"Starts({len(self.inputs)} examples, {digest[:12]})"

    def nearest(self, inputs: Tensor, predicted: Tensor, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Choose up to ``count`` examples of other classes for each input: the nearest of each class come first.

        Args:
            inputs: shape (N, ...).
            predicted: int64, shape (N,).
            count: number of examples for each input.

        Yields:
            ``(rows, chosen)``: the inputs that have a further example, int64, shape (n,), and these examples, shape
            (n, ...).
        """
        flat, others = (each.flatten(1).to(working_dtype(each)) for each in (inputs, self.inputs))
        # The other ways to compute distances round differently in batches of another size.
        distances = torch.cdist(flat, others, compute_mode="donot_use_mm_for_euclid_dist")
        distances = distances.masked_fill(self.predicted == predicted[:, None], math.inf)
        order = distances.sort(dim=1, stable=True).indices
        classes = self.predicted.unique(return_inverse=True)[1][order]
        round_number = nn.functional.one_hot(classes).cumsum(1).gather(2, classes[..., None])[..., 0]
        ends = distances.gather(1, order).isinf()
        order = order.gather(1, round_number.masked_fill(ends, len(others) + 1).sort(dim=1, stable=True).indices)
        for chosen in order[:, :count].T:
            rows = distances.gather(1, chosen[:, None])[:, 0].isfinite().nonzero()[:, 0]
            if len(rows) == 0:
                break
            yield rows, self.inputs[chosen[rows]]


def as_starts(model: nn.Module, starts: Starts | Tensor) -> Starts:
    """Return the examples with the classes that ``model`` predicts for them.

    Raises:
        InputError: ``starts`` is something else; inputs outside [0, 1].
    """
    if isinstance(starts, Starts):
        return starts
    if not isinstance(starts, Tensor):
        raise InputError(
            expected="examples to start from: a tensor of shape (M, ...), or None",
            got=repr(starts),
            hint="leaving out `starts`, because a scoring draws them from its data",
        )
    with evaluation_mode(model), torch.no_grad():
        inputs = model_inputs(model, starts)
        return Starts(inputs, model(inputs.clone()).argmax(1))


def step_across(model: CountedModel, inputs: Tensor, ends: Tensor, predicted: Tensor) -> Tensor:
    """Halve the straight way from ``inputs`` to ``ends`` a few times; return the shortest step seen to change class.

    Args:
        model: in evaluation mode.
        inputs: shape (N, ...).
        ends: shape (N, ...); points where the model predicts another class than ``predicted``.
        predicted: int64, shape (N,).
    """
    way = ends.to(working_dtype(inputs)) - inputs
    lower = way.new_zeros(len(way))
    upper = torch.ones_like(lower)
    for _ in range(_HALVINGS):
        middle = (lower + upper) / 2
        points = (inputs + per_example(middle, way) * way).to(inputs.dtype)
        crossed = prediction_changes(model, points, predicted)
        lower, upper = torch.where(crossed, lower, middle), torch.where(crossed, middle, upper)
    return per_example(upper, way) * way
