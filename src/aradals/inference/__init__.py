"""Inference with models, without changing them: predictions, input gradients, faster copies, ensembles."""

from aradals.inference.ensemble import Ensemble, pool_logits, pool_predictions
from aradals.inference.predictions import Batch, Predictions, predict

__all__ = ["Batch", "Ensemble", "Predictions", "pool_logits", "pool_predictions", "predict"]
