"""The interface of every attack: its arguments, its result, and the steps that several attacks share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from aradals.geometry import box_diagonal, per_example, perturbation_norm
from aradals.inference.gradients import gradients_enabled, model_inputs
from aradals.inference.outputs import logit_model

_MAX_VERIFICATIONS = 20


@dataclass(frozen=True)
class AttackResult:
    """Result of an attack: the distance of each input to a change of the model's own prediction.

    Estimates and verified norms are separate: ``score`` ranks the examples, and ``norm`` is a verified upper bound.

    Attributes:
        adv_inputs: shape (N, ...), values in [0, 1]; the unchanged input if no perturbation was verified.
        predicted: int64, shape (N,); the class predicted for the unperturbed input.
        score: shape (N,), finite; larger = more robust. An estimate of the smallest norm if the attack succeeded,
            else the first-order margin at the input.
        margin: shape (N,), finite; the logit of the predicted class minus the next largest logit at the input. It
            ranks examples without a gradient.
        norm: shape (N,); norm of ``adv_inputs - inputs``, verified to change the prediction; inf if no perturbation
            was verified.
        success: bool, shape (N,); true if the search ended at a boundary. The scores of all other examples are
            fallbacks.
        num_forward: int64, shape (N,); forward passes spent on each example.
        num_backward: int64, shape (N,); backward passes, one for each gradient.
    """

    adv_inputs: Tensor
    predicted: Tensor
    score: Tensor
    margin: Tensor
    norm: Tensor
    success: Tensor
    num_forward: Tensor
    num_backward: Tensor


class Attack(Protocol):
    """Search for the smallest perturbation, within [0, 1], that changes the model's own prediction.

    An attack does not change the model: its modes, parameters and their gradients stay the same.
    """

    def __call__(self, model: nn.Module, inputs: Tensor, /) -> AttackResult:
        """Attack ``inputs`` of shape (N, ...), values in [0, 1]."""
        ...


class CountedModel(nn.Module):
    """Model that counts the passes of every example through it.

    Args:
        model: the model.
        num_forward: int64, shape (N,), the forward passes so far.
        num_backward: int64, shape (N,), the backward passes so far, one for each gradient.
        rows: int64, shape (n,); the examples that the inputs of a call belong to.
    """

    def __init__(self, model: nn.Module, num_forward: Tensor, num_backward: Tensor, rows: Tensor) -> None:
        super().__init__()
        self.model, self.num_forward, self.num_backward, self.rows = model, num_forward, num_backward, rows

    def at(self, rows: Tensor) -> CountedModel:
        """Return the model for some of the examples, with the same counts."""
        return CountedModel(self.model, self.num_forward, self.num_backward, self.rows[rows])

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits as the model returns them."""
        self.num_forward[self.rows] += 1
        if inputs.requires_grad:
            inputs.register_hook(self._count_backward)
        logits: Tensor = self.model(inputs)
        return logits

    def _count_backward(self, gradient: Tensor) -> None:
        self.num_backward[self.rows] += 1


@contextmanager
def attacked(model: nn.Module, inputs: Tensor) -> Iterator[tuple[CountedModel, Tensor]]:
    """Prepare the model for an attack: evaluation mode, gradients, and a count of its passes.

    An attack within another attack continues its count.

    Yields:
        The model, and a copy of ``inputs`` as the model takes them.

    Raises:
        InputError: an input is outside [0, 1].
    """
    with gradients_enabled(model):
        inputs = model_inputs(model, inputs)
        if not isinstance(model, CountedModel):
            none = torch.zeros(len(inputs), dtype=torch.int64, device=inputs.device)
            rows = torch.arange(len(inputs), device=inputs.device)
            model = CountedModel(logit_model(model), none, none.clone(), rows)
        yield model, inputs


