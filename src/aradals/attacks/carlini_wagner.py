"""Carlini and Wagner's L2 attack."""

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

    Minimizes :math:`\|\delta\|_2^2 + c \max(z_{pred} - \max_{k \ne pred} z_k + \kappa, 0)` by Adam over w,
    where :math:`x + \delta = (\tanh w + 1)/2`, and searches the smallest c that succeeds, for each example.

    Args:
        model: maps inputs in [0, 1] to logits of shape (N, K).
        inputs: shape (N, ...), values in [0, 1].
        binary_search_steps: number of constants c tried.
        steps: at most so many Adam steps for each c.
        learning_rate: of Adam, in w, at the start of each search step.
        initial_const: the first c; multiplied by 10 until it succeeds, then bisected.
        min_margin: kappa, in logits; by how much the other class has to win.

    Raises:
        InputError: inputs outside [0, 1]; logits that are NaN, of a wrong shape, or probabilities.

    References:
        Carlini and Wagner, Towards evaluating the robustness of neural networks, IEEE S&P 2017,
        arXiv:1608.04644, sections V and VI.A. Two departures. Where one step of DeepFool crosses a boundary, the
        search starts there rather than at the input: the class with the second largest logit, to which the loss is
        drawn from the input, need not be the nearest. And an example whose loss has stopped falling gets a
        tenth of the learning rate, and at the third time leaves the search step. At a constant rate the
        iterates jitter by more than the norms of undefended networks.
    """
    check_positive(
        binary_search_steps=binary_search_steps,
        steps=steps,
        learning_rate=learning_rate,
        initial_const=initial_const,
    )
    if min_margin < 0:
        raise InputError(expected="min_margin >= 0", got=f"min_margin={min_margin}", hint="0.0")

    with gradients_enabled(model):
        inputs = model_inputs(model, inputs)
        first_order = first_order_margin(model, inputs)
        fallback, predicted = first_order.score, first_order.predicted
        nearest = deepfool(model, inputs, steps=1)
        num_forward, num_backward = 1 + nearest.num_forward, 1 + nearest.num_backward

        exact = inputs.to(working_dtype(inputs))
        # Slightly inside the box: at its bounds w would be infinite, and close to them its gradient vanishes.
        start = torch.atanh((2 * nearest.adv_inputs.to(exact) - 1) * (1 - 1e-4))
        adv_inputs, best_norm = inputs.clone(), torch.full_like(fallback, math.inf)
        const = torch.full_like(fallback, initial_const)
        lower, upper = torch.zeros_like(const), torch.full_like(const, math.inf)

        stretch = max(steps // 20, 1)

        for _ in range(binary_search_steps):
            found = torch.zeros_like(predicted, dtype=torch.bool)
            # The rows still in this search step, and what it carries for each of them.
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

                # Best so far.
                loss, norm, crossed = loss.detach(), squared_norm.detach().sqrt(), margin.detach() < 0
                better = crossed & (norm < best_norm[active])
                found[active] |= crossed
                best_norm[active] = torch.where(better, norm, best_norm[active])
                adv_inputs[active[better]] = adv.detach()[better].to(inputs.dtype)

                # Adam. The examples are independent, so that one batched state is a state for each.
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
                    # Whether c suffices shows at the end. Adam's first steps are as long as its rate for any c,
                    # and so cross boundaries that are nearer than that.
                    found[active] = False

            upper = torch.where(found, const, upper)
            lower = torch.where(found, lower, const)
            const = torch.where(upper.isfinite(), (lower + upper) / 2, const * 10)

        # Each was seen to cross, but so closely that rounding, which differs between batches, may undo it.
        # Such a perturbation is lengthened.
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
