"""Training with Lightning (extra: train)."""

from aradals.pipeline.train.fit import TrainedModel, fit_classifier
from aradals.pipeline.train.module import member_seed

__all__ = ["TrainedModel", "fit_classifier", "member_seed"]
