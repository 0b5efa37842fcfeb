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
from aradals.attacks import (
    AttackResult,
    boundary,
    carlini_wagner,
    ddn,
    deepfool,
    first_order_margin,
    fmn,
    logit_margin,
    pgd,
)
from aradals.audit import audit_scores, describe_audit, rank_agreement
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
from aradals.robustness import ScoreTable, score, score_batches

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
    "audit_scores",
    "boundary",
    "brier_score",
    "carlini_wagner",
    "ddn",
    "deepfool",
    "default_update_rate",
    "describe_audit",
    "expected_calibration_error",
    "first_order_margin",
    "fmn",
    "logit_margin",
    "mean_confidence",
    "nll",
    "pgd",
    "predict",
    "rank_agreement",
    "score",
    "score_batches",
    "smoothing_to_target_prob",
    "soft_cross_entropy",
    "soft_targets",
    "subset_calibration_error",
    "summarise",
    "target_prob_to_smoothing",
    "update_target_prob",
]
