"""Margin-based label smoothing as a training objective."""

from __future__ import annotations

from torch import Tensor, nn

from aradals.losses import margin_smoothing_loss


def margin_smoothing(
    model: nn.Module, inputs: Tensor, labels: Tensor, *, margin: float = 10.0, weight: float = 0.1
) -> tuple[Tensor, Tensor]:
    """Cross-entropy and a penalty on large logit margins, see `margin_smoothing_loss`.

    Args:
        model: maps inputs to logits of shape (N, K).
        inputs: shape (N, ...).
        labels: int64, shape (N,).
        margin: m >= 0, in logits; the penalty is 0 for smaller margins.
        weight: λ >= 0, the weight of the penalty.

    Returns:
        ``(loss, logits)``: a scalar, and the logits of the inputs, shape (N, K).

    Raises:
        InputError: the margin or the weight is negative.
    """
    logits: Tensor = model(inputs)
    return margin_smoothing_loss(logits, labels, margin, weight), logits
