"""Sample-dependent focal loss (FLSD): a larger γ for examples whose label has a small probability."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aradals.checks import check_between
from aradals.losses import focal_loss


def sample_focal(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    gamma: float = 3.0,
    gamma_low: float = 5.0,
    threshold: float = 0.2,
) -> tuple[Tensor, Tensor]:
    r"""Focal loss whose γ depends on the probability of the label: FLSD-53 by default.

    .. math:: -(1 - p_y)^{\gamma(p_y)} \log p_y, \qquad \gamma(p_y) = 5 \text{ if } p_y < 0.2 \text{, else } 3

    Args:
        model: maps inputs to logits of shape (N, K).
        inputs: shape (N, ...).
        labels: int64, shape (N,).
        gamma: γ >= 0 from the threshold on.
        gamma_low: γ >= 0 below the threshold.
        threshold: probability of the label at which γ changes, in [0, 1].

    Returns:
        ``(loss, logits)``: a scalar, and the logits of the inputs, shape (N, K).

    Raises:
        InputError: a γ is negative, or the threshold is not in [0, 1].

    References:
        Mukhoti, Kulharia, Sanyal, Golodetz, Torr and Dokania, Calibrating deep neural networks using focal loss,
        NeurIPS 2020, arXiv:2002.09437.
    """
    check_between(0, 1, threshold=threshold)
    logits: Tensor = model(inputs)
    label_prob = logits.detach().softmax(1).gather(1, labels[:, None])[:, 0]
    high, low = (focal_loss(logits, labels, value, reduction="none") for value in (gamma, gamma_low))
    return torch.where(label_prob < threshold, low, high).mean(), logits
