"""Models of transformers as models of inputs in [0, 1], and AR-AdaLS in the Trainer."""

from __future__ import annotations

from aradals.integrations.transformers.images import unnormalized
from aradals.integrations.transformers.texts import EmbeddedClassifier, embedded
from aradals.integrations.transformers.trainer import AdaptiveSmoothingCallback, keep_ids

__all__ = ["AdaptiveSmoothingCallback", "EmbeddedClassifier", "embedded", "keep_ids", "unnormalized"]
