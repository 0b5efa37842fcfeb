"""Checks of tensors and numbers: each raises `InputError` for a value that cannot be meant."""

from __future__ import annotations

import math
from typing import NamedTuple

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


class _Hints(NamedTuple):
    """What helps against each fault of logits; it depends on where the logits come from."""

    shape: str
    dtype: str
    finite: str
    masked: str
    scale: str


_OF_AN_ARRAY = _Hints(
    shape="one row for each example, and one column for each class",
    dtype="logits.float()",
    finite="leaving these examples out, after a look at the step that makes such values",
    masked="masking with a large negative number such as -1e4",
    scale="the logits themselves, or probs.log() if only probabilities are known",
)

_OF_A_MODEL = _Hints(
    shape="a model that returns one row of class logits per input",
    dtype="a model that returns logits, not classes",
    finite="a checkpoint of a training that did not diverge, and inputs in [0, 1] with normalization inside the model",
    masked="a model that masks with a large negative number such as -1e4",
    scale="removing the softmax at the end of the model, or log_softmax in its place; or --output-kind probs, "
    "LogitModel(model, kind='probs') in Python, for the logarithm, which loses digits and gradients",
)


def check_logits(logits: object, num_examples: int) -> Tensor:
    """Return ``logits`` if a classifier can have made them: finite floats, shape (N, K >= 2), not probabilities.

    Raises:
        InputError: otherwise.
    """
    if not isinstance(logits, Tensor):
        raise InputError(
            expected="a tensor of logits", got=type(logits).__name__, hint="torch.from_numpy(logits) for a NumPy array"
        )
    return _check_values(logits, num_examples, _OF_AN_ARRAY)


def check_output(output: object, num_inputs: int) -> Tensor:
    """Return the output of a model for ``num_inputs`` inputs, after the checks of `check_logits`.

    Raises:
        InputError: the output is not logits; the hint says what to change in the model.
    """
    if not isinstance(output, Tensor):
        raise InputError(
            expected="a model that returns a tensor of logits",
            got=f"a model that returns {type(output).__name__}",
            hint="a tensor of logits, or a dict or tuple that has one",
        )
    return _check_values(output, num_inputs, _OF_A_MODEL)


def _check_values(logits: Tensor, num_examples: int, hints: _Hints) -> Tensor:
    _check_form(logits, num_examples, None, hints)
    values = logits.detach()
    check_finite_logits(values, hints)
    refuse_probabilities(values, hints)
    return logits


def check_form(logits: Tensor, num_examples: int, num_classes: int | None = None) -> None:
    """Raise InputError unless ``logits`` are floats of shape (N, K); the check reads no values.

    Args:
        logits: one row for each example.
        num_examples: N.
        num_classes: K; None accepts every K >= 2.
    """
    _check_form(logits, num_examples, num_classes, _OF_AN_ARRAY)


def _check_form(logits: Tensor, num_examples: int, num_classes: int | None, hints: _Hints) -> None:
    shape, columns = tuple(logits.shape), f"K = {num_classes}" if num_classes else "K >= 2"
    fits = len(shape) == 2 and (shape[1] == num_classes if num_classes else shape[1] >= 2)
    if not fits or shape[0] != num_examples:
        flat = "logits.movedim(1, -1).flatten(0, -2) and labels.flatten(), which make one row for each position"
        raise InputError(
            expected=f"logits of shape ({num_examples}, K) with {columns}",
            got=f"shape {shape}",
            hint=flat if len(shape) > 2 else hints.shape,
        )
    if not logits.is_floating_point():
        raise InputError(expected="floating-point logits", got=str(logits.dtype), hint=hints.dtype)


def check_finite_logits(logits: Tensor, hints: _Hints = _OF_AN_ARRAY) -> None:
    """Raise InputError if any logit is NaN or infinite."""
    finite = logits.isfinite()
    if not finite.all():
        is_masked = bool((finite | (logits == -math.inf)).all())
        raise InputError(
            expected="finite logits",
            got=f"{'-inf' if is_masked else 'NaN or infinite values'} for {int((~finite.all(1)).sum())} of "
            f"{len(logits)} {'inputs' if hints is _OF_A_MODEL else 'examples'}",
            hint=hints.masked if is_masked else hints.finite,
        )


def refuse_probabilities(logits: Tensor, hints: _Hints = _OF_AN_ARRAY) -> None:
    """Raise InputError if the logits can only be probabilities."""
    # The tolerance allows for the rounding of probabilities in bfloat16.
    if len(logits) and (logits >= 0).all() and (logits.double().sum(1) - 1).abs().max() < 5e-3:
        raise InputError(
            expected="logits", got="probabilities (all rows are non-negative and sum to 1)", hint=hints.scale
        )


def refuse_other_scales(outputs: Tensor, num_classes: int) -> None:
    """Raise InputError if the outputs of a model on a batch of real inputs are no logits of the classes of the data.

    Args:
        outputs: shape (N, K); no probabilities, see `refuse_probabilities`.
        num_classes: number of classes of the data.
    """
    values = outputs.detach().double()
    sums, says = values.sum(1), "--output-kind logits if they are logits (in Python, LogitModel(model, kind='logits'))"
    got = ""
    if (values >= 0).all() and (sums / 100 - 1).abs().max() < 5e-3:
        got = "percentages (all rows are non-negative and sum to 100)"
    elif len(values) >= _ENOUGH and (values >= 0).all() and (values <= 1).all() and (values > 0.5).any():
        got = f"sigmoids (all values are in [0, 1], rows sum to {float(sums.min()):.3g} to {float(sums.max()):.3g})"
    if got:
        raise InputError(expected="logits", got=got, hint=f"--output-kind probs for their logarithm, or {says}")
    foreign = (values.argmax(1) >= num_classes).double().mean()
    if foreign > 0.5 and values.shape[1] >= 2 * num_classes:
        raise InputError(
            expected=f"a model of the {num_classes} classes of the data",
            got=f"{values.shape[1]} outputs, of which the largest is that of no class of the data for "
            f"{float(foreign):.0%} of {len(values)} inputs (features, or classes with other numbers)",
            hint=f"the model with its last layer, data whose labels are the class numbers of the model, or {says}",
        )


