"""Public names of `aradals`, which imports this module when one of these names is first used."""

from aradals.attacks import (
    AttackResult,
    carlini_wagner,
    ddn,
    deepfool,
    first_order_margin,
    fmn,
    logit_margin,
    pgd,
    secant,
)
from aradals.calibration import (
    CalibratedModel,
    HistogramBinning,
    IsotonicCalibration,
    MarginTemperature,
    RobustnessTemperature,
    TemperatureScaling,
    VectorScaling,
)
from aradals.errors import InputError
from aradals.inference.ensemble import Ensemble, pool_logits
from aradals.inference.predictions import Predictions, predict
from aradals.losses import focal_loss, jensen_shannon, margin_smoothing_loss, soft_cross_entropy
from aradals.metrics import (
    accuracy,
    brier_score,
    disagreement,
    expected_calibration_error,
    mean_confidence,
    nll,
    prediction_variance,
    stability,
    subset_calibration_error,
    summarize,
)
from aradals.objectives import ccat, mixup
from aradals.robustness.audit import audit_scores, describe_audit, rank_agreement
from aradals.robustness.scores import ScoreTable, score, score_batches
from aradals.smoothing.adaptive import (
    AdaptiveSmoothing,
    smoothing_to_target_prob,
    soft_targets,
    target_prob_to_smoothing,
)
from aradals.smoothing.subsets import assign_subsets, column_subsets, match_subsets, random_subsets, subset_thresholds
from aradals.smoothing.update_rules import UpdateRule, default_update_rate

__all__ = [
    "AdaptiveSmoothing",
    "AttackResult",
    "CalibratedModel",
    "Ensemble",
    "HistogramBinning",
    "InputError",
    "IsotonicCalibration",
    "MarginTemperature",
    "Predictions",
    "RobustnessTemperature",
    "ScoreTable",
    "TemperatureScaling",
    "UpdateRule",
    "VectorScaling",
    "accuracy",
    "assign_subsets",
    "audit_scores",
    "brier_score",
    "carlini_wagner",
    "ccat",
    "column_subsets",
    "ddn",
    "deepfool",
    "default_update_rate",
    "describe_audit",
    "disagreement",
    "expected_calibration_error",
    "first_order_margin",
    "fmn",
    "focal_loss",
    "jensen_shannon",
    "logit_margin",
    "margin_smoothing_loss",
    "match_subsets",
    "mean_confidence",
    "mixup",
    "nll",
    "pgd",
    "pool_logits",
    "predict",
    "prediction_variance",
    "random_subsets",
    "rank_agreement",
    "score",
    "score_batches",
    "secant",
    "smoothing_to_target_prob",
    "soft_cross_entropy",
    "soft_targets",
    "stability",
    "subset_calibration_error",
    "subset_thresholds",
    "summarize",
    "target_prob_to_smoothing",
]
