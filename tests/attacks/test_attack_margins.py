from __future__ import annotations

import math

import pytest
import torch
from attack_problems import Constant, linear_problem
from torch import nn

from aradals.attacks import first_order_margin, log_odds, logit_margin
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


def test_confidence_is_its_log_odds() -> None:
    model, inputs, _ = linear_problem((8,), 5)
    result = log_odds(model, inputs)
    probability = model(inputs).detach().double().softmax(1).amax(1)
    torch.testing.assert_close(result.score.double(), probability.logit(), rtol=1e-4, atol=1e-4)
    assert (result.score < 0).any()  # less sure than not
    assert result.success.all()
    assert result.num_forward.eq(1).all()
    assert result.num_backward.eq(0).all()


def test_confidence_does_not_saturate() -> None:
    """Where probabilities in single precision are all 1, and where the third class decides."""
    inputs = torch.tensor([[0.8, 0.0, 0.0], [0.9, 0.0, 0.0], [0.8, 0.1, 0.0]])
    model = nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        model.weight.copy_(100 * torch.eye(3))
    score = log_odds(model, inputs).score
    assert model(inputs).softmax(1).amax(1).eq(1).all()
    assert score.tolist() == pytest.approx([80 - math.log(2), 90 - math.log(2), 70 - math.log1p(math.exp(-10))])


def test_confidence_of_two_classes_is_the_logit_margin() -> None:
    model, inputs, _ = linear_problem((3, 4), 2)
    torch.testing.assert_close(log_odds(model, inputs).score, logit_margin(model, inputs).score)


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