def prediction_changes(model: nn.Module, points: Tensor, predicted: Tensor) -> Tensor:
    """Test if the model predicts another class than ``predicted`` at each of ``points``; bool, shape (N,)."""
    with torch.no_grad():
        logits: Tensor = model(points.clone())
    # argmax takes NaN for the largest value, but NaN logits do not mean that the prediction has changed.
    return (logits.argmax(1) != predicted) & ~logits.isnan().any(1)


def verified_result(
    model: CountedModel,
    inputs: Tensor,
    adv_inputs: Tensor,
    success: Tensor,
    *,
    predicted: Tensor,
    margin: Tensor,
    fallback: Tensor,
    norm_order: float = 2,
) -> AttackResult:
    """Make the record of an attack that ended at ``adv_inputs`` and verified ``success`` there.

    ``fallback``, shape (N,), is the finite score of the examples without success.
    """
    norm = perturbation_norm(adv_inputs.double() - inputs.double(), norm_order).to(fallback.dtype)
    return AttackResult(
        adv_inputs=torch.where(per_example(success, inputs), adv_inputs, inputs),
        predicted=predicted,
        score=torch.where(success, norm, fallback),
        margin=margin.detach(),
        norm=torch.where(success, norm, math.inf),
        success=success,
        num_forward=model.num_forward[model.rows],
        num_backward=model.num_backward[model.rows],
    )


def estimate_result(
    model: CountedModel, inputs: Tensor, score: Tensor, *, predicted: Tensor, margin: Tensor, sound: Tensor
) -> AttackResult:
    """Make the record of an estimate that verified no norm."""
    return AttackResult(
        adv_inputs=inputs,
        predicted=predicted,
        score=score.detach(),
        margin=margin.detach(),
        norm=torch.full_like(score.detach(), math.inf),
        success=sound,
        num_forward=model.num_forward[model.rows],
        num_backward=model.num_backward[model.rows],
    )


def closest_crossing(
    model: CountedModel, inputs: Tensor, direction: Tensor, predicted: Tensor, estimate: Tensor
) -> tuple[Tensor, Tensor]:
    """Find the smallest step along ``direction`` that changes the prediction, within 1 %, by forward passes.

    The first step ends a little beyond ``estimate``. Its relative change is doubled until a crossing is bracketed;
    then the bracket is bisected.

    Args:
        model: in evaluation mode.
        inputs: shape (N, ...), in [0, 1].
        direction: shape (N, ...), of unit norm or 0.
        predicted: int64, shape (N,).
        estimate: shape (N,), finite, >= 0; the expected distance of the crossing.

    Returns:
        ``(adv_inputs, crossed)``.
    """
    longest = box_diagonal(inputs)
    shortest = longest * torch.finfo(inputs.dtype).eps
    length = (1.005 * estimate).clamp(shortest, longest)
    lower, upper = torch.zeros_like(length), torch.full_like(length, math.inf)
    # This is clearly less than the precision, so that rounding does not decide if a bracket is narrow enough.
    change = torch.full_like(length, 0.009)
    adv_inputs = inputs.clone()
    active = torch.arange(len(inputs), device=inputs.device)
    for _ in range(_MAX_VERIFICATIONS):
        points = inputs[active] + per_example(length[active], inputs) * direction[active]
        points = points.clamp(0, 1).to(inputs.dtype)
        crossed = prediction_changes(model.at(active), points, predicted[active])
        adv_inputs[active[crossed]] = points[crossed]
        upper[active[crossed]] = length[active[crossed]]
        lower[active[~crossed]] = length[active[~crossed]]
        bracketed = (lower > 0) & upper.isfinite()
        outside = torch.where(upper.isfinite(), length / (1 + change), length * (1 + change)).clamp(max=longest)
        change = torch.where(bracketed, change, 2 * change)
        settled = torch.where(bracketed, upper <= 1.01 * lower, (lower >= longest) | (upper <= shortest))
        length = torch.where(bracketed, (lower * upper).sqrt(), outside)
        active = active[~settled[active]]
        if len(active) == 0:
            break
    return adv_inputs, upper.isfinite()
