"""The course of a training for TensorBoard, MLflow or Weights & Biases, by the loggers of Lightning."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from torch import Tensor

from aradals._internal.optional import load_extra
from aradals.metrics import expected_calibration_error, nll
from aradals.pipeline.config import TrainingConfig
from aradals.smoothing.adaptive import AdaptiveSmoothing

PROJECT = "ar-adals"
"""Name of the experiment in MLflow and of the project in Weights & Biases."""


@contextmanager
def open_logger(training: TrainingConfig, folder: Path, run: str) -> Iterator[Logger | Literal[False]]:
    """Yield the logger of `make_logger`, and end its run with the block."""
    logger = make_logger(training, folder, run)
    try:
        yield logger
    finally:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()  # otherwise the next training of this process would go on with this run


def make_logger(training: TrainingConfig, folder: Path, run: str) -> Logger | Literal[False]:
    """Make the logger that the recipe names; the process of rank 0 alone writes to it.

    Args:
        training: settings with the name of the logger.
        folder: folder for files; MLflow has its database there only if ``MLFLOW_TRACKING_URI`` names no server.
        run: name of the run.

    Raises:
        MissingExtraError: the package of the logger is not installed.
    """
    if training.logger == "none":
        return False
    load_extra(training.logger)
    folder.mkdir(parents=True, exist_ok=True)
    match training.logger:
        case "tensorboard":
            return TensorBoardLogger(folder, name=run, version="", default_hp_metric=False)
        case "mlflow":
            return _start_mlflow(folder.resolve(), run)
        case "wandb":
            return WandbLogger(name=run, save_dir=folder, project=PROJECT)


def _start_mlflow(folder: Path, run: str) -> MLFlowLogger:
    """Open MLflow's database or server, one training at a time, because the first one makes the tables."""
    server = os.environ.get("MLFLOW_TRACKING_URI")
    place: dict[str, Any] = {} if server else {"artifact_location": (folder / "mlruns").as_uri()}
    with FileLock(folder / ".mlflow-lock"):
        logger = MLFlowLogger(
            PROJECT, run_name=run, tracking_uri=server or f"sqlite:///{folder / 'mlflow.db'}", **place
        )
        _ = logger.experiment  # Lightning connects at the first use
    return logger


def validation_metrics(labels: Tensor, logits: Tensor) -> dict[str, float]:
    """Compute NLL and ECE of the whole validation split."""
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
        found |= {f"gap/{subset}": gap for subset, gap in enumerate(criterion.last_gaps())}
    return {name: value for name, value in found.items() if math.isfinite(value)}
