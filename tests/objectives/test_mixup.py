from __future__ import annotations

from importlib import import_module

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aradals.errors import InputError
from aradals.objectives import cross_entropy, mixup
from aradals.objectives.mixup import draw_mix_weight


def problem(num: int = 16) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.Tanh(), nn.Linear(7, 4))
    return model, torch.rand(num, 3, 2, 2), torch.randint(4, (num,)), torch.rand(num) * 0.7 + 0.3


def gradients(model: nn.Module, loss: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, list(model.parameters()))


@pytest.mark.parametrize("smoothed", [False, True])
def test_alpha_of_0_is_vanilla(smoothed: bool) -> None:
    model, inputs, labels, target_prob = problem()
    given = target_prob if smoothed else None
    loss, logits = mixup(model, inputs, labels, given, alpha=0)
    expected, expected_logits = cross_entropy(model, inputs, labels, given)
    torch.testing.assert_close(logits, expected_logits)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradients(model, loss), gradients(model, expected))
    if not smoothed:
        torch.testing.assert_close(loss, F.cross_entropy(model(inputs), labels))


@pytest.mark.parametrize("smoothed", [False, True])
def test_loss_by_hand(smoothed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """λ and the permutation given: inputs and K-wide targets mixed alike, each label with its own smoothing."""
    model, inputs, labels, target_prob = problem(3)
    mix_weight, partner = torch.tensor([0.6, 0.9, 1.0], dtype=torch.float64), torch.tensor([2, 0, 1])
    monkeypatch.setattr(import_module("aradals.objectives.mixup"), "draw_mix_weight", lambda num, alpha: mix_weight)
    monkeypatch.setattr(torch, "randperm", lambda num: partner)
    loss, logits = mixup(model, inputs, labels, target_prob if smoothed else None)

    prob = (target_prob if smoothed else torch.ones(3))[:, None]
    one_hot = F.one_hot(labels, 4)
    rows = one_hot * prob + (1 - one_hot) * (1 - prob) / 3
    mixed, targets = inputs.clone(), rows.clone()
    for i, (weight, j) in enumerate([(0.6, 2), (0.9, 0), (1.0, 1)]):
        mixed[i] = weight * inputs[i] + (1 - weight) * inputs[j]
        targets[i] = weight * rows[i] + (1 - weight) * rows[j]
    torch.testing.assert_close(logits, model(mixed))
    torch.testing.assert_close(loss, F.cross_entropy(model(mixed), targets))


@pytest.mark.parametrize("alpha", [0.2, 1.0, 8.0])
def test_weights_are_the_larger_part_of_a_beta_variate(alpha: float) -> None:
    torch.manual_seed(1)
    weights = draw_mix_weight(4000, alpha)
    assert weights.min() >= 0.5
    assert weights.max() <= 1
    # E (λ - 1/2)², the same for λ and 1 - λ, is the variance of the Beta distribution.
    variance = 1 / (4 * (2 * alpha + 1))
    assert (weights - 0.5).square().mean().item() == pytest.approx(variance, rel=0.06)


def test_a_very_small_alpha_hardly_mixes() -> None:
    torch.manual_seed(2)
    weights = draw_mix_weight(2000, 1e-3)
    assert (weights > 0.999).double().mean() > 0.98
    assert weights.isfinite().all()


def test_weights_are_distributed_as_the_larger_part_of_a_beta_variate() -> None:
    torch.manual_seed(3)
    for alpha in (0.2, 2.0):
        beta = torch.distributions.Beta(alpha, alpha).sample((4000,)).double()
        quantiles = torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
        expected = beta.maximum(1 - beta).quantile(quantiles)
        torch.testing.assert_close(draw_mix_weight(4000, alpha).quantile(quantiles), expected, atol=0.03, rtol=0)


def test_the_global_seed_decides_and_the_batch_is_left_alone() -> None:
    model, inputs, labels, _ = problem()
    original, losses = inputs.clone(), []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        losses.append(mixup(model, inputs, labels, alpha=1.0)[0].item())
    assert losses[0] == losses[1] != losses[2]
    assert torch.equal(inputs, original)


@pytest.mark.parametrize("alpha", [-0.1, float("nan"), float("inf")])
def test_bad_alpha(alpha: float) -> None:
    model, inputs, labels, _ = problem()
    with pytest.raises(InputError, match="alpha >= 0"):
        mixup(model, inputs, labels, alpha=alpha)
