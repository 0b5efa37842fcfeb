"""Accuracy, calibration, their intervals and noise floors: tensors in, numbers out.

Every metric takes the labels and exactly one of ``logits=`` and ``probs=``. The code never guesses from the values
which of the two a tensor is. All metrics are fractions (not percent), computed in float64.
"""

from __future__ import annotations

from aradals.metrics.bootstrap import resampled_metrics
from aradals.metrics.calibration import (
    ReliabilityDiagram,
    SubsetCalibrationError,
    adaptive_calibration_error,
    binary_calibration_error,
    classwise_calibration_error,
    debiased_l2_calibration_error,
    expected_calibration_error,
    ks_calibration_error,
    max_calibration_error,
    reliability_diagram,
    subset_calibration_error,
)
from aradals.metrics.estimates import Estimate, estimate_metrics
from aradals.metrics.family import all_metrics
from aradals.metrics.intervals import calibration_error_interval
from aradals.metrics.noise_floor import NoiseFloor, SubsetNoiseFloor, ece_noise_floor, subset_noise_floor
from aradals.metrics.outcomes import Outcomes, outcomes
from aradals.metrics.proper import (
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
    confidence_threshold_by_subset,
    coverage_at_error,
    error_auroc,
    min_accepted,
    ood_auroc,
    ood_scores,
)
from aradals.metrics.smooth import smooth_calibration_error
from aradals.metrics.stability import disagreement, matched_temperatures, prediction_variance, stability
from aradals.metrics.summary import summarize, summarize_by_subset

__all__ = [
    "ConfidenceThreshold",
    "Estimate",
    "NoiseFloor",
    "Outcomes",
    "ReliabilityDiagram",
    "SubsetCalibrationError",
    "SubsetNoiseFloor",
    "accuracy",
    "accuracy_at_coverage",
    "adaptive_calibration_error",
    "all_metrics",
    "aurc",
    "binary_calibration_error",
    "brier_calibration",
    "brier_refinement",
    "brier_score",
    "calibration_error_interval",
    "classwise_calibration_error",
    "confidence_threshold",
    "confidence_threshold_by_subset",
    "coverage_at_error",
    "debiased_l2_calibration_error",
    "disagreement",
    "ece_noise_floor",
    "error_auroc",
    "estimate_metrics",
    "expected_calibration_error",
    "ks_calibration_error",
    "matched_temperatures",
    "max_calibration_error",
    "mean_confidence",
    "min_accepted",
    "nll",
    "ood_auroc",
    "ood_scores",
    "outcomes",
    "prediction_variance",
    "reliability_diagram",
    "resampled_metrics",
    "smooth_calibration_error",
    "stability",
    "subset_calibration_error",
    "subset_noise_floor",
    "summarize",
    "summarize_by_subset",
    "wilson_interval",
]
