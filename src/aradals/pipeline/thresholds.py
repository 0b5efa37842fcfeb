"""Confidence thresholds for accepting predictions, as records: for all examples, and for each robustness subset."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace

from torch import Tensor

from aradals.inference.predictions import Predictions
from aradals.metrics import (
    ConfidenceThreshold,
    confidence_threshold,
    confidence_threshold_by_subset,
    min_accepted,
)
from aradals.metrics.selective import level_of_each
from aradals.results.records import Threshold

MAX_ERRORS = (0.01, 0.05)
"""Shares of wrong predictions for which a confidence threshold is sought."""

LEVEL = 0.95
"""Confidence level of the guarantee for all examples, and of those for all subsets together."""


def check_max_errors(max_errors: Iterable[float]) -> None:
    """Raise InputError for a share outside [0, 1]."""
    for max_error in max_errors:
        min_accepted(max_error)


def find_thresholds(
    predictions: Predictions, subsets: Tensor | None, max_errors: Iterable[float], calibrator: str = "none"
) -> Iterator[Threshold]:
    """Find the threshold of all examples, and then those of the subsets, for each share of wrong predictions."""
    labels, logits = predictions.labels, predictions.logits
    for max_error in dict.fromkeys(max_errors):
        found = confidence_threshold(labels, max_error, logits=logits, level=LEVEL)
        yield _record(found, max_error, LEVEL, calibrator, None)
        if subsets is not None:
            by_subset = confidence_threshold_by_subset(labels, subsets, max_error, logits=logits, level=LEVEL)
            level = level_of_each(LEVEL, len(by_subset))
            for subset, own in by_subset.items():
                yield _record(own, max_error, level, calibrator, subset)


def _record(
    found: ConfidenceThreshold | None, max_error: float, level: float, calibrator: str, subset: int | None
) -> Threshold:
    where = Threshold(max_error, level=level, calibrator=calibrator, subset=subset)
    return where if found is None else replace(where, **asdict(found))
