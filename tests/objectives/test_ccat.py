from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aradals.errors import InputError
from aradals.objectives import ccat, max_confidence_attack, transition_target_prob


def two_classes() -> tuple[nn.Linear, Tensor, Tensor, Tensor]:
    """A linear model, inputs from which no attack of a radius up to 0.2 reaches the box, and the rivals' gradients."""
    torch.manual_seed(0)
    model = nn.Linear(6, 2).double()
    inputs = 0.3 + 0.4 * torch.rand(8, 6, dtype=torch.float64)
    labels = torch.arange(8) % 2
    weight = model.weight.detach()
    return model, inputs, labels, weight[1 - labels] - weight[labels]


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))


@pytest.mark.parametrize("steps", [1, 10])
def test_attack_on_a_linear_model_linf(steps: int) -> None:
    """Each pixel goes to its bound, whatever the start."""
    model, inputs, labels, slope = two_classes()
    adv_inputs = max_confidence_attack(model, inputs, labels, radius=0.1, steps=steps)
    torch.testing.assert_close(adv_inputs, inputs + 0.1 * slope.sign())
    delta = adv_inputs - inputs
    torch.testing.assert_close(transition_target_prob(delta, 2, radius=0.1), torch.full((8,), 0.5).double())


def test_attack_on_a_linear_model_l2() -> None:
    model, inputs, labels, slope = two_classes()
    adv_inputs = max_confidence_attack(model, inputs, labels, radius=0.2, norm_order=2, steps=40, step_size=0.1)
    expected = 0.2 * slope / slope.norm(dim=1, keepdim=True)
    torch.testing.assert_close(adv_inputs - inputs, expected, rtol=0, atol=1e-3)


def test_attack_maximizes_the_strongest_wrong_class_within_the_ball_and_the_box() -> None:
    """Towards the strongest wrong class and so away from the other wrong one, too."""
    weight = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    model = nn.Linear(2, 3, bias=False).double()
    model.weight.data = 4 * weight
    inputs = torch.tensor([[0.7, 0.2], [0.2, 0.95], [0.6, 0.2]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 1])
    # The third has label 1: lower its logit and raise that of class 2, which leads over class 0.
    expected = inputs + 0.1 * torch.tensor([[1, -1], [-1, 0.5], [-1, 1]], dtype=torch.float64)
    adv_inputs = max_confidence_attack(model, inputs, labels, radius=0.1, steps=20)
    torch.testing.assert_close(adv_inputs, expected)


def test_a_step_that_is_far_too_long_does_no_harm() -> None:
    """The best point counts, not the last: on a wave, long steps land anywhere."""

    class Wave(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            height = torch.sin(60 * inputs[:, :1])
            return torch.cat([torch.zeros_like(height), height], dim=1)

    inputs, labels = torch.full((50, 1), 0.5), torch.zeros(50, dtype=torch.int64)
    torch.manual_seed(0)
    best = max_confidence_attack(Wave(), inputs, labels, radius=0.05, steps=30, step_size=0.03)
    assert (Wave()(best)[:, 1] > 0.9).all()


@pytest.mark.parametrize("norm_order", [2, math.inf])
def test_attack_stays_in_the_ball_and_the_box_and_leaves_the_model_alone(norm_order: float) -> None:
    model = network()
    model[1].requires_grad_(False)
    model[2].eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    inputs, labels = torch.rand(20, 3, 2, 2).round(decimals=1), torch.randint(4, (20,))
    original = inputs.clone()
    adv_inputs = max_confidence_attack(model, inputs, labels, radius=0.2, norm_order=norm_order)
    assert not adv_inputs.requires_grad
    assert 0 <= adv_inputs.min() <= adv_inputs.max() <= 1
    assert (adv_inputs - inputs).flatten(1).norm(p=norm_order, dim=1).max() <= 0.2 * (1 + 1e-5)
    assert torch.equal(inputs, original)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model] == [True, True, False, True, True]
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True, True, True]
    assert all(p.grad is None for p in model.parameters())


