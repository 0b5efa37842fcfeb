from __future__ import annotations

import math

import pytest
import torch
from attack_problems import linf_problem, trained_digits
from foolbox.attacks.fast_minimum_norm import L2FMNAttack, LInfFMNAttack
from foolbox.models.pytorch import PyTorchModel
from torch import Tensor, nn

from aradals.attacks import fmn
from aradals.errors import InputError


@pytest.mark.parametrize("num_classes", [2, 3, 10, 30])
def test_linear_optima_in_linf(num_classes: int) -> None:
    model, inputs, distances = linf_problem(num_classes)
    ratio = fmn(model, inputs, norm_order=math.inf, num_candidates=num_classes).norm / distances
    assert ratio.min() >= 1 - 1e-6
    assert ratio.max() <= 1.01


def test_the_nearest_class_depends_on_the_norm() -> None:
    model, inputs, _ = linf_problem(3)
    linf, l2 = (fmn(model, inputs, norm_order=norm_order).adv_inputs for norm_order in (math.inf, 2))
    assert (model(linf).argmax(1) != model(l2).argmax(1)).any()


@pytest.mark.parametrize(("peer", "norm_order"), [(L2FMNAttack, 2), (LInfFMNAttack, math.inf)])
def test_not_worse_than_foolbox(peer: type, norm_order: float) -> None:
    model, inputs = trained_digits()
    predicted = model(inputs).argmax(1)
    _, adv_inputs, _ = peer(steps=50)(PyTorchModel(model, bounds=(0, 1)), inputs, predicted, epsilons=None)
    result = fmn(model, inputs, norm_order=norm_order, steps=50)
    assert result.success.all()
    assert result.norm.median() <= (adv_inputs - inputs).norm(p=norm_order, dim=1).median()
    torch.testing.assert_close(result.norm, (result.adv_inputs - inputs).norm(p=norm_order, dim=1))
    assert (model(result.adv_inputs).argmax(1) != predicted).all()


class Asymptotic(nn.Module):
    """Linearizations at points above the boundary, x_0 = 0.2, always end in front of it."""

    def forward(self, inputs: Tensor) -> Tensor:
        height = inputs[:, 0] - 0.2
        margin = height.clamp(min=0).square() + 1e-4 * height
        return torch.stack([margin, torch.zeros_like(margin)], 1)


def test_does_not_come_to_rest_in_front_of_the_boundary() -> None:
    inputs = torch.tensor([[0.21, 0.5], [0.3, 0.5], [0.5, 0.5]])
    result = fmn(Asymptotic(), inputs)
    assert result.success.all()
    torch.testing.assert_close(result.norm, inputs[:, 0] - 0.2, rtol=0.01, atol=0)


def test_settings_are_checked() -> None:
    with pytest.raises(InputError, match="steps > 0"):
        fmn(nn.Linear(2, 2), torch.rand(1, 2), steps=0)
    with pytest.raises(InputError, match="gamma < 1"):
        fmn(nn.Linear(2, 2), torch.rand(1, 2), gamma=1)
    with pytest.raises(InputError, match="norm_order 2 or inf"):
        fmn(nn.Linear(2, 2), torch.rand(1, 2), norm_order=1)
