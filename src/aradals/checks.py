"""Checks of tensors and numbers: each raises `InputError` for a value that cannot be meant."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aradals.errors import InputError

ROUNDING = 1e-6
"""Distance from the ends of a range that rounding explains."""

Values = Tensor | npt.NDArray[Any] | Sequence[Any]
"""A tensor, or what NumPy makes an array of, such as a list or a column of a table."""


def to_tensor(values: Values) -> Tensor:
    """Return a tensor as it is, and make a tensor of an array or a list.

    Raises:
        InputError: the values are not numbers, or rows have different lengths.
    """
    if isinstance(values, Tensor):
        return values
    try:
        return torch.from_numpy(np.array(values))
    except (TypeError, ValueError) as error:
        raise InputError(
            expected="a tensor, or an array or a list of numbers",
            got=f"{type(values).__name__} ({error})",
            hint="class indices for labels, and rows of one length for logits and probabilities",
        ) from error


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
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):
        raise InputError(
            expected="inputs in [0, 1]",
            got=f"values from {low:.4g} to {high:.4g}",
            hint="scaling the inputs to [0, 1], and making normalization the first layer of the model",
        )


OutputKind = Literal[
    "logits", "log-probabilities", "probabilities", "percentages", "sigmoids", "one-hot", "labels", "binary"
]
"""Kinds of outputs of a classifier, see `kind_of_outputs`."""


def kind_of_outputs(values: Tensor) -> OutputKind:
    """Tell by their values what the outputs of a classifier are.

    Only ``logits`` and ``log-probabilities`` are logits. A single column is ``labels`` if all values are whole numbers,
    else ``binary`` (the probability or the logit of the positive class). Columns of K classes are

    - ``probabilities`` if no value is negative and every row sums to 1; ``one-hot`` if they are all 0 or 1,
    - ``percentages`` if no value is negative and every row sums to 100,
    - ``sigmoids`` if all values of at least 8 rows are in [0, 1], some above 0.5, and the rows sum to other numbers,
    - ``log-probabilities`` if their exponentials sum to 1 in every row,
    - ``logits`` otherwise, also if a value is NaN.

    Logits can look like sigmoids by chance. ``log_softmax(1)`` makes them log-probabilities, and changes no prediction.

    Args:
        values: shape (N,) or (N, K).
    """
    values = values.detach()
    if values.ndim == 1 or values.shape[1] == 1:
        return "labels" if bool((values == values.floor()).all()) else "binary"
    if not len(values):
        return "logits"
    low, high = (float(bound) for bound in values.aminmax())
    if low >= 0:
        sums = values.sum(1, dtype=torch.float64)
        if _all_near(sums, 1):
            return "one-hot" if bool(((values == 0) | (values == 1)).all()) else "probabilities"
        if _all_near(sums, 100):
            return "percentages"
        # A few rows are too little evidence, because a few logits lie in [0, 1] easily.
        return "sigmoids" if 0.5 < high <= 1 and len(values) >= _ENOUGH_ROWS else "logits"
    return "log-probabilities" if high <= ROUNDING and _all_near(values.double().exp().sum(1), 1) else "logits"


_ENOUGH_ROWS = 8


def _all_near(sums: Tensor, total: float) -> bool:
    # The tolerance allows for the rounding of probabilities in bfloat16.
    return bool((sums - total).abs().max() < 5e-3 * total)


class _Hints(NamedTuple):
    """What helps against each fault of logits; it depends on where the logits come from."""

    shape: str
    dtype: str
    finite: str
    masked: str
    kinds: Mapping[OutputKind, str]


_ARE_LOGITS = "values.log_softmax(1) if the values are logits"

_OF_AN_ARRAY = _Hints(
    shape="one row for each example, and one column for each class",
    dtype="logits.float()",
    finite="leaving these examples out, after a look at the step that makes such values",
    masked="masking with a large negative number such as -1e4",
    kinds={
        "probabilities": "the logits themselves, or probs.log() if only probabilities are known",
        "percentages": "the logits themselves, or (values / 100).log() if only percentages are known",
        "sigmoids": f"values.logit(1e-6), which are the logits before the sigmoid, or {_ARE_LOGITS}",
        "one-hot": "the logits or probabilities before argmax, because a predicted class has no confidence",
    },
)

_OF_A_MODEL = _Hints(
    shape="a model that returns one row of class logits per input",
    dtype="a model that returns logits, not classes",
    finite="a checkpoint of a training that did not diverge, and inputs in [0, 1] with normalization inside the model",
    masked="a model that masks with a large negative number such as -1e4",
    # Values of another scale are refused once, by `refuse_other_scales`, because a few logits can look like them.
    kinds={
        "probabilities": "removing the softmax at the end of the model, or log_softmax in its place; or --output-kind "
        "probs, LogitModel(model, kind='probs') in Python, for the logarithm, which loses digits and gradients",
        "one-hot": "a model that returns the numbers before argmax, because a predicted class has no confidence",
    },
)

_DESCRIPTIONS: Mapping[OutputKind, str] = {
    "probabilities": "probabilities (all rows are non-negative and sum to 1)",
    "percentages": "percentages (all rows are non-negative and sum to 100)",
    "sigmoids": "sigmoids (all values are in [0, 1], and the rows do not sum to 1)",
    "one-hot": "one-hot predictions (all values are 0 or 1, with one 1 in every row)",
}


def check_logits(logits: Values, num_examples: int) -> Tensor:
    """Return ``logits`` if a classifier can have made them: floats of shape (N, K >= 2), see `kind_of_outputs`.

    They are finite, except that a logit of -inf masks a class of an example, whose probability is then 0.

    Raises:
        InputError: otherwise.
    """
    return _check_values(to_tensor(logits), num_examples, _OF_AN_ARRAY)


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
    if hints is _OF_A_MODEL:
        check_finite_logits(values, hints)
    else:
        values = _unmasked(values)
    refuse_other_outputs(values, hints)
    return logits


def _unmasked(logits: Tensor) -> Tensor:
    """Check logits of which -inf masks a class, and return them with a finite number for -inf."""
    if (logits == -math.inf).all(1).any():
        raise InputError(
            expected="at least one class that is not masked for each example",
            got="rows of -inf",
            hint="leaving these examples out",
        )
    finite = logits.masked_fill(logits == -math.inf, torch.finfo(logits.dtype).min)
    check_finite_logits(finite)
    return finite


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


def refuse_other_outputs(logits: Tensor, hints: _Hints = _OF_AN_ARRAY) -> None:
    """Raise InputError if the logits can only be outputs of another kind, such as probabilities."""
    kind = kind_of_outputs(logits)
    if kind in hints.kinds:
        raise InputError(expected="logits", got=_DESCRIPTIONS[kind], hint=hints.kinds[kind])


def refuse_other_scales(outputs: Tensor, num_classes: int | None) -> None:
    """Raise InputError if the outputs of a model on a batch of real inputs are no logits of the classes of the data.

    Args:
        outputs: shape (N, K); no probabilities, see `refuse_other_outputs`.
        num_classes: number of classes of the data, whose labels are the numbers of the model; None for other labels.
    """
    values = outputs.detach().double()
    says = "--output-kind logits if they are logits (in Python, LogitModel(model, kind='logits'))"
    if (kind := kind_of_outputs(values)) in ("percentages", "sigmoids"):
        raise InputError(
            expected="logits", got=_DESCRIPTIONS[kind], hint=f"--output-kind probs for their logarithm, or {says}"
        )
    if num_classes is None:
        return
    foreign = (values.argmax(1) >= num_classes).double().mean()
    if foreign > 0.5 and values.shape[1] >= 4 * num_classes:  # fewer may be classes with other numbers
        raise InputError(
            expected=f"a model of the {num_classes} classes of the data",
            got=f"{values.shape[1]} outputs, of which the largest is that of no class of the data for "
            f"{float(foreign):.0%} of {len(values)} inputs (features, or classes with other numbers)",
            hint=f"the model with its last layer, data whose labels are the class numbers of the model, or {says}",
        )


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
        kind = kind_of_outputs(probs)
        described = f", because they are {_DESCRIPTIONS[kind]}" if kind in _NO_PROBS else ""
        raise InputError(
            expected="probabilities in [0, 1] that sum to 1 in every row",
            got=f"{int((~valid).sum())} of {len(valid)} rows that break this rule{described}",
            hint=_NO_PROBS.get(kind, "passing them as logits= if they are logits"),
        )
    return probs


_NO_PROBS: Mapping[OutputKind, str] = {
    "percentages": "probs / 100",
    "sigmoids": "probs / probs.sum(1, keepdim=True) if every example has exactly one class",
}


def check_predictions(*, logits: Values | None = None, probs: Values | None = None) -> Tensor:
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
    given = to_tensor(given).detach()
    if given.numel() == 0:
        raise InputError(expected="at least one example", got="none", hint="another split or subset")
    if probs is not None:
        return check_probs(given)
    return given if _plain_logits(given) else check_logits(given, len(given))


def _plain_logits(values: Tensor) -> bool:
    """Return True if one pass shows that these are logits; otherwise `check_logits` decides, with several passes."""
    if values.ndim != 2 or values.shape[1] < 2 or not values.is_floating_point():
        return False
    low, high = values.aminmax()  # NaN if any value is
    return -math.inf < float(low) < 0 and float(high) < math.inf


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
    labels: Values, *, logits: Values | None = None, probs: Values | None = None, ignore_index: int | None = None
) -> tuple[Tensor, Tensor]:
    """Check labels and scores (the given one of logits and probabilities), and put both on one device.

    Examples with the label ``ignore_index`` are left out before their values are checked.
    """
    labels = to_tensor(labels)
    if ignore_index is not None:
        given = {"logits": logits, "probs": probs}
        keep = labels != ignore_index
        kept = {name: None if each is None else counted(to_tensor(each), keep) for name, each in given.items()}
        return check_examples(labels[keep], logits=kept["logits"], probs=kept["probs"])
    scores = check_predictions(logits=logits, probs=probs)
    check_indices(labels, len(scores), "labels", "class indices, one for each row of logits or probabilities")
    labels = labels.long()
    check_labels(labels, scores.shape[1])
    return labels.to(scores.device), scores


def check_subsets(subsets: Values, num_examples: int, num_subsets: int | None = None) -> Tensor:
    """Return ``subsets`` as int64.

    Raises:
        InputError: they are not ``num_examples`` integers >= 0, and below ``num_subsets`` if given.
    """
    subsets = to_tensor(subsets)
    check_indices(subsets, num_examples, "subset indices", _SUBSETS)
    subsets = subsets.long()
    if not num_examples:
        return subsets
    low, high = (int(bound) for bound in subsets.aminmax())
    if low < 0 or (num_subsets is not None and high >= num_subsets):
        raise InputError(
            expected="subset indices >= 0" if num_subsets is None else f"subset indices from 0 to {num_subsets - 1}",
            got=f"indices from {low} to {high}",
            hint=_SUBSETS,
        )
    return subsets


_SUBSETS = "the robustness subset of each example, as `assign_subsets` returns it"


def counted(values: Tensor, keep: Tensor) -> Tensor:
    """Select the rows that count; ``keep`` has one entry for each row."""
    if values.shape[:1] != keep.shape:
        raise InputError(
            expected=f"one row for each of {len(keep)} labels", got=f"shape {tuple(values.shape)}", hint="equal lengths"
        )
    return values[keep.to(values.device)]


def check_weights(weights: Values, num_examples: int) -> Tensor:
    """Return the weights of examples as float64.

    Raises:
        InputError: they are not ``num_examples`` finite numbers of at least 0, or all of them are 0.
    """
    weights = to_tensor(weights).double()
    if weights.shape != (num_examples,) or not (weights.isfinite() & (weights >= 0)).all() or not weights.sum() > 0:
        raise InputError(
            expected=f"sample_weight: {num_examples} numbers of at least 0, not all of them 0",
            got=f"shape {tuple(weights.shape)}, with values from {float(weights.min()) if weights.numel() else 0:.4g}",
            hint="one weight for each example",
        )
    return weights


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
        if not (low - ROUNDING <= smallest and largest <= high + ROUNDING):
            span = f"{smallest:.4g}" if smallest == largest else f"values from {smallest:.4g} to {largest:.4g}"
            raise InputError(
                expected=f"{name} from {low:.4g} to {high:.4g}", got=span, hint=f"{name} as a number in this range"
            )


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
