"""The course of a training for TensorBoard, MLflow or Weights & Biases, by the loggers of Lightning."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from torch import Tensor

from aradals._internal.optional import load_extra
from aradals._internal.processes import of_all_processes
from aradals.metrics import expected_calibration_error, nll
from aradals.pipeline.config import TrainingConfig
from aradals.smoothing.adaptive import AdaptiveSmoothing

PROJECT = "ar-adals"
"""Name of the experiment in MLflow and of the project in Weights & Biases."""


def make_logger(training: TrainingConfig, folder: Path, run: str) -> Logger | Literal[False]:
    """Make the logger that the recipe names; the process of rank 0 alone writes to it.

    Args:
        training: settings with the name of the logger.
        folder: folder for files; MLflow has its files there only if the variable ``MLFLOW_TRACKING_URI`` is not set.
        run: name of the run.

    Raises:
        MissingExtraError: the package of the logger is not installed.
    """
    if training.logger == "none":
        return False
    load_extra(training.logger)
    match training.logger:
        case "tensorboard":
            return TensorBoardLogger(folder, name=run, version="", default_hp_metric=False)
        case "mlflow":
            server = os.environ.get("MLFLOW_TRACKING_URI")
            return MLFlowLogger(PROJECT, run_name=run, tracking_uri=server, save_dir=str(folder / "mlruns"))
        case "wandb":
            folder.mkdir(parents=True, exist_ok=True)
            return WandbLogger(name=run, save_dir=folder, project=PROJECT)


def validation_metrics(ids: Tensor, labels: Tensor, logits: Tensor) -> dict[str, float]:
    """Compute NLL and ECE of the validation split; each process that trains has a part, and must call this function."""
    parts = of_all_processes((ids.cpu(), labels.cpu(), logits.detach().cpu()))
    ids, labels, logits = (torch.cat(columns) for columns in zip(*parts, strict=True))
    once = dict(zip(ids.tolist(), range(len(ids)), strict=True))  # parts of equal size repeat some examples
    rows = torch.tensor(list(once.values()))
    labels, logits = labels[rows], logits[rows]
    return {
        "validation/nll": nll(labels, logits=logits),
        "validation/ece": expected_calibration_error(labels, logits=logits),
    }


def epoch_metrics(
    epoch: Mapping[str, float], validation: Mapping[str, float], criterion: AdaptiveSmoothing
) -> dict[str, float]:
    """Collect what is logged of an epoch: training, validation if there was one, and each subset's target and gap."""
    found = {"train/loss": epoch["loss"], "train/accuracy": epoch["accuracy"], **validation}
    found |= {f"target_prob/{subset}": target for subset, target in enumerate(criterion.target_prob.tolist())}
    if validation:
        measured = criterion.history[-1]
        pairs = zip(measured["confidence"], measured["accuracy"], strict=True)
        found |= {f"gap/{subset}": confidence - accuracy for subset, (confidence, accuracy) in enumerate(pairs)}
    return {name: value for name, value in found.items() if math.isfinite(value)}
