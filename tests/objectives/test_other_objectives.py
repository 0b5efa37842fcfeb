"""The objectives of other methods against their equations, written out."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aradals.errors import InputError
from aradals.losses import focal_loss, soft_cross_entropy
from aradals.objectives import calmo, dual_focal, logit_norm, sample_focal


def problem(n: int = 12, k: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(n, k, generator=generator, dtype=torch.float64)
    return logits, torch.randint(k, (n,), generator=generator)


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 4)).double()


def images(n: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(n, 3, 2, 2, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(4, (n,), generator=generator)


class TestLogitNorm:
    def test_equation(self) -> None:
        logits, labels = problem()
        loss, returned = logit_norm(nn.Identity(), logits, labels, temperature=0.3)
        lengths = logits.square().sum(1, keepdim=True).sqrt()
        torch.testing.assert_close(loss, F.cross_entropy(logits / (0.3 * lengths), labels))
        assert returned.equal(logits)

    def test_the_length_of_logits_does_not_matter(self) -> None:
        logits, labels = problem()
        longer = logits * torch.linspace(0.1, 9, len(logits))[:, None]
        torch.testing.assert_close(*(logit_norm(nn.Identity(), z, labels)[0] for z in (logits, longer)))
        logits.requires_grad_()
        (gradient,) = torch.autograd.grad(logit_norm(nn.Identity(), logits, labels)[0], logits)
        assert (gradient * logits).sum(1).abs().max() < 1e-12

    def test_smoothed(self) -> None:
        logits, labels = problem()
        target_prob = torch.full((12,), 0.7, dtype=torch.float64)
        expected = soft_cross_entropy(F.normalize(logits), labels, target_prob)
        torch.testing.assert_close(logit_norm(nn.Identity(), logits, labels, target_prob, temperature=1)[0], expected)

    def test_logits_of_zero(self) -> None:
        logits = torch.zeros(2, 3, requires_grad=True)
        loss, _ = logit_norm(nn.Identity(), logits, torch.tensor([0, 1]))
        loss.backward()
        assert float(loss.detach()) == pytest.approx(math.log(3))
        assert logits.grad is not None
        assert logits.grad.isfinite().all()


def test_sample_focal_is_flsd_53() -> None:
    logits, labels = problem(60)
    prob = logits.softmax(1)[torch.arange(60), labels]
    gamma = torch.where(prob < 0.2, 5.0, 3.0)
    assert 5 < int((gamma == 5).sum()) < 55
    torch.testing.assert_close(
        sample_focal(nn.Identity(), logits, labels)[0], -((1 - prob) ** gamma * prob.log()).mean()
    )
    one_gamma, _ = sample_focal(nn.Identity(), logits, labels, gamma=2, gamma_low=2)
    torch.testing.assert_close(one_gamma, focal_loss(logits, labels, 2))


class TestDualFocal:
    def test_by_hand(self) -> None:
        probs = torch.tensor([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [0.5, 0.3, 0.2]], dtype=torch.float64)
        loss, _ = dual_focal(nn.Identity(), probs.log(), torch.tensor([0, 1, 2]), gamma=2)
        each = [0.8**2 * math.log(0.5), 0.9**2 * math.log(0.3), 0.8**2 * math.log(0.2)]
        assert float(loss) == pytest.approx(-sum(each) / 3)

    def test_two_classes_of_which_the_label_is_weaker_are_focal_loss(self) -> None:
        logits, _ = problem(k=2)
        labels = logits.argmin(1)
        torch.testing.assert_close(dual_focal(nn.Identity(), logits, labels)[0], focal_loss(logits, labels, 5))

    @pytest.mark.parametrize("gamma", [0.5, 5.0])
    def test_gradients_of_certain_predictions(self, gamma: float) -> None:
        logits = torch.tensor([[200.0, 0.0, 0.0], [0.0, 200.0, 0.0]], requires_grad=True)
        dual_focal(nn.Identity(), logits, torch.tensor([0, 0]), gamma=gamma)[0].backward()
        assert logits.grad is not None
        assert logits.grad.isfinite().all()


class TestCalMO:
    def test_a_linear_model(self) -> None:
        """The attack goes to the corner of the ball, and the slope of the margin is a difference of two rows."""
        torch.manual_seed(0)
        model = nn.Linear(6, 2).double()
        inputs, labels = 0.3 + 0.4 * torch.rand(8, 6, dtype=torch.float64), torch.arange(8) % 2
        slope = model.weight[labels] - model.weight[1 - labels]
        p, q = (model(x).softmax(1) for x in (inputs, inputs - 0.1 * slope.sign()))
        divergence = (p * (p / q).log()).sum(1).mean()
        expected = F.cross_entropy(model(inputs), labels) + 2 * divergence + 3 * slope.square().sum(1).mean()
        loss, logits = calmo(model, inputs, labels, robustness=2, flatness=3, radius=0.1, steps=4, step_size=0.05)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(logits, model(inputs))

    def test_without_both_terms_it_is_the_cross_entropy(self) -> None:
        model, (inputs, labels) = network(), images()
        loss, _ = calmo(model, inputs, labels, robustness=0, flatness=0)
        torch.testing.assert_close(loss, F.cross_entropy(model(inputs), labels))

    def test_gradients_reach_the_weights_through_the_slope(self) -> None:
        """Against finite differences, in evaluation mode, where no batch statistics couple the examples."""
        model, (inputs, labels) = network().eval(), images()
        weight = model.get_parameter("1.weight")
        (gradient,) = torch.autograd.grad(calmo(model, inputs, labels, robustness=0, flatness=1)[0], weight)
        values = []
        for change in (1e-5, -1e-5):
            with torch.no_grad():
                weight[2, 3] += change
            values.append(float(calmo(model, inputs, labels, robustness=0, flatness=1)[0].detach()))
            with torch.no_grad():
                weight[2, 3] -= change
        assert float(gradient[2, 3]) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-5)

    def test_the_model_keeps_its_mode_and_the_inputs_stay(self) -> None:
        model, (inputs, labels) = network(), images()
        before = inputs.clone()
        calmo(model, inputs, labels)[0].backward()
        assert model.training
        assert inputs.equal(before)
        assert not inputs.requires_grad

    def test_inputs_outside_the_box(self) -> None:
        with pytest.raises(InputError, match=r"\[0, 1\]"):
            calmo(network(), 9 * torch.ones(8, 3, 2, 2, dtype=torch.float64), torch.arange(8) % 4)
