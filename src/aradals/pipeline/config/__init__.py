"""The settings of studies, methods and trainings, as recipes and options give them."""

from aradals.pipeline.config.methods import (
    AdaptiveTargets,
    Augment,
    ColumnSubsets,
    EnsembleConfig,
    FixedTargets,
    MethodConfig,
    RandomSubsets,
    RankedSubsets,
    SelfScoredSubsets,
    ShapedTargets,
    Subsets,
    Targets,
    is_plain,
)
from aradals.pipeline.config.study import (
    OTHER_FOLDERS,
    EvaluationConfig,
    Precision,
    ScoringConfig,
    SplitConfig,
    StudyConfig,
    TrainingConfig,
)
from aradals.pipeline.config.values import MAX_SEED, check_seeds

__all__ = [
    "MAX_SEED",
    "OTHER_FOLDERS",
    "AdaptiveTargets",
    "Augment",
    "ColumnSubsets",
    "EnsembleConfig",
    "EvaluationConfig",
    "FixedTargets",
    "MethodConfig",
    "Precision",
    "RandomSubsets",
    "RankedSubsets",
    "ScoringConfig",
    "SelfScoredSubsets",
    "ShapedTargets",
    "SplitConfig",
    "StudyConfig",
    "Subsets",
    "Targets",
    "TrainingConfig",
    "check_seeds",
    "is_plain",
]
