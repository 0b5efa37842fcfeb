"""Robustness estimates from one pass through the model: the logit margin, the confidence, the first-order margin."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from aradals.attacks.base import AttackResult, attacked, estimate_result
from aradals.checks import check_norm_order, check_output
from aradals.geometry import linear_distance
from aradals.inference.gradients import (
    class_margin,
    forward_with_graph,
    input_gradient,
)


def logit_margin(model: nn.Module, inputs: Tensor) -> AttackResult:
    """Logit of the predicted class minus the logit of the runner-up, by one forward pass.

    The score is in logits, not in input units, so that it ranks examples but is not a distance.

    Args:
        model: maps inputs in [0, 1] to logits of shape (N, K).
        inputs: shape (N, ...), values in [0, 1].

    Raises:
        InputError: inputs outside [0, 1]; logits that are NaN, of a wrong shape, or probabilities.
    """
    with attacked(model, inputs) as (model, inputs), torch.no_grad():
        _, logits = forward_with_graph(model, inputs)
        margin, predicted, _ = class_margin(check_output(logits, len(inputs)))
    return estimate_result(model, inputs, margin, predicted=predicted, margin=margin, sound=margin.isfinite())


def log_odds(model: nn.Module, inputs: Tensor) -> AttackResult:
    """Log-odds of the confidence of the prediction, by one forward pass.

    The log-odds log c/(1 - c) are the predicted class's logit minus the log-sum-exp of the other logits. They rank
    examples as the probability c does, but they do not saturate. In single precision, c is exactly 1 for every lead of
    17 logits or more, so that all these examples tie. The score is in logits, and negative if c is below 1/2.

    Args:
        model: maps inputs in [0, 1] to logits of shape (N, K).
        inputs: shape (N, ...), values in [0, 1].

    Raises:
        InputError: inputs outside [0, 1]; logits that are NaN, of a wrong shape, or probabilities.
    """
    with attacked(model, inputs) as (model, inputs), torch.no_grad():
        _, logits = forward_with_graph(model, inputs)
        margin, predicted, _ = class_margin(check_output(logits, len(inputs)))
        others = logits.scatter(1, predicted[:, None], -math.inf)
        log_odds = logits.amax(1) - others.logsumexp(1)
    return estimate_result(model, inputs, log_odds, predicted=predicted, margin=margin, sound=log_odds.isfinite())


def first_order_margin(model: nn.Module, inputs: Tensor, *, norm_order: float = 2) -> AttackResult:
    """Distance to the linearized boundary with the runner-up, by one forward and one backward pass.

    The score is the logit margin over the dual norm of its gradient, in input units. If the gradient vanishes or puts
    the boundary outside the box, the score is 0 and the example is marked as failed.

    Args:
        model: maps inputs in [0, 1] to logits of shape (N, K).
        inputs: shape (N, ...), values in [0, 1].
        norm_order: 2 or inf.

    Raises:
        InputError: inputs outside [0, 1]; logits that are NaN, of a wrong shape, or probabilities; another norm.

    References:
        Hein and Andriushchenko, Formal guarantees on the robustness of a classifier against adversarial manipulation,
        NeurIPS 2017, arXiv:1705.08475, theorem 2.1, with the local slope in place of the Lipschitz constant.
    """
    check_norm_order(norm_order)
    with attacked(model, inputs) as (model, inputs):
        points, logits = forward_with_graph(model, inputs)
        check_output(logits, len(inputs))
        margin, predicted, _ = class_margin(logits)
        gradient = input_gradient(margin, points)
    margin = margin.detach()
    score = linear_distance(margin, gradient, norm_order)
    sound = gradient.flatten(1).ne(0).any(1) & ((score > 0) | (margin == 0))
    return estimate_result(model, inputs, score, predicted=predicted, margin=margin, sound=sound)
