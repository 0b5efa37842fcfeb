"""Training with Lightning (extra: train)."""

from aradals.training.fit import TrainedModel, fit_classifier

__all__ = ["TrainedModel", "fit_classifier"]
