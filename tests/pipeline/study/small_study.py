"""A study of small pictures that takes seconds, and what the tests of its parts have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aradals.data import load_data
from aradals.models import build_model, load_checkpoint
from aradals.pipeline.config import (
    EvaluationConfig,
    MethodConfig,
    ScoringConfig,
    SplitConfig,
    StudyConfig,
    TrainingConfig,
)
from aradals.pipeline.study import SeedRun, load_study_data
from aradals.smoothing.update_rules import UpdateRule

VANILLA = MethodConfig()
ADAPTIVE = UpdateRule(rate=0.5)


def save_digits(path: Path, *, num_train: int = 200, num_test: int = 100, **columns: Any) -> str:
    """Some of scikit-learn's digits as an ``.npz`` with a training and a test split, and further arrays."""
    arrays = dict(columns)
    for split, num in (("train", num_train), ("test", num_test)):
        _, inputs, labels = load_data("digits", split).__getitems__(list(range(num)))
        arrays |= {f"x_{split}": inputs.numpy(), f"y_{split}": labels.numpy()}
    np.savez(path, **arrays)
    return str(path)


def small_config(data: str | list[str], methods: dict[str, MethodConfig], **changes: Any) -> StudyConfig:
    """A study of a small network in two epochs; ``changes`` are other fields of the configuration."""
    settings: dict[str, Any] = {
        "model": "small_cnn",
        "model_args": {"width": 4},
        "splits": SplitConfig(validation=40, calibration=40, train=100),
        "training": TrainingConfig(epochs=2, batch_size=25, learning_rate=0.01),
        "scoring": ScoringConfig(attack="first_order_margin"),
        "evaluation": EvaluationConfig(num_subsets=2, corruptions=["contrast"], severities=[5], num_resamples=20),
    }
    return StudyConfig(data=data, methods=methods, **(settings | changes))


def seed_run(config: StudyConfig, folder: Path, *, seed: int = 0) -> tuple[SeedRun, list[str]]:
    """The stages of one seed, and what they log."""
    log: list[str] = []
    return SeedRun(config, *load_study_data(config), seed, folder, "cpu", log.append), log


def weights(checkpoint: Path) -> Tensor:
    """All parameters and running means of a checkpoint of the small network, as one vector."""
    model = build_model("small_cnn", num_classes=10, in_channels=1, width=4)
    load_checkpoint(model, checkpoint)
    return torch.cat([value.flatten().double() for value in model.state_dict().values()])


def trainings(log: list[str]) -> list[str]:
    """Who was trained, as the log tells it: what stands before each first epoch."""
    return [line.partition(": epoch 1/")[0] for line in log if ": epoch 1/" in line]
