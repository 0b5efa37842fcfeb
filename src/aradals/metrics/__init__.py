"""Accuracy, calibration, their intervals and noise floors."""

from __future__ import annotations

from aradals.metrics.bootstrap import Estimate, calibration_error_interval, estimate_metrics, resampled_metrics
from aradals.metrics.functional import (
    ConfidenceThreshold,
    Outcomes,
    ReliabilityDiagram,
    SubsetCalibrationError,
    accuracy,
    brier_score,
    confidence_threshold,
    expected_calibration_error,
    mean_confidence,
    nll,
    outcomes,
    reliability_diagram,
    subset_calibration_error,
    wilson_interval,
)
from aradals.metrics.noise import NoiseFloor, SubsetNoiseFloor, ece_noise_floor, subset_noise_floor
from aradals.metrics.stability import disagreement, matched_temperatures, prediction_variance, stability
from aradals.metrics.summary import summarise, summarise_by_subset

__all__ = [
    "ConfidenceThreshold",
    "Estimate",
    "NoiseFloor",
    "Outcomes",
    "ReliabilityDiagram",
    "SubsetCalibrationError",
    "SubsetNoiseFloor",
    "accuracy",
    "brier_score",
    "calibration_error_interval",
    "confidence_threshold",
    "disagreement",
    "ece_noise_floor",
    "estimate_metrics",
    "expected_calibration_error",
    "matched_temperatures",
    "mean_confidence",
    "nll",
    "outcomes",
    "prediction_variance",
    "reliability_diagram",
    "resampled_metrics",
    "stability",
    "subset_calibration_error",
    "subset_noise_floor",
    "summarise",
    "summarise_by_subset",
    "wilson_interval",
]
