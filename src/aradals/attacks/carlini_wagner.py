"""L2 attack of Carlini and Wagner."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor, nn

from aradals.attacks.base import AttackResult, CountedModel, attacked, prediction_changes, verified_result
from aradals.attacks.deepfool import deepfool
from aradals.attacks.margins import first_order_margin
from aradals.checks import check_positive
from aradals.errors import InputError
from aradals.geometry import per_example, working_dtype
from aradals.inference.gradients import class_margin, input_gradient


def carlini_wagner(
    model: nn.Module,
    inputs: Tensor,
    *,
    binary_search_steps: int = 9,
    steps: int = 1000,
    learning_rate: float = 0.01,
    initial_const: float = 1e-3,
    min_margin: float = 0.0,
) -> AttackResult:
    r"""Carlini-Wagner L2 attack, untargeted, on the model's own prediction.

    The attack minimizes :math:`\|\delta\|_2^2 + c \max(z_{pred} - \max_{k \ne pred} z_k + \kappa, 0)` by Adam over w,
    where :math:`x + \delta = (\tanh w + 1)/2`. It searches for the smallest c that succeeds, for each example.

    Args:
        model: maps inputs in [0, 1] to logits of shape (N, K).
        inputs: shape (N, ...), values in [0, 1].
        binary_search_steps: number of constants c that are tried.
        steps: largest number of Adam steps for each c.
        learning_rate: learning rate of Adam, in w, at the start of each search step.
        initial_const: the first c; it is multiplied by 10 until it succeeds, then bisected.
        min_margin: kappa, in logits; the lead that the other class must have.

    Raises:
        InputError: inputs outside [0, 1]; logits that are NaN, of a wrong shape, or probabilities.

    References:
        Carlini and Wagner, Towards evaluating the robustness of neural networks, IEEE S&P 2017,
        arXiv:1608.04644, sections V and VI.A. This code departs from the paper in two points. First, if one step of
        DeepFool crosses a boundary, the search starts there instead of at the input. From the input, the loss leads to
        the class with the second largest logit, which need not be the nearest class. Second, when the loss of an
        example stops falling, its learning rate is divided by 10; at the third time the example leaves the search
        step. At a constant rate the iterates vary by more than the norms of undefended networks.
    """
    check_positive(
        binary_search_steps=binary_search_steps,
        steps=steps,
        learning_rate=learning_rate,
        initial_const=initial_const,
    )
    if min_margin < 0:
        raise InputError(expected="min_margin >= 0", got=f"min_margin={min_margin}", hint="min_margin=0.0")

    with attacked(model, inputs) as (model, inputs):
        first_order = first_order_margin(model, inputs)
        predicted, exact = first_order.predicted, inputs.to(working_dtype(inputs))
        # The start is slightly inside the box. At the bounds of the box w is infinite, and near them its gradient
        # vanishes.
        start = torch.atanh((2 * deepfool(model, inputs, steps=1).adv_inputs.to(exact) - 1) * (1 - 1e-4))
        adv_inputs, best_norm = inputs.clone(), torch.full_like(first_order.score, math.inf)
        stretch = max(steps // 20, 1)

        def minimize(const: Tensor) -> Tensor:
            """Descend with a constant for each example, and keep the best perturbations; return the successes."""
            found = torch.zeros_like(predicted, dtype=torch.bool)
            state = Descent.at(start, learning_rate)
            for step in range(1, steps + 1):
                rows, leaf = state.rows, state.w.detach().clone().requires_grad_()
                adv = (leaf.tanh() + 1) / 2
                logits = model.at(rows)(adv.to(inputs.dtype, copy=True)).to(exact.dtype)
                margin = class_margin(logits, predicted[rows])[0] + min_margin
                squared_norm = (adv - exact[rows]).square().flatten(1).sum(1)
                loss = squared_norm + const[rows] * margin.clamp(min=0)
                state.move(input_gradient(loss, leaf), step)

                loss, norm, crossed = loss.detach(), squared_norm.detach().sqrt(), margin.detach() < 0
                better = crossed & (norm < best_norm[rows])
                found[rows] |= crossed
                best_norm[rows] = torch.where(better, norm, best_norm[rows])
                adv_inputs[rows[better]] = adv.detach()[better].to(inputs.dtype)

                if step % stretch == 0 and step < steps:
                    state.slow_down(loss)
                    state = state.select(state.rate > learning_rate / 500)
                    if len(state.rows) == 0:
                        break
                    # Only the later steps show if c suffices. Adam's first steps are as long as its rate for any c,
                    # and so cross every boundary that is nearer than the rate.
                    found[state.rows] = False
            return found

        const = torch.full_like(best_norm, initial_const)
        lower, upper = torch.zeros_like(const), torch.full_like(const, math.inf)
        for _ in range(binary_search_steps):
            found = minimize(const)
            upper, lower = torch.where(found, const, upper), torch.where(found, lower, const)
            const = torch.where(upper.isfinite(), (lower + upper) / 2, const * 10)
        success = confirm(model, inputs, adv_inputs, predicted, best_norm.isfinite())

    return verified_result(
        model,
        inputs,
        adv_inputs,
        success,
        predicted=predicted,
        margin=first_order.margin,
        fallback=first_order.score,
    )


@dataclass
class Descent:
    """State of a descent for each example that is still in it; shape (n,), or the shape of the inputs.

    Adam treats the entries independently, so that one batched state holds a state for each example.
    """

    rows: Tensor
    w: Tensor
    momentum: Tensor
    second_moment: Tensor
    rate: Tensor
    lowest_loss: Tensor

    @classmethod
    def at(cls, w: Tensor, learning_rate: float) -> Self:
        """Make the start of a descent from w."""
        rows = torch.arange(len(w), device=w.device)
        rate = w.new_full((len(w),), learning_rate)
        return cls(rows, w, torch.zeros_like(w), torch.zeros_like(w), rate, torch.full_like(rate, math.inf))

    def move(self, gradient: Tensor, step: int) -> None:
        """Take one step of Adam; the first step has the number 1."""
        self.momentum = self.momentum.lerp(gradient, 1 - 0.9)
        self.second_moment = self.second_moment.lerp(gradient.square(), 1 - 0.999)
        mean, deviation = self.momentum / (1 - 0.9**step), (self.second_moment / (1 - 0.999**step)).sqrt()
        self.w = self.w - per_example(self.rate, self.w) * mean / (deviation + 1e-8)

    def slow_down(self, loss: Tensor) -> None:
        """Divide the rate by 10 for the examples whose loss has stopped falling."""
        self.rate = torch.where(loss > 0.9999 * self.lowest_loss, self.rate / 10, self.rate)
        self.lowest_loss = torch.minimum(loss, self.lowest_loss)

    def select(self, staying: Tensor) -> Self:
        """Keep only the examples that stay."""
        return type(self)(*(getattr(self, field.name)[staying] for field in fields(self)))


def confirm(model: CountedModel, inputs: Tensor, adv_inputs: Tensor, predicted: Tensor, crossed: Tensor) -> Tensor:
    """Verify all ``adv_inputs`` that have ``crossed``; those that no longer cross are lengthened in place.

    A perturbation may cross so closely that rounding, which differs between batches, can undo the crossing.
    """
    success = torch.zeros_like(crossed)
    for lengthening in (0.0, 1e-3, 1e-2):
        unseen = (crossed & ~success).nonzero()[:, 0]
        if len(unseen) == 0:
            break
        delta = (1 + lengthening) * (adv_inputs[unseen] - inputs[unseen])
        points = (inputs[unseen] + delta).clamp(0, 1)
        success[unseen] = prediction_changes(model.at(unseen), points, predicted[unseen])
        adv_inputs[unseen] = points
    return success
