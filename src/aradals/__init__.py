"""ar-adals: find out where a classifier's confidence is wrong, train it to be right, and prove it.

The core (scores, subsets, adaptive targets, metrics, temperature) needs torch and numpy alone. Training, data, reports
and the command line are extras: ``pip install 'ar-adals[all]'``.
"""

from aradals.adaptive_smoothing import (
    AdaptiveSmoothing,
    assign_subsets,
    default_update_rate,
    smoothing_to_target_prob,
    soft_cross_entropy,
    soft_targets,
    target_prob_to_smoothing,
    update_target_prob,
)
from aradals.attacks import AttackResult, carlini_wagner, ddn, deepfool, fmn, pgd
from aradals.calibration import TemperatureScaling
from aradals.errors import InputError
from aradals.inference import Predictions, predict
from aradals.metrics import (
    accuracy,
    brier_score,
    expected_calibration_error,
    mean_confidence,
    nll,
    subset_calibration_error,
    summarise,
)
from aradals.robustness import ScoreTable, score

__version__ = "0.1.0"

__all__ = [
    "AdaptiveSmoothing",
    "AttackResult",
    "InputError",
    "Predictions",
    "ScoreTable",
    "TemperatureScaling",
    "accuracy",
    "assign_subsets",
    "brier_score",
    "carlini_wagner",
    "ddn",
    "deepfool",
    "default_update_rate",
    "expected_calibration_error",
    "fmn",
    "mean_confidence",
    "nll",
    "pgd",
    "predict",
    "score",
    "smoothing_to_target_prob",
    "soft_cross_entropy",
    "soft_targets",
    "subset_calibration_error",
    "summarise",
    "target_prob_to_smoothing",
    "update_target_prob",
]
