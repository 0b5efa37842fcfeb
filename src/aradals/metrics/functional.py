"""Accuracy and calibration metrics: tensors in, numbers out.

Every metric takes the labels and exactly one of ``logits=`` and ``probs=``; which of the two a tensor is, is
never guessed from its values. All are fractions (not percent), computed in float64.
"""

from __future__ import annotations

from aradals.metrics.calibration_errors import (
    ReliabilityDiagram,
    SubsetCalibrationError,
    adaptive_calibration_error,
    classwise_calibration_error,
    debiased_l2_calibration_error,
    expected_calibration_error,
    ks_calibration_error,
    max_calibration_error,
    reliability_diagram,
    subset_calibration_error,
)
from aradals.metrics.family import all_metrics
from aradals.metrics.per_example import Outcomes, check_classes, outcomes
from aradals.metrics.scores import (
    accuracy,
    brier_calibration,
    brier_refinement,
    brier_score,
    mean_confidence,
    nll,
    wilson_interval,
)
from aradals.metrics.selective import (
    ConfidenceThreshold,
    accuracy_at_coverage,
    aurc,
    confidence_threshold,
    error_auroc,
    ood_auroc,
    ood_scores,
)
from aradals.metrics.smooth import smooth_calibration_error

__all__ = [
    "ConfidenceThreshold",
    "Outcomes",
    "ReliabilityDiagram",
    "SubsetCalibrationError",
    "accuracy",
    "accuracy_at_coverage",
    "adaptive_calibration_error",
    "all_metrics",
    "aurc",
    "brier_calibration",
    "brier_refinement",
    "brier_score",
    "check_classes",
    "classwise_calibration_error",
    "confidence_threshold",
    "debiased_l2_calibration_error",
    "error_auroc",
    "expected_calibration_error",
    "ks_calibration_error",
    "max_calibration_error",
    "mean_confidence",
    "nll",
    "ood_auroc",
    "ood_scores",
    "outcomes",
    "reliability_diagram",
    "smooth_calibration_error",
    "subset_calibration_error",
    "wilson_interval",
]
