"""Mixup: training on convex combinations of two examples."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from aradals.errors import InputError
from aradals.geometry import per_example
from aradals.losses import soft_cross_entropy


def mixup(
    model: nn.Module, inputs: Tensor, labels: Tensor, target_prob: Tensor | None = None, *, alpha: float = 0.2
) -> tuple[Tensor, Tensor]:
    r"""Cross-entropy on mixtures of each example with another example of the batch; inputs and targets are mixed.

    Example i becomes :math:`\lambda_i x_i + (1 - \lambda_i) x_{\pi(i)}`, with a random permutation π, and
    :math:`\lambda_i \sim Beta(\alpha, \alpha)` drawn for each example. The example itself gets the larger of λ and
    1 - λ, so that ``labels`` contains the class with more weight. The distribution of mixtures stays the same, because
    partners are random.

    Args:
        model: maps inputs to logits of shape (N, K).
        inputs: float, shape (N, ...).
        labels: int64, shape (N,).
        target_prob: p of each example, shape (N,); in a mixture, each of the two labels has its own p.
        alpha: α >= 0; 0 mixes nothing, large values lead to under-confidence.

    Returns:
        ``(loss, logits)``: a scalar in nats, and the logits of the mixtures, shape (N, K).

    Raises:
        InputError: α is negative.

    References:
        Zhang, Cisse, Dauphin and Lopez-Paz, mixup: beyond empirical risk minimization, ICLR 2018, arXiv:1710.09412,
        equation 1; their code draws one λ for the whole batch. On calibration: Thulasidasan, Chennupati, Bilmes,
        Bhattacharya and Michalak, On mixup training: improved calibration and predictive uncertainty for deep neural
        networks, NeurIPS 2019, arXiv:1905.11001.
    """
    mix_weight = draw_mix_weight(len(inputs), alpha).to(inputs.device, inputs.dtype)
    partner = torch.randperm(len(inputs)).to(inputs.device)
    weight = per_example(mix_weight, inputs)
    logits: Tensor = model(weight * inputs + (1 - weight) * inputs[partner])
    loss = soft_cross_entropy(
        logits,
        labels,
        target_prob,
        other_labels=labels[partner],
        mix_weight=mix_weight,
        other_target_prob=None if target_prob is None else target_prob[partner],
    )
    return loss, logits


def draw_mix_weight(num: int, alpha: float) -> Tensor:
    """Draw max(λ, 1 - λ) with λ ~ Beta(α, α), float64 in [0.5, 1], shape (``num``,), on the CPU; 1 if α = 0.

    Raises:
        InputError: α is negative.
    """
    if not 0 <= alpha < math.inf:
        raise InputError(expected="alpha >= 0", got=f"alpha={alpha}", hint="alpha=0.2, or alpha=0 for no mixup")
    if alpha == 0:
        return torch.ones(num, dtype=torch.float64)
    # λ = X / (X + Y) with X and Y from Gamma(α). Both underflow if α is small, so that the code uses their logarithms:
    # X is X' U^(1/α) with X' from Gamma(α + 1) and U uniform.
    one = torch.tensor(1.0, dtype=torch.float64)
    larger = torch.distributions.Gamma(alpha + one, one).sample((2, num))
    log_x, log_y = larger.log() + torch.rand_like(larger).log() / alpha
    weight: Tensor = (log_x - log_y).abs().sigmoid()
    return weight
