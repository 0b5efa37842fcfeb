from __future__ import annotations

import torch
from attack_problems import Constant, Ring, linear_problem, trained_digits
from torch import Tensor, nn

from aradals.attacks import neighbors, secant


def test_a_boundary_without_any_gradient_is_found() -> None:
    """Steps of height 1: the gradient is 0 everywhere, and the bisection of the straight line finds the edge."""

    class Step(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            right = (inputs[:, :1] > 0.5).float()
            return 3 * torch.cat([right, 1 - right], 1)

    result = neighbors(Step(), torch.tensor([[0.2, 0.5], [0.7, 0.5], [0.1, 0.5]]))
    assert result.success.all()
    exact = torch.tensor([0.3, 0.2, 0.4])
    assert (result.norm >= exact).all()
    torch.testing.assert_close(result.norm, exact, rtol=0.011, atol=0)


def test_it_turns_towards_the_boundary() -> None:
    inputs = torch.tensor([[0.9, 0.5], [0.1, 0.2], [0.5, 0.85], [0.6, 0.5], [0.45, 0.4]])
    exact = ((inputs - 0.5).norm(dim=1) - Ring.radius).abs()
    assert (neighbors(Ring(), inputs).norm / exact).max() <= 1.02
    model, inputs, exact = linear_problem((8,), 3)
    result = neighbors(model, inputs)
    assert (result.norm[result.success] >= exact[result.success] * (1 - 1e-6)).all()


def test_norms_hold_and_are_near_those_of_another_search() -> None:
    model, inputs = trained_digits()
    result, other = neighbors(model, inputs), secant(model, inputs, accurate=True, verified=True)
    assert result.success.all()
    assert (model(result.adv_inputs).argmax(1) != result.predicted).all()
    assert result.adv_inputs.min() >= 0
    assert result.adv_inputs.max() <= 1
    torch.testing.assert_close(result.norm, (result.adv_inputs - inputs).norm(dim=1))
    assert (result.norm / other.norm).median() < 1.1


def test_without_examples_of_another_class_it_fails() -> None:
    result = neighbors(Constant(), torch.rand(4, 1, 2, 2))
    assert not result.success.any()
    assert result.norm.isinf().all()
    assert not neighbors(Ring(), torch.tensor([[0.5, 0.6]])).success.any()