def test_starts_are_uniform_in_norm() -> None:
    """A model without a gradient never leaves its start, and its first point is as good as any."""

    class Blind(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return torch.zeros(len(inputs), 2)

    inputs, labels = torch.full((4000, 5), 0.5), torch.zeros(4000, dtype=torch.int64)
    torch.manual_seed(0)
    for norm_order in (2, math.inf):
        delta = max_confidence_attack(Blind(), inputs, labels, radius=0.4, norm_order=norm_order) - inputs
        norms = delta.norm(p=norm_order, dim=1) / 0.4
        quantiles = torch.tensor([0.1, 0.5, 0.9])
        torch.testing.assert_close(norms.quantile(quantiles), quantiles, atol=0.03, rtol=0)
        assert delta.mean(0).abs().max() < 0.02


@pytest.mark.parametrize("power", [1.0, 10.0])
@pytest.mark.parametrize("norm_order", [2, math.inf])
def test_targets(power: float, norm_order: float) -> None:
    direction = torch.tensor([0.6, -0.8]) / (1.0 if norm_order == 2 else 0.8)
    delta = torch.tensor([0.0, 0.5, 1.0, 1.5])[:, None] * 0.3 * direction
    half = 0.5**power
    prob = transition_target_prob(delta, 4, radius=0.3, norm_order=norm_order, transition_power=power)
    torch.testing.assert_close(prob, torch.tensor([1, half + (1 - half) / 4, 0.25, 0.25]), atol=1e-6, rtol=0)
    # Uniform mixed with a target that is soft already.
    clean = torch.full((4,), 0.7)
    smoothed = transition_target_prob(delta, 4, clean, radius=0.3, norm_order=norm_order, transition_power=power)
    expected = torch.tensor([0.7, 0.7 * half + (1 - half) / 4, 0.25, 0.25])
    torch.testing.assert_close(smoothed, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("smoothed", [False, True])
@pytest.mark.parametrize("num", [1, 2, 9])
def test_loss_and_gradient_are_those_of_the_textbook_at_the_perturbation(smoothed: bool, num: int) -> None:
    model = network()
    if num == 1:
        model.eval()  # batch norm needs two
    inputs, labels, target_prob = torch.rand(num, 3, 2, 2), torch.randint(4, (num,)), torch.rand(num) * 0.5 + 0.5
    settings: dict[str, Any] = {"radius": 0.1, "steps": 3}
    torch.manual_seed(7)
    half = num - num // 2
    adv_inputs = max_confidence_attack(model, inputs[half:], labels[half:], **settings)
    torch.manual_seed(7)
    loss, logits = ccat(
        model, inputs, labels, target_prob if smoothed else None, norm_order="inf", transition_power=2.0, **settings
    )
    assert all(p.grad is None for p in model.parameters())
    loss.backward()
    gradients = [p.grad for p in model.parameters()]

    points = torch.cat([inputs[:half], adv_inputs])
    weight = (1 - (points - inputs).abs().amax((1, 2, 3)) / 0.1).clamp(min=0)[:, None] ** 2
    one_hot, prob = F.one_hot(labels, 4), (target_prob if smoothed else torch.ones(num))[:, None]
    clean_rows = one_hot * prob + (1 - one_hot) * (1 - prob) / 3
    expected_logits = model(points)
    expected = F.cross_entropy(expected_logits, weight * clean_rows + (1 - weight) / 4)
    torch.testing.assert_close(logits, expected_logits)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradients, list(torch.autograd.grad(expected, list(model.parameters()))))


def test_batch_statistics_come_from_one_pass_over_the_whole_batch() -> None:
    model = network()
    ccat(model, torch.rand(6, 3, 2, 2), torch.zeros(6, dtype=torch.int64))
    assert model.get_buffer("2.num_batches_tracked") == 1


@pytest.mark.parametrize(
    "settings",
    [{"radius": 0}, {"steps": 0}, {"step_size": -1.0}, {"norm_order": 1}, {"transition_power": 0}],
)
def test_bad_settings(settings: dict[str, Any]) -> None:
    model, inputs, labels, _ = two_classes()
    with pytest.raises(InputError, match=next(iter(settings))):
        ccat(model, inputs, labels, **settings)


def test_inputs_outside_the_box() -> None:
    model, inputs, labels, _ = two_classes()
    with pytest.raises(InputError, match=r"inputs in \[0, 1\]"):
        ccat(model, 3 * inputs, labels)
