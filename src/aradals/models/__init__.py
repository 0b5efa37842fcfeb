"""Reference networks, models by name, and their checkpoints."""

from __future__ import annotations

from aradals.models.builder import build_model, build_untrained, is_built_in, list_models
from aradals.models.checkpoint import (
    CheckpointDescription,
    check_fit,
    load_checkpoint,
    read_checkpoint_metadata,
    read_description,
    save_checkpoint,
    seal_description,
    weights_digest,
)
from aradals.models.imagenet_resnet import ImageNetResNet
from aradals.models.layers import Normalize
from aradals.models.load import load_model
from aradals.models.mlp import MLP
from aradals.models.preact_resnet import PreActResNet
from aradals.models.preprocessing import Preprocessed, Preprocessing
from aradals.models.resnet import ResNet
from aradals.models.small_cnn import SmallCNN
from aradals.models.wide_resnet import WideResNet

__all__ = [
    "MLP",
    "CheckpointDescription",
    "ImageNetResNet",
    "Normalize",
    "PreActResNet",
    "Preprocessed",
    "Preprocessing",
    "ResNet",
    "SmallCNN",
    "WideResNet",
    "build_model",
    "build_untrained",
    "check_fit",
    "is_built_in",
    "list_models",
    "load_checkpoint",
    "load_model",
    "read_checkpoint_metadata",
    "read_description",
    "save_checkpoint",
    "seal_description",
    "weights_digest",
]
