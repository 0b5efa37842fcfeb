"""Examples that a search starts from, on the other side of the boundary."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from aradals.attacks.base import CountedModel, prediction_changes
from aradals.errors import InputError
from aradals.geometry import per_example, working_dtype
from aradals.inference.gradients import model_inputs
from aradals.inference.predictions import evaluation_mode

NUM_STARTS = 6
"""Number of starts for each input that a search of many boundaries needs."""

_HALVINGS = 3


@dataclass(frozen=True, eq=False)
class Starts:
    """Examples that a search starts from.

    Their text form names their number and the digest of their content, so that descriptions of attacks stay short.

    Attributes:
        inputs: shape (M, ...), values in [0, 1].
        predicted: int64, shape (M,); the classes that the attacked model predicts for them.
    """

    inputs: Tensor
    predicted: Tensor

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
