"""Checks of a training before, during and after it, whose errors name the true reason of a failure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from aradals.errors import TrainingFailed
from aradals.inference.predictions import Batch, evaluation_mode, model_device_dtype

_ROUNDING = 1e-6
"""Logits count as equal if they differ by less, relative to the largest logit."""

_MASKED = -1e4
"""A class whose logit is as far below the largest one has probability 0, whatever the difference is."""

_CHANGE = 1e-9
"""Parameters count as untrained if they change by less, relative to the largest parameter."""


def check_trainable(model: nn.Module, labels: Tensor) -> None:
    """Raise TrainingFailed for a model without trainable parameters, or for a single class.

    Args:
        model: the model to train.
        labels: labels of the training split, shape (N,).
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise TrainingFailed(
            "the model has no trainable parameters; try a model with parameters whose requires_grad is true"
        )
    classes = labels.unique()
    if len(classes) < 2:
        raise TrainingFailed(
            f"all {len(labels)} training examples are of class {int(classes[0])}, so that there is nothing to learn; "
            "try a larger training split, or data with several classes"
        )


def check_depends_on_parameters(loss: Tensor) -> None:
    """Raise TrainingFailed unless the loss has a gradient."""
    if not loss.requires_grad:
        raise TrainingFailed(
            "the loss does not depend on any trainable parameter; try a model and an objective without detach, no_grad "
            "and inference_mode"
        )


def check_finite(loss: float, weights: set[str], logits: Tensor | None, *, epoch: int, learning_rate: float) -> None:
    """Raise TrainingFailed if a training has diverged.

    Args:
        loss: mean loss over the epoch.
        weights: names of parameters and buffers that should be finite, but are not.
        logits: logits on the validation split; None if they are unknown.
        epoch: number of the epoch, from 1.
        learning_rate: learning rate of the training, for the message.
    """
    found = {
        "the training loss": not math.isfinite(loss),
        "the weights": bool(weights),
        "the validation logits": logits is not None and not bool(logits.isfinite().all()),
    }
    if names := [name for name, bad in found.items() if bad]:
        raise TrainingFailed(
            f"training diverged in epoch {epoch}, when {' and '.join(names)} became NaN or infinite; try a learning "
            f"rate below {learning_rate:g} (--training.learning_rate)"
        )


def not_finite(model: nn.Module) -> set[str]:
    """List the names of the parameters and buffers that contain NaN or infinite values."""
    named = (*model.named_parameters(), *model.named_buffers())
    return {name for name, tensor in named if not tensor.isfinite().all()}


def check_output_varies(model: nn.Module, batches: Iterable[Batch]) -> None:
    """Raise TrainingFailed if the model predicts the same for every example, up to rounding.

    The first batch of two examples or more is enough to clear any other model.

    Args:
        model: maps inputs in [0, 1] to logits of shape (N, K).
        batches: batches of (ids, inputs, labels).
    """
    device, dtype = model_device_dtype(model)
    first, count = None, 0
    with evaluation_mode(model), torch.no_grad():
        for _, inputs, _ in batches:
            logits = model(inputs.to(device, dtype)).double()
            # Neither a number that is added to all logits of a row nor the value of a mask changes the prediction.
            relative = (logits - logits.amax(1, keepdim=True)).clamp(min=_MASKED)
            first = relative[0] if first is None else first
            count += len(logits)
            if (relative - first).abs().max() > _ROUNDING * relative.abs().max():
                return
    if first is not None and count > 1:
        raise TrainingFailed(
            f"the trained model predicts the same for all {count} examples that were tried: class "
            f"{int(first.argmax())} with confidence {first.softmax(0).max():.3f}; try a lower learning rate "
            "(--training.learning_rate), or another model"
        )


def check_changed(before: Sequence[Tensor], after: Sequence[Tensor], learning_rate: float) -> None:
    """Raise TrainingFailed if training has not changed the parameters, compared with their size.

    Args:
        before: the trainable parameters before the first epoch.
        after: the trainable parameters after this epoch.
        learning_rate: learning rate of the training, for the message.
    """
    change = max(float((new - old).abs().max()) for old, new in zip(before, after, strict=True) if old.numel())
    size = max(float(old.abs().max()) for old in before if old.numel())
    if change <= _CHANGE * size:
        raise TrainingFailed(
            f"no parameter has changed by more than {change:.1g} in the first epoch; try a learning rate above "
            f"{learning_rate:g} (--training.learning_rate), or a model and an objective with gradients"
        )
