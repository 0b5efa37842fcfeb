"""L2 attack of Carlini and Wagner."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from aradals.attacks.base import AttackResult, prediction_changes, verified_result
from aradals.attacks.deepfool import deepfool
from aradals.attacks.margins import first_order_margin
from aradals.checks import check_positive
from aradals.errors import InputError
from aradals.geometry import per_example, working_dtype
from aradals.inference.gradients import class_margin, gradients_enabled, input_gradient, model_inputs


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

    with gradients_enabled(model):
        inputs = model_inputs(model, inputs)
        first_order = first_order_margin(model, inputs)
        fallback, predicted = first_order.score, first_order.predicted
        nearest = deepfool(model, inputs, steps=1)
        num_forward, num_backward = 1 + nearest.num_forward, 1 + nearest.num_backward

        exact = inputs.to(working_dtype(inputs))
        # The start is slightly inside the box. At the bounds of the box w is infinite, and near them its gradient
        # vanishes.
        start = torch.atanh((2 * nearest.adv_inputs.to(exact) - 1) * (1 - 1e-4))
        adv_inputs, best_norm = inputs.clone(), torch.full_like(fallback, math.inf)
        const = torch.full_like(fallback, initial_const)
        lower, upper = torch.zeros_like(const), torch.full_like(const, math.inf)

        stretch = max(steps // 20, 1)

        for _ in range(binary_search_steps):
            found = torch.zeros_like(predicted, dtype=torch.bool)
            # The rows that are still in this search step, and the state of the search for each of them.
            active = torch.arange(len(inputs), device=inputs.device)
            original, w = exact, start
            momentum, second_moment = torch.zeros_like(start), torch.zeros_like(start)
            rate = torch.full_like(const, learning_rate)
            lowest_loss = torch.full_like(const, math.inf)

            for step in range(1, steps + 1):
                leaf = w.detach().clone().requires_grad_()
                adv = (leaf.tanh() + 1) / 2
                logits = model(adv.to(inputs.dtype, copy=True)).to(exact.dtype)
                margin = class_margin(logits, predicted[active])[0] + min_margin
                squared_norm = (adv - original).square().flatten(1).sum(1)
                loss = squared_norm + const[active] * margin.clamp(min=0)
                gradient = input_gradient(loss, leaf)
                num_forward[active] += 1
                num_backward[active] += 1

                # The best perturbation so far.
                loss, norm, crossed = loss.detach(), squared_norm.detach().sqrt(), margin.detach() < 0
                better = crossed & (norm < best_norm[active])
                found[active] |= crossed
                best_norm[active] = torch.where(better, norm, best_norm[active])
                adv_inputs[active[better]] = adv.detach()[better].to(inputs.dtype)

                # Adam. The examples are independent, so that one batched state holds a state for each example.
                momentum = momentum.lerp(gradient, 1 - 0.9)
                second_moment = second_moment.lerp(gradient.square(), 1 - 0.999)
                mean, deviation = momentum / (1 - 0.9**step), (second_moment / (1 - 0.999**step)).sqrt()
                w = w - per_example(rate, w) * mean / (deviation + 1e-8)

                if step % stretch == 0 and step < steps:
                    stalled = loss > 0.9999 * lowest_loss
                    lowest_loss = torch.minimum(loss, lowest_loss)
                    rate = torch.where(stalled, rate / 10, rate)
                    staying = rate > learning_rate / 500
                    active, original, w = active[staying], original[staying], w[staying]
                    momentum, second_moment = momentum[staying], second_moment[staying]
                    rate, lowest_loss = rate[staying], lowest_loss[staying]
                    if len(active) == 0:
                        break
                    # Only the later steps show if c suffices. Adam's first steps are as long as its rate for any c,
                    # and so cross every boundary that is nearer than the rate.
                    found[active] = False

            upper = torch.where(found, const, upper)
            lower = torch.where(found, lower, const)
            const = torch.where(upper.isfinite(), (lower + upper) / 2, const * 10)

        # Each perturbation crossed a boundary, but perhaps so closely that rounding, which differs between batches,
        # can undo the crossing. Such a perturbation is lengthened.
        success = torch.zeros_like(predicted, dtype=torch.bool)
        for lengthening in (0.0, 1e-3, 1e-2):
            unseen = (best_norm.isfinite() & ~success).nonzero()[:, 0]
            if len(unseen) == 0:
                break
            delta = (1 + lengthening) * (adv_inputs[unseen] - inputs[unseen])
            points = (inputs[unseen] + delta).clamp(0, 1)
            success[unseen] = prediction_changes(model, points, predicted[unseen])
            adv_inputs[unseen] = points
            num_forward[unseen] += 1

    return verified_result(
        inputs,
        adv_inputs,
        success,
        predicted=predicted,
        fallback=fallback,
        num_forward=num_forward,
        num_backward=num_backward,
    )
