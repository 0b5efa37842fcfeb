"""What every attack takes and returns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from aradals.errors import InputError


@dataclass(frozen=True)
class AttackResult:
    """The smallest perturbations found that change the model's own predictions.

    Attributes:
        adv_inputs: shape (N, ...), values in [0, 1]; the unchanged input where no perturbation was found.
        predicted: int64, shape (N,); the class predicted for the unperturbed input.
        score: shape (N,), finite; larger = more robust. The norm where the attack succeeded, else the
            first-order margin.
        norm: shape (N,); L2 norm of ``adv_inputs - inputs``, inf where no perturbation was found.
        success: bool, shape (N,); whether ``adv_inputs`` was seen to change the prediction.
        num_forward: int64, shape (N,); forward passes spent on each example.
        num_backward: int64, shape (N,); backward passes, one for each gradient.
    """

    adv_inputs: Tensor
    predicted: Tensor
    score: Tensor
    norm: Tensor
    success: Tensor
    num_forward: Tensor
    num_backward: Tensor


class Attack(Protocol):
    """Looks for the smallest L2 perturbation, within [0, 1], that changes the model's own prediction.

    It leaves the model as it found it: modes, parameters, and their gradients.
    """

    def __call__(self, model: nn.Module, inputs: Tensor, /) -> AttackResult:
        """Attack ``inputs`` of shape (N, ...), values in [0, 1]."""
        ...


def prediction_changes(model: nn.Module, points: Tensor, predicted: Tensor) -> Tensor:
    """Whether each of ``points`` is predicted as another class than ``predicted``, bool, shape (N,)."""
    with torch.no_grad():
        logits: Tensor = model(points.clone())
    # argmax takes NaN for the largest value, but a model that breaks has not changed its mind.
    return (logits.argmax(1) != predicted) & ~logits.isnan().any(1)


def attack_result(
    inputs: Tensor,
    adv_inputs: Tensor,
    success: Tensor,
    *,
    predicted: Tensor,
    fallback: Tensor,
    num_forward: Tensor,
    num_backward: Tensor,
) -> AttackResult:
    """The record of an attack that ended at ``adv_inputs`` and saw ``success`` there.

    ``fallback``, shape (N,), is the finite score of the examples without success.
    """
    norm = (adv_inputs.double() - inputs.double()).flatten(1).norm(dim=1).to(fallback.dtype)
    return AttackResult(
        adv_inputs=torch.where(per_example(success, inputs), adv_inputs, inputs),
        predicted=predicted,
        score=torch.where(success, norm, fallback),
        norm=torch.where(success, norm, math.inf),
        success=success,
        num_forward=num_forward,
        num_backward=num_backward,
    )


def per_example(values: Tensor, like: Tensor) -> Tensor:
    """``values`` of shape (N,), shaped to broadcast against ``like`` of shape (N, ...)."""
    return values.view(-1, *[1] * (like.ndim - 1))


def check_positive(**settings: float) -> None:
    """Raise InputError unless every setting is greater than 0."""
    for name, value in settings.items():
        if not value > 0:
            raise InputError(expected=f"{name} > 0", got=f"{name}={value}", hint="leaving it at its default")
