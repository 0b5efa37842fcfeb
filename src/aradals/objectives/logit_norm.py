"""Logit normalization: cross-entropy of logits of one length."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from aradals.checks import check_positive
from aradals.geometry import working_dtype
from aradals.losses import soft_cross_entropy


def logit_norm(
    model: nn.Module, inputs: Tensor, labels: Tensor, target_prob: Tensor | None = None, *, temperature: float = 0.04
) -> tuple[Tensor, Tensor]:
    r"""Cross-entropy of :math:`f / (\tau \|f\|_2)`, so that no logit vector f can lower its loss by its length.

    The model itself stays as it is: its predictions are the softmax of f.

    Args:
        model: maps inputs to logits f of shape (N, K).
        inputs: shape (N, ...).
        labels: int64, shape (N,).
        target_prob: p, shape (N,); 1 by default.
        temperature: τ > 0; the loss allows larger confidences with a smaller τ. The default is that of the authors for
            CIFAR-10.

    Returns:
        ``(loss, logits)``: a scalar in nats, and the logits f, shape (N, K).

    Raises:
        InputError: τ is not positive.

    References:
        Wei, Xie, Cheng, Feng, An and Li, Mitigating neural network overconfidence with logit normalization, ICML 2022,
        arXiv:2205.09310.
    """
    check_positive(temperature=temperature)
    logits: Tensor = model(inputs)
    unit_logits = F.normalize(logits.to(working_dtype(logits)), dim=1)
    return soft_cross_entropy(unit_logits / temperature, labels, target_prob), logits
