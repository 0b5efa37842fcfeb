"""Inference with models, without changing them: predictions, input gradients, faster copies, ensembles."""

from aradals.inference.ensemble import Ensemble, pool_logits, pool_predictions
from aradals.inference.outputs import LogitModel
from aradals.inference.predictions import Batch, Predictions, predict

__all__ = ["Batch", "Ensemble", "LogitModel", "Predictions", "pool_logits", "pool_predictions", "predict"]
