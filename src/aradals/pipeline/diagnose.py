"""Where a trained classifier's confidence is wrong: by robustness subset, class and threshold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from aradals.inference.predictions import Predictions
from aradals.metrics import confidence_threshold
from aradals.pipeline.evaluate import evaluate_predictions, reliability_bins

MAX_ERRORS = (0.01, 0.05)


def diagnose(
    predictions: Predictions,
    subsets: Tensor | None,
    class_names: tuple[str, ...],
    *,
    keys: Mapping[str, object],
    num_bins: int = 15,
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Everything that `aradals diagnose` finds out, from predictions and robustness subsets.

    Args:
        predictions: of N examples.
        subsets: int64, shape (N,), 0 = least robust; None leaves out what is told by robustness.
        class_names: one per class.
        keys: what was evaluated (method, data, ...), copied into every row.
        num_bins: of ECE and reliability diagrams.
        num_resamples: bootstrap resamples for the intervals.
        seed: of the bootstrap.

    Returns:
        ``overall`` and ``subsets`` (rows as in `evaluate_predictions`), ``reliability``,
        ``least_robust_classes`` (by their share of subset 0, largest first), ``confidence_thresholds`` (the
        confidence above which at most 1 % / 5 % of the predictions are wrong; ``threshold`` None when there is none).
    """
    (overall, *rows), _ = evaluate_predictions(
        predictions, subsets, keys=keys, num_bins=num_bins, num_resamples=num_resamples, seed=seed
    )
    by_subset = [] if subsets is None else [predictions.select(subsets == row["subset"]) for row in rows]
    return {
        "num_classes": predictions.logits.shape[1],
        "class_names": list(class_names),
        "overall": overall,
        "subsets": rows,
        "reliability": {
            "overall": reliability_bins(predictions.logits, predictions.labels, num_bins),
            "subsets": [reliability_bins(part.logits, part.labels, num_bins) for part in by_subset],
        },
        "least_robust_classes": _classes(by_subset[0], predictions, class_names) if by_subset else [],
        "confidence_thresholds": [_threshold(predictions, max_error) for max_error in MAX_ERRORS],
    }


def _classes(least_robust: Predictions, everything: Predictions, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Which true classes the least robust subset is made of, beside their share of all examples."""
    confidence, predicted = least_robust.probs.max(1)
    correct = (predicted == least_robust.labels).double()
    found = []
    for label in torch.unique(least_robust.labels).tolist():
        member = least_robust.labels == label
        found.append(
            {
                "class": label,
                "name": names[label] if label < len(names) else str(label),
                "n": int(member.sum()),
                "share": member.double().mean().item(),
                "base_share": (everything.labels == label).double().mean().item(),
                "accuracy": correct[member].mean().item(),
                "confidence": confidence[member].mean().item(),
            }
        )
    return sorted(found, key=lambda row: (-row["n"], row["class"]))


def _threshold(predictions: Predictions, max_error: float) -> dict[str, Any]:
    found = confidence_threshold(predictions.labels, max_error, logits=predictions.logits)
    if found is None:
        return {"max_error": max_error, "threshold": None, "coverage": 0.0, "n": 0, "error": None}
    return {
        "max_error": max_error,
        "threshold": found.threshold,
        "coverage": found.coverage,
        "n": found.n,
        "error": found.error,
    }
