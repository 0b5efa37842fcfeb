"""The method: robustness subsets, adaptive targets, and the rules that update them."""

from aradals.smoothing.adaptive import (
    AdaptiveSmoothing,
    smoothing_to_target_prob,
    soft_targets,
    target_prob_to_smoothing,
)
from aradals.smoothing.shapes import shaped_target_prob
from aradals.smoothing.subsets import (
    assign_subsets,
    column_subsets,
    fold_of,
    match_subsets,
    random_subsets,
    subset_thresholds,
)
from aradals.smoothing.update_rules import UpdateRule, default_update_rate

__all__ = [
    "AdaptiveSmoothing",
    "UpdateRule",
    "assign_subsets",
    "column_subsets",
    "default_update_rate",
    "fold_of",
    "match_subsets",
    "random_subsets",
    "shaped_target_prob",
    "smoothing_to_target_prob",
    "soft_targets",
    "subset_thresholds",
    "target_prob_to_smoothing",
]
