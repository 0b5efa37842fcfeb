from __future__ import annotations

import math

import pytest
import torch
from attack_problems import Constant, linear_problem
from torch import nn

from aradals.attacks import first_order_margin, logit_margin
from aradals.errors import InputError


def test_logit_margin_is_the_lead_of_the_predicted_class() -> None:
    model, inputs, _ = linear_problem((8,), 5)
    result = logit_margin(model, inputs)
    largest = model(inputs).detach().topk(2, dim=1).values
    torch.testing.assert_close(result.score, largest[:, 0] - largest[:, 1])
    assert result.success.all()
    assert result.norm.isinf().all()
    assert result.num_forward.eq(1).all()
    assert result.num_backward.eq(0).all()


@pytest.mark.parametrize(("norm_order", "dual"), [(2, 2), (math.inf, 1)])
def test_first_order_margin_is_exact_for_two_classes(norm_order: float, dual: float) -> None:
    model, inputs, _ = linear_problem((3, 4), 2)
    weight = next(model.parameters()).detach()
    logits = model(inputs).detach()
    result = first_order_margin(model, inputs, norm_order=norm_order)
    torch.testing.assert_close(result.score, (logits[:, 0] - logits[:, 1]).abs() / (weight[0] - weight[1]).norm(p=dual))
    assert result.num_forward.eq(1).all()
    assert result.num_backward.eq(1).all()


def test_without_a_gradient_the_estimate_has_failed() -> None:
    result = first_order_margin(Constant(), torch.rand(4, 3))
    assert not result.success.any()
    assert result.score.eq(0).all()


def test_other_norms_are_refused() -> None:
    with pytest.raises(InputError, match="norm_order 2 or inf"):
        first_order_margin(nn.Linear(2, 2), torch.rand(1, 2), norm_order=1)
