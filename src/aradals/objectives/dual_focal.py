"""Dual focal loss: focal loss that also looks at the strongest class below the label."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aradals.checks import check_positive
from aradals.geometry import working_dtype


def dual_focal(model: nn.Module, inputs: Tensor, labels: Tensor, *, gamma: float = 5.0) -> tuple[Tensor, Tensor]:
    r"""Mean of :math:`-(1 - p_y + p_j)^\gamma \log p_y`, where j is the most probable class below the label y.

    :math:`p_j = \max \{p_k : p_k < p_y\}`, or 0 if no class is below the label. The weight of an example falls only if
    its label gets ahead of the next class, so that the loss pulls less towards under-confidence than focal loss.

    Args:
        model: maps inputs to logits of shape (N, K).
        inputs: shape (N, ...).
        labels: int64, shape (N,).
        gamma: γ > 0.

    Returns:
        ``(loss, logits)``: a scalar, and the logits of the inputs, shape (N, K).

    Raises:
        InputError: γ is not positive.

    References:
        Tao, Dong and Xu, Dual focal loss for calibration, ICML 2023, arXiv:2305.13665.
    """
    check_positive(gamma=gamma)
    logits: Tensor = model(inputs)
    log_probs = logits.log_softmax(1, dtype=working_dtype(logits))
    log_label_prob = log_probs.gather(1, labels[:, None])
    below = log_probs.exp().masked_fill(log_probs >= log_label_prob, 0).amax(1)
    log_label_prob = log_label_prob[:, 0]
    # A power below 1 has an infinite gradient at 0, where the label has all probability.
    weight = (below - torch.expm1(log_label_prob)).clamp(min=torch.finfo(below.dtype).tiny) ** gamma
    return -(weight * log_label_prob).mean(), logits