_ENOUGH = 32
"""So many rows of logits in [0, 1] are not a coincidence."""


FITTING_DATA = "the data set that the model was trained for, or num_classes in the model's arguments"
"""Hint for labels that do not fit a model."""


def check_labels(labels: Tensor, num_classes: int, *, hint: str | None = None) -> None:
    """Raise InputError unless every label is in [0, ``num_classes``).

    Args:
        labels: class indices.
        num_classes: K.
        hint: what to try; by default it depends on the label.
    """
    if not labels.numel():
        return
    low, high = (int(bound) for bound in labels.aminmax())
    if low < 0 or high >= num_classes:
        unlabeled = "leaving the examples without a label out"
        numbered = "class indices that start at 0, and logits with one column for each class"
        raise InputError(
            expected=f"labels from 0 to {num_classes - 1} ({num_classes} classes)",
            got=f"labels from {low} to {high}",
            hint=hint or (unlabeled if low < 0 else numbered),
        )


def check_probs(probs: Tensor) -> Tensor:
    """Return ``probs`` if its rows are distributions over K >= 2 classes, with sums of 1.

    Sums may differ from 1 by 1e-3, or by what rounding to the dtype of ``probs`` can change, if this is more.

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
    precision = torch.finfo(probs.dtype)
    # Each of the K probabilities may be off by a part of itself, or by a part of the smallest normal number.
    tolerance = max(1e-3, precision.eps * (1 + probs.shape[1] * precision.smallest_normal))
    # The comparisons are written so that NaN fails them.
    valid = (low >= 0) & (high <= 1) & ((probs.sum(1, dtype=torch.float64) - 1).abs() <= tolerance)
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
    check_indices(labels, num_examples, "labels", "class indices, one for each row of logits or probabilities")
    check_labels(labels, num_classes)


def check_indices(values: Tensor, num_examples: int, name: str, hint: str) -> None:
    """Raise InputError unless ``values`` are integers of shape (``num_examples``,); the check reads no values."""
    if values.shape != (num_examples,) or not is_integral(values):
        raise InputError(
            expected=f"integer {name} of shape ({num_examples},)",
            got=f"{values.dtype} of shape {tuple(values.shape)}",
            hint=hint,
        )


def is_integral(values: Tensor) -> bool:
    """Return True if the dtype is that of integers; booleans are not."""
    return not (values.is_floating_point() or values.is_complex() or values.dtype == torch.bool)


def check_examples(
    labels: Tensor, *, logits: Tensor | None = None, probs: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Check labels and scores (the given one of logits and probabilities), and put both on one device."""
    scores = check_predictions(logits=logits, probs=probs)
    check_classes(labels, *scores.shape)
    return labels.long().to(scores.device), scores


def check_subsets(subsets: Tensor, num_examples: int, num_subsets: int | None = None) -> None:
    """Raise InputError unless ``subsets`` are ``num_examples`` integers >= 0, and below ``num_subsets`` if given."""
    check_indices(subsets, num_examples, "subset indices", _SUBSETS)
    if not num_examples:
        return
    low, high = (int(bound) for bound in subsets.aminmax())
    if low < 0 or (num_subsets is not None and high >= num_subsets):
        raise InputError(
            expected="subset indices >= 0" if num_subsets is None else f"subset indices from 0 to {num_subsets - 1}",
            got=f"indices from {low} to {high}",
            hint=_SUBSETS,
        )


_SUBSETS = "the robustness subset of each example, as `assign_subsets` returns it"


def check_positive(**settings: float) -> None:
    """Raise InputError unless every setting is greater than 0."""
    for name, value in settings.items():
        if not value > 0:
            raise InputError(expected=f"{name} > 0", got=f"{name}={value}", hint=f"a positive {name}, or its default")


def check_between(low: float, high: float, **values: Tensor | float) -> None:
    """Raise InputError unless every value is a number from ``low`` to ``high``, up to rounding."""
    for name, given in values.items():
        smallest, largest = (float(bound) for bound in torch.as_tensor(given).detach().aminmax())
        # The comparison is written so that NaN fails it.
        if not (low - _ROUNDING <= smallest and largest <= high + _ROUNDING):
            span = f"{smallest:.4g}" if smallest == largest else f"values from {smallest:.4g} to {largest:.4g}"
            raise InputError(
                expected=f"{name} from {low:.4g} to {high:.4g}", got=span, hint=f"{name} as a number in this range"
            )


_ROUNDING = 1e-6


def can_read(*values: Tensor | None) -> bool:
    """Return True if values can be checked at no cost: all are on the CPU, and no compiler traces the code."""
    on_cpu = all(each is None or each.device.type == "cpu" for each in values)
    return on_cpu and not torch.compiler.is_compiling()


def check_norm_order(norm_order: float) -> None:
    """Raise InputError unless ``norm_order`` is 2 or inf."""
    if norm_order not in (2, math.inf):
        raise InputError(
            expected="norm_order 2 or inf", got=f"norm_order={norm_order}", hint="2 for L2 or math.inf for L-inf"
        )
