"""Checks of tensors and numbers: each raises `InputError` for a value that cannot be meant."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from aradals.errors import InputError


def check_inputs(inputs: Tensor) -> None:
    """Raise InputError unless ``inputs`` are at least one example of floats in [0, 1] (tolerance 1e-6)."""
    if not inputs.is_floating_point():
        raise InputError(
            expected="floating-point inputs in [0, 1]",
            got=f"{inputs.dtype} inputs",
            hint="inputs.float() / 255 for 8-bit images",
        )
    if inputs.ndim < 2 or inputs.numel() == 0:
        raise InputError(
            expected="inputs of shape (N, ...) with N >= 1",
            got=f"shape {tuple(inputs.shape)}",
            hint="inputs[None] if the input is a single example",
        )
    low, high = float(inputs.min()), float(inputs.max())
    if not (low >= -1e-6 and high <= 1 + 1e-6):
        raise InputError(
            expected="inputs in [0, 1]",
            got=f"values from {low:.4g} to {high:.4g}",
            hint="scaling the inputs to [0, 1], and making normalization the first layer of the model",
        )


def check_logits(logits: object, num_inputs: int) -> Tensor:
    """Return ``logits`` if a classifier can have made them: finite floats, shape (N, K >= 2), not probabilities.

    Raises:
        InputError: otherwise.
    """
    if not isinstance(logits, Tensor):
        raise InputError(
            expected="a model that returns a tensor of logits",
            got=f"a model that returns {type(logits).__name__}",
            hint="a wrapper module whose forward returns only the logits",
        )
    if logits.ndim != 2 or logits.shape[0] != num_inputs or logits.shape[1] < 2:
        raise InputError(
            expected=f"logits of shape ({num_inputs}, K) with K >= 2",
            got=f"shape {tuple(logits.shape)}",
            hint="a model that returns one row of class logits per input",
        )
    values = logits.detach()
    if not values.is_floating_point():
        raise InputError(
            expected="floating-point logits", got=str(values.dtype), hint="a model that returns logits, not classes"
        )
    if not values.isfinite().all():
        bad = int((~values.isfinite().all(1)).sum())
        if (values.isfinite() | (values == -math.inf)).all():
            raise InputError(
                expected="finite logits",
                got=f"logits of -inf, as of masked classes, for {bad} of {num_inputs} inputs",
                hint="a large finite value for masked classes: logits.clamp(min=-1e9) at the end of the model",
            )
        raise InputError(
            expected="finite logits",
            got=f"NaN or infinite values for {bad} of {num_inputs} inputs",
            hint="a checkpoint of a training that did not diverge, and inputs in [0, 1] with normalization inside the "
            "model",
        )
    # The tolerance allows for the rounding of probabilities in bfloat16.
    if (values >= 0).all() and (values.double().sum(1) - 1).abs().max() < 5e-3:
        raise InputError(
            expected="logits",
            got="probabilities (all rows are non-negative and sum to 1)",
            hint="removing the softmax at the end of the model, or log_softmax in its place; the logarithm of the "
            "softmax loses digits and gradients where the softmax saturates",
        )
    return logits


def check_labels(labels: Tensor, num_classes: int) -> None:
    """Raise InputError unless every label is in [0, ``num_classes``)."""
    if len(labels) and (int(labels.min()) < 0 or int(labels.max()) >= num_classes):
        raise InputError(
            expected=f"labels from 0 to {num_classes - 1} (the model has {num_classes} classes)",
            got=f"labels from {int(labels.min())} to {int(labels.max())}",
            hint="the data set that the model was trained for, or num_classes in the model's arguments",
        )


def check_probs(probs: Tensor) -> Tensor:
    """Return ``probs`` if its rows are distributions over K >= 2 classes, with sums within 1e-3 of 1.

    Raises:
        InputError: otherwise, NaN included.
    """
    if probs.ndim != 2 or probs.shape[1] < 2 or not probs.is_floating_point():
        raise InputError(
            expected="floating-point probabilities of shape (N, K) with K >= 2",
            got=f"{probs.dtype} of shape {tuple(probs.shape)}",
            hint="a tensor with one row for each example and one column for each class",
        )
    low, high = probs.aminmax(dim=1)
    # The comparisons are written so that NaN fails them.
    valid = (low >= 0) & (high <= 1) & ((probs.sum(1, dtype=torch.float64) - 1).abs() <= 1e-3)
    if not valid.all():
        raise InputError(
            expected="probabilities in [0, 1] that sum to 1 in every row",
            got=f"{int((~valid).sum())} of {len(valid)} rows that break this rule",
            hint="passing them as logits= if they are logits",
        )
    return probs


def check_predictions(*, logits: Tensor | None = None, probs: Tensor | None = None) -> Tensor:
    """Return the one of the two arguments that is given.

    Raises:
        InputError: neither or both are given, there are no rows, or the values cannot be what the argument says.
    """
    given = logits if probs is None else probs
    if given is None or (logits is not None and probs is not None):
        raise InputError(
            expected="exactly one of logits= and probs=",
            got="neither" if given is None else "both",
            hint="logits=, which have more digits than saturated probabilities",
        )
    if len(given) == 0:
        raise InputError(expected="at least one example", got="none", hint="another split or subset")
    given = given.detach()
    if probs is not None:
        return check_probs(given)
    return given if _plain_logits(given) else check_logits(given, len(given))


def _plain_logits(values: Tensor) -> bool:
    """Return True if one pass shows that these are logits; otherwise `check_logits` decides, with several passes."""
    if values.ndim != 2 or values.shape[1] < 2 or not values.is_floating_point():
        return False
    low, high = values.aminmax()  # NaN if any value is
    return -math.inf < float(low) < 0 and float(high) < math.inf


def check_classes(labels: Tensor, num_examples: int, num_classes: int) -> None:
    """Raise InputError unless ``labels`` are ``num_examples`` integers in [0, ``num_classes``)."""
    if labels.shape != (num_examples,) or labels.is_floating_point() or labels.dtype == torch.bool:
        raise InputError(
            expected=f"integer labels of shape ({num_examples},)",
            got=f"{labels.dtype} of shape {tuple(labels.shape)}",
            hint="class indices, one for each row of logits or probabilities",
        )
    check_labels(labels, num_classes)


def check_examples(
    labels: Tensor, *, logits: Tensor | None = None, probs: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Check labels and scores (the given one of logits and probabilities), and put both on one device."""
    scores = check_predictions(logits=logits, probs=probs)
    check_classes(labels, *scores.shape)
    return labels.long().to(scores.device), scores


def check_subsets(subsets: Tensor, num_examples: int) -> None:
    """Raise InputError unless ``subsets`` are ``num_examples`` integers >= 0."""
    wrong_kind = subsets.shape != (num_examples,) or subsets.is_floating_point() or subsets.dtype == torch.bool
    if wrong_kind or int(subsets.min()) < 0:
        raise InputError(
            expected=f"subset indices: integers >= 0 of shape ({num_examples},)",
            got=f"{subsets.dtype} of shape {tuple(subsets.shape)}"
            + ("" if wrong_kind else f" from {int(subsets.min())}"),
            hint="the robustness subset of each example, as `assign_subsets` returns it",
        )


def check_positive(**settings: float) -> None:
    """Raise InputError unless every setting is greater than 0."""
    for name, value in settings.items():
        if not value > 0:
            raise InputError(expected=f"{name} > 0", got=f"{name}={value}", hint=f"the default of {name}")


def check_norm_order(norm_order: float) -> None:
    """Raise InputError unless ``norm_order`` is 2 or inf."""
    if norm_order not in (2, math.inf):
        raise InputError(
            expected="norm_order 2 or inf", got=f"norm_order={norm_order}", hint="2 for L2 or math.inf for L-inf"
        )
