"""Training with Lightning (extra: train)."""

from aradals.training.fit import TrainedModel, fit_classifier
from aradals.training.module import member_seed

__all__ = ["TrainedModel", "fit_classifier", "member_seed"]
