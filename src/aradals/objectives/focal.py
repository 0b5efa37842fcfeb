"""Focal loss as a training objective."""

from __future__ import annotations

from torch import Tensor, nn

from aradals.losses import focal_loss


def focal(model: nn.Module, inputs: Tensor, labels: Tensor, *, gamma: float = 3.0) -> tuple[Tensor, Tensor]:
    """Focal loss, see `focal_loss`.

    Args:
        model: maps inputs to logits of shape (N, K).
        inputs: shape (N, ...).
        labels: int64, shape (N,).
        gamma: γ >= 0; 0 gives the cross-entropy.

    Returns:
        ``(loss, logits)``: a scalar, and the logits of the inputs, shape (N, K).

    Raises:
        InputError: γ is negative.
    """
    logits: Tensor = model(inputs)
    return focal_loss(logits, labels, gamma), logits
