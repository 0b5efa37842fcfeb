"""Drifted copies of calibration examples, on which a batch temperature learns what drift does to the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from aradals.calibration import BatchTemperature
from aradals.data import Examples
from aradals.data.augmix import augmix
from aradals.errors import InputError
from aradals.inference.predictions import Batch, Predictions, predict
from aradals.pipeline.numbering import check_numbering

Drift = Callable[[Tensor], Tensor]
"""A random change of inputs in [0, 1]; random numbers come from the global generator of torch."""

SEVERITIES = (1, 3, 6, 10)
NOISE = (0.25, 0.5, 1.0, 2.0)
LOST = (0.1, 0.25, 0.5, 0.75)

DRIFTS = 3
"""Version of the drifts and of the fit to them. Another version makes studies fit their batch temperatures again."""


def image_drifts() -> list[Drift]:
    """AugMix at four severities, with and without the mixing with the original; no corruption of CIFAR-10-C."""
    return [partial(_augmix, severity=severity, pure=pure) for severity in SEVERITIES for pure in (False, True)]


def table_drifts(inputs: Tensor) -> list[Drift]:
    """Noise in every column, in parts of its standard deviation; and lost values, replaced by the mean of the column.

    Args:
        inputs: the rows of a table, which give the means and standard deviations, shape (N, D).
    """
    mean, spread = inputs.mean(0), inputs.std(0, correction=0)
    noises: list[Drift] = [partial(_noise, spread=scale * spread) for scale in NOISE]
    return noises + [partial(_lose, mean=mean, share=share) for share in LOST]


def check_domains(examples: Examples) -> None:
    """Raise InputError unless the examples are images or the rows of a table."""
    if len(examples.input_shape) not in (1, 3):
        raise InputError(
            expected="images or the rows of a table, of which batch_temperature makes drifted copies",
            got=f"inputs of shape {examples.input_shape}",
            hint="BatchTemperature().fit(labels, logits=..., domains=...) with drifted copies of your own",
        )


def predict_domains(model: nn.Module, examples: Examples) -> tuple[Predictions, Tensor]:
    """Predict examples as they are and under each drift; the same in every call.

    Returns:
        The predictions of all copies, and the number of the drift of each, 0 for the examples as they are.
    """
    is_table = len(examples.input_shape) == 1
    drifts = table_drifts(examples.batch(range(len(examples)))[1]) if is_table else image_drifts()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts = [predict(model, examples.batches())]
        check_numbering(parts[0], examples.name)
        parts += [predict(model, _drifted(examples, drift)) for drift in drifts]
    domains = torch.arange(len(parts)).repeat_interleave(len(examples))
    return Predictions.concatenate(parts), domains


def fit_on_domains(calibrator: BatchTemperature, model: nn.Module, examples: Examples) -> None:
    """Fit a batch temperature on the predictions of examples as they are and under each drift."""
    predictions, domains = predict_domains(model, examples)
    calibrator.fit(predictions.labels, logits=predictions.logits, domains=domains)


def _drifted(examples: Examples, drift: Drift) -> Iterator[Batch]:
    for ids, inputs, labels in examples.batches():
        yield ids, drift(inputs), labels


def _augmix(inputs: Tensor, severity: float, pure: bool) -> Tensor:
    return augmix(inputs, severity=severity, mix_weight=torch.ones(len(inputs)) if pure else None)


def _noise(inputs: Tensor, spread: Tensor) -> Tensor:
    return (inputs + spread * torch.randn(inputs.shape)).clamp(0, 1)


def _lose(inputs: Tensor, mean: Tensor, share: float) -> Tensor:
    return torch.where(torch.rand(inputs.shape) < share, mean, inputs)
