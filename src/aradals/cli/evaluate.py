"""Accuracy, confidence, NLL, Brier score and calibration errors, clean and under shift, with a calibrator or without.

Writes OUTPUT/results.json, report.html and the predictions under every condition. Examples that the model (where its
checkpoint says) or the calibrator was fitted on are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveInt

from aradals.cli.common import (
    Source,
    add_data_arguments,
    add_model_arguments,
    add_prediction_arguments,
    finish,
    load_classifier,
    names,
    numbers,
    prediction_stage,
    refuse_beside_predictions,
    refuse_training_examples,
)

if TYPE_CHECKING:
    from torch import nn

    from aradals.calibration import Calibrator
    from aradals.data import Examples
    from aradals.evaluation import Condition
    from aradals.inference import Predictions

EXAMPLE = (
    "aradals evaluate --checkpoint model.safetensors --calibrator temperature.json --data cifar10 --split test "
    "--corruptions gaussian_noise,gaussian_blur --severities 3,5 --output runs/evaluation"
)


def add_arguments(parser: ArgumentParser, arguments: list[str]) -> list[str]:
    """Model and data, or predictions; calibrator, scores and corruptions."""
    add_model_arguments(parser)
    add_data_arguments(parser)
    add_prediction_arguments(parser)
    parser.add_argument(
        "--calibrator", type=Path | None, default=None, help="a file that aradals calibrate has written"
    )
    parser.add_argument("--corruptions", type=names, default=[], help="names; clean data are always evaluated")
    parser.add_argument("--severities", type=numbers, default=[1, 2, 3, 4, 5], help="1 to 5")
    parser.add_argument("--num_subsets", type=PositiveInt, default=10, help="R, where --scores are given")
    parser.add_argument("--json", action="store_true", help="print results.json instead of the table")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    return arguments


def run(
    model: str | None,
    checkpoint: Path | None,
    model_args: dict[str, Any],
    device: str,
    predictions: Path | None,
    scores: Path | None,
    calibrator: Path | None,
    corruptions: list[str],
    severities: list[int],
    num_subsets: int,
    json: bool,
    output: Path,
    **source: Any,
) -> None:
    """Evaluate and report."""
    from aradals.artifacts import (
        SCHEMA_VERSION,
        decode_hashes,
        load_calibrator,
        load_predictions,
        versions,
    )
    from aradals.data import corrupt
    from aradals.evaluation import CLEAN, conditions, evaluate_conditions, stored_predictions
    from aradals.files import ensure_writable
    from aradals.leakage import refuse_fitted, refuse_fitted_hashes
    from aradals.scoring import scoring_record, subsets_of

    if predictions is not None:
        refuse_beside_predictions(model=model, checkpoint=checkpoint, corruptions=corruptions, **source)
    ensure_writable(output)
    fitted, fitted_hashes = {}, decode_hashes("")
    if calibrator is not None:
        loaded, fitted_hashes = load_calibrator(calibrator)
        fitted = {calibrator.stem: loaded}
    evaluated: Iterator[tuple[Condition, Predictions]]
    class_names: tuple[str, ...] = ()
    if predictions is not None:
        stored, metadata = load_predictions(predictions)
        name, data = predictions.stem, metadata.get("data", predictions.stem)
        evaluated_hashes = decode_hashes(metadata.get("example_hashes", ""))
        refuse_fitted_hashes(fitted_hashes, evaluated_hashes, what="the calibrator", where=data)
        subsets = None if scores is None else subsets_of(scores, stored.ids, num_subsets)
        evaluated = iter([(CLEAN, stored)])
    else:
        examples = Source(**source).load()
        subsets = None if scores is None else subsets_of(scores, examples.ids, num_subsets)
        wanted = conditions(corruptions, severities)
        for condition in wanted[1:]:
            corrupt(examples.__getitems__([0])[1], examples.ids[:1], *condition)
        classifier = load_classifier(model, checkpoint, model_args, examples, device)
        refuse_training_examples(classifier, examples)
        refuse_fitted(fitted_hashes, examples, what="the calibrator")
        name, data = classifier.name, examples.name
        class_names = classifier.class_names or examples.class_names
        paths = prediction_stage(classifier, examples, wanted, output / "predictions")
        stored, _ = load_predictions(paths[CLEAN])
        evaluated = stored_predictions([paths])
        if calibrator is not None:
            evaluated = _with_scores(evaluated, loaded, classifier.model, examples)
    keys = {"method": name, "seed": 0, "data": data}
    rows, reliability = evaluate_conditions(evaluated, subsets, fitted, keys=keys)
    results = {
        "schema": SCHEMA_VERSION,
        "kind": "evaluation",
        "name": name,
        "description": "",
        "config": {
            "model": name,
            "checkpoint": str(checkpoint),
            "calibrator": str(calibrator),
            "scores": str(scores),
        },
        "versions": versions(),
        "device": device,
        "data": {
            "name": data,
            "num_classes": stored.logits.shape[1],
            "class_names": list(class_names),
            "splits": {"evaluated": len(stored)},
            "splits_hash": {},
        },
        "rows": rows,
        "reliability": reliability,
        "training": [],
        "calibrators": [],
        "scoring": [scoring_record(scores, split=source.get("split") or "")] if scores is not None else [],
    }
    finish(results, output, "results.json", json)


def _with_scores(
    predictions: Iterator[tuple[Condition, Predictions]], calibrator: Calibrator, model: nn.Module, examples: Examples
) -> Iterator[tuple[Condition, Predictions]]:
    """The predictions, under every condition with the robustness scores there, if the calibrator needs some."""
    from aradals.calibration import scores_for
    from aradals.evaluation import corrupted_batches

    for condition, plain in predictions:
        scores = scores_for(calibrator, model, corrupted_batches(examples, condition), plain.ids)
        yield condition, replace(plain, scores=scores)
