"""Predictions of a classifier under every condition, made once and kept in files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from aradals.data import Examples, load_data
from aradals.errors import InputError
from aradals.inference.predictions import Predictions
from aradals.pipeline.artifacts import load_predictions
from aradals.pipeline.classifier import Classifier, refuse_training_examples
from aradals.pipeline.evaluate import CLEAN, Condition, Shift, corrupted_batches, predict_conditions, prediction_paths
from aradals.pipeline.score import score_stage
from aradals.pipeline.stage import run_stage


def prediction_stage(
    classifier: Classifier,
    examples: Examples,
    conditions: Sequence[Condition],
    folder: Path,
    *,
    with_scores: bool = False,
    shift: Shift = corrupted_batches,
    source: str | None = None,
    log: Callable[[str], None] = print,
) -> dict[Condition, Path]:
    """Predict under every condition, in a stage of its own: an interrupted one goes on where it stopped.

    Args:
        classifier: the model.
        examples: clean.
        conditions: see `aradals.pipeline.evaluate.conditions`.
        folder: of the stage.
        with_scores: also first-order margins.
        shift: where the corrupted examples come from.
        source: stands for ``shift`` in the record of the stage's inputs.
        log: told about work that is done, or was done before.

    Returns:
        The file of the predictions under each condition.
    """
    paths = prediction_paths(folder, conditions)
    inputs = {
        "model": classifier.digest,
        "spec": classifier.name,
        "data": examples.fingerprint,
        "conditions": conditions,
        "with_scores": with_scores,
        "source": source,
    }

    def make(_: Path) -> None:
        predict_conditions(
            classifier.model,
            examples,
            paths,
            model_digest=classifier.digest,
            with_scores=with_scores,
            shift=shift,
        )

    outputs = [path.name for path in paths.values()]
    run_stage(folder, inputs, outputs, make, lambda line: log(f"predictions: {line}"), probe=classifier.probe)
    return paths


def predict_and_score(
    classifier: Classifier,
    examples: Examples,
    folder: Path,
    *,
    scores: Path | None = None,
    log: Callable[[str], None] = print,
    **attack: Any,
) -> tuple[Predictions, Path]:
    """Predict clean examples and measure their robustness, each in a stage below ``folder``.

    Args:
        classifier: the model.
        examples: clean.
        folder: of the stages.
        scores: a score table to use in place of a new one.
        log: told about work that is done, or was done before.
        **attack: attack, attack_args, verified and bf16, as in `aradals.pipeline.score.score_stage`.

    Returns:
        The predictions, and the file of the score table.
    """
    path = prediction_stage(classifier, examples, [CLEAN], folder / "predictions", log=log)[CLEAN]
    predicted, _ = load_predictions(path)
    return predicted, scores or score_stage(
        classifier.model,
        examples,
        folder / "scores",
        **attack,
        model_digest=classifier.digest,
        probe=classifier.probe,
        log=log,
    )


def load_other_data(spec: str, examples: Examples, classifier: Classifier) -> Examples:
    """Load data of another distribution; their labels mean nothing to the model, and are all 0.

    Raises:
        InputError: inputs of another shape than those of ``examples``, or examples that the model was trained on.
    """
    other = load_data(spec)
    if other.input_shape != examples.input_shape:
        raise InputError(
            expected=f"inputs of shape {examples.input_shape} in {other.name}, as in {examples.name}",
            got=str(other.input_shape),
            hint="resizing them",
        )
    refuse_training_examples(classifier, other)
    return Examples(
        lambda rows: other.__getitems__(list(rows))[1],
        torch.zeros_like(other.labels),
        num_classes=examples.num_classes,
        ids=other.ids,
        name=other.name,
    )
