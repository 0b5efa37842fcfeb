"""Stability: how much the predictions of independently trained models differ."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from aradals.checks import check_subsets
from aradals.errors import InputError
from aradals.metrics.bootstrap import MIN_EXAMPLES, resample_means

MAX_FACTOR = 1e4
"""Matched temperatures are at most so many times larger or smaller than the mean distance to the largest logit."""


def prediction_variance(probs: Tensor) -> Tensor:
    """Variance over models of the predicted probabilities, summed over classes; low = stable.

    The denominator is M - 1, so that results for different numbers of models are comparable. The variance is half the
    mean squared distance between the predictions of two models.

    Example: two models that are sure of different classes have the variance 1/2 + 1/2 = 1.

    Args:
        probs: probabilities of M >= 2 independently trained models, shape (M, N, K).

    Returns:
        Shape (N,), float64, in [0, 1].

    Raises:
        InputError: fewer than two models, or another number of dimensions.
    """
    _check_models(probs, "probabilities of shape (M, N, K)", 3)
    return probs.double().var(0).sum(1)


def disagreement(predicted: Tensor) -> Tensor:
    """Share of the pairs of models that predict different classes, for each example.

    Args:
        predicted: classes predicted by M >= 2 models, integer, shape (M, N).

    Returns:
        Shape (N,), float64, in [0, 1].

    Raises:
        InputError: fewer than two models, or another number of dimensions.
    """
    _check_models(predicted, "predicted classes of shape (M, N)", 2)
    first, second = torch.combinations(torch.arange(len(predicted), device=predicted.device)).unbind(1)
    return (predicted[first] != predicted[second]).double().mean(0)


def matched_temperatures(logits: Tensor, confidence: float) -> Tensor:
    """Find for each model the temperature at which its mean confidence is ``confidence``.

    Soft predictions vary less, even if the models differ as much. At these temperatures, the models of different
    methods are equally soft.

    Args:
        logits: logits of M models, finite floats, shape (M, N, K).
        confidence: the mean confidence to reach, in (1/K, 1).

    Returns:
        Shape (M,), float64, from 1e-4 to 1e4 times the mean distance of a logit to the largest one of its example; NaN
        for a model that reaches the confidence at no temperature in this range (for example because all its logits are
        equal).

    Raises:
        InputError: a confidence outside (1/K, 1).
    """
    _check_models(logits, "logits of shape (M, N, K)", 3, min_models=1)
    if not 1 / logits.shape[2] < confidence < 1:
        raise InputError(
            expected=f"a mean confidence between 1/K = {1 / logits.shape[2]:.3g} and 1",
            got=str(confidence),
            hint="the mean confidence of one of the models",
        )
    # The largest logit becomes 0, so that a division by a low temperature cannot overflow.
    relative = logits.double() - logits.double().amax(2, keepdim=True)
    spread = -relative.mean((1, 2))
    relative = relative / spread[:, None, None]

    def mean_confidence(log_factor: Tensor) -> Tensor:
        return (1 / (relative / log_factor.exp()[:, None, None]).exp().sum(2)).mean(1)

    # Confidence falls with the temperature, so bisection finds the one solution.
    low, high = (torch.full_like(spread, end) for end in (-math.log(MAX_FACTOR), math.log(MAX_FACTOR)))
    attainable = (mean_confidence(low) >= confidence) & (mean_confidence(high) <= confidence)
    for _ in range(40):  # 2^-40 of the range: an error of 2e-11 in log T
        middle = (low + high) / 2
        too_confident = mean_confidence(middle) > confidence
        low, high = torch.where(too_confident, middle, low), torch.where(too_confident, high, middle)
    return torch.where(attainable, spread * ((low + high) / 2).exp(), math.nan)


def stability(
    *,
    logits: Tensor,
    subsets: Tensor | None = None,
    match_confidence: float | None = None,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Measure the stability over independently trained models, on all examples and on every robustness subset.

    The intervals are bootstrap percentiles over examples; models and matched temperatures are fixed. The intervals
    hold for these M models on other examples, and not for other models.

    Args:
        logits: logits of M >= 2 independently trained models (not the members of one ensemble trained in step), on the
            same N examples in the same order; finite floats, shape (M, N, K).
        subsets: robustness subset of each example, integer >= 0, shape (N,).
        match_confidence: mean confidence over all examples at which the variance is measured a second time, see
            `matched_temperatures`; use one number for all methods that are compared.
        num_resamples: number of bootstrap resamples.
        level: nominal coverage of the intervals.
        seed: seed of the resamples.

    Returns:
        The overall row (``subset`` None), then one row for each subset that contains examples, least robust first.
        Keys: ``subset, n, num_models``; ``prediction_variance, disagreement, confidence``, which are means over
        examples (and models), each with ``_low`` and ``_high``, which are None for fewer than 50 examples. With
        ``match_confidence`` also ``match_confidence``, and ``matched_prediction_variance`` with its interval, None if a
        model cannot reach the confidence.

    Raises:
        InputError: fewer than two models; subsets of another shape; see `matched_temperatures`.
    """
    _check_models(logits, "logits of shape (M, N, K)", 3)
    num_models, num_examples, _ = logits.shape
    if num_examples == 0:
        raise InputError(expected="at least one example", got="no example", hint="another split")
    logits = logits.double()
    probs = logits.softmax(2)
    values = {
        "prediction_variance": prediction_variance(probs),
        "disagreement": disagreement(logits.argmax(2)),
        "confidence": probs.amax(2).mean(0),
    }
    keys: dict[str, Any] = {"num_models": num_models}
    if match_confidence is not None:
        temperatures = matched_temperatures(logits, match_confidence)[:, None, None]
        values["matched_prediction_variance"] = prediction_variance((logits / temperatures).softmax(2))
        keys["match_confidence"] = match_confidence
    columns = torch.stack(list(values.values()), 1).cpu()

    def row(subset: int | None, columns: Tensor) -> dict[str, Any]:
        tail = (1 - level) / 2
        resampled = resample_means(columns, num_resamples, seed)
        low, high = resampled.quantile(resampled.new_tensor([tail, 1 - tail]), 0)
        if len(columns) < MIN_EXAMPLES:
            low = high = torch.full_like(low, math.nan)
        result: dict[str, Any] = {"subset": subset, "n": len(columns), **keys}
        for name, *interval in zip(values, columns.mean(0).tolist(), low.tolist(), high.tolist(), strict=True):
            for end, value in zip(("", "_low", "_high"), interval, strict=True):
                result[name + end] = None if math.isnan(value) else value
        return result

    rows = [row(None, columns)]
    if subsets is not None:
        check_subsets(subsets, num_examples)
        subsets = subsets.cpu()
        rows += [row(int(subset), columns[subsets == subset]) for subset in torch.unique(subsets)]
    return rows


def _check_models(values: Tensor, expected: str, num_dims: int, min_models: int = 2) -> None:
    if values.ndim != num_dims or len(values) < min_models:
        raise InputError(
            expected=f"{expected} with M >= {min_models} models",
            got=f"shape {tuple(values.shape)}",
            hint="torch.stack on the predictions of the models, so that the models are the first dimension",
        )
