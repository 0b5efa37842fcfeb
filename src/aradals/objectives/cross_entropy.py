"""Cross-entropy: vanilla training, and every kind of label smoothing by target probabilities."""

from __future__ import annotations

from torch import Tensor, nn

from aradals.losses import soft_cross_entropy


def cross_entropy(
    model: nn.Module, inputs: Tensor, labels: Tensor, target_prob: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Cross-entropy to targets whose true class has ``target_prob``.

    Args:
        model: maps inputs to logits of shape (N, K).
        inputs: shape (N, ...).
        labels: int64, shape (N,).
        target_prob: p, shape (N,); 1 by default.

    Returns:
        ``(loss, logits)``: a scalar in nats, and the logits of the inputs, shape (N, K).
    """
    logits: Tensor = model(inputs)
    return soft_cross_entropy(logits, labels, target_prob), logits
