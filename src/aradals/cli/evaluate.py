"""Accuracy, confidence, NLL, Brier score and calibration errors, clean and under shift, with a calibrator or without.

Writes OUTPUT/results.json, report.html and the predictions under every condition. Examples that the model (where its
checkpoint says) or the calibrator was fitted on are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveInt

from aradals.cli.common import (
    Source,
    add_data_arguments,
    add_model_arguments,
    add_overwrite_argument,
    add_prediction_arguments,
    files,
    finish,
    load_classifier,
    names,
    numbers,
    prediction_stage,
    refuse_beside_predictions,
    refuse_training_examples,
)
from aradals.cli.terminal import print_log
from aradals.data import GROUPS, PRESETS, Examples
from aradals.errors import InputError

if TYPE_CHECKING:
    from aradals.cli.common import Classifier
    from aradals.inference.predictions import Predictions
    from aradals.pipeline.evaluate import Condition

EXAMPLE = (
    "aradals evaluate --checkpoint model.safetensors --calibrator temperature.json --data cifar10 --split test "
    "--corruptions noise,blur,fog --output runs/evaluation"
)
RESUMES = True


def add_arguments(parser: ArgumentParser, arguments: list[str]) -> list[str]:
    """Model and data, or predictions; calibrator, scores and corruptions."""
    add_model_arguments(parser)
    add_data_arguments(parser)
    add_prediction_arguments(parser)
    parser.add_argument(
        "--calibrator",
        type=files,
        default=[],
        help="files that aradals calibrate has written, with commas between; reported beside the model as it is",
    )
    parser.add_argument(
        "--corruptions",
        type=names,
        default=[],
        help=f"names or groups ({', '.join(GROUPS)}), with commas between; clean data are always evaluated",
    )
    parser.add_argument("--severities", type=numbers, default=[1, 2, 3, 4, 5], help="1 to 5")
    parser.add_argument(
        "--preset", type=str | None, default=None, help=f"constants: {', '.join(PRESETS)}; by default by image size"
    )
    parser.add_argument(
        "--corrupted",
        type=str | None,
        default=None,
        help="a corrupted copy of the same examples, instead of making one: a folder as CIFAR-10-C, CIFAR-100-C or "
        "ImageNet-C, or data with a column of severities; all of it, unless --corruptions chooses",
    )
    parser.add_argument(
        "--ood", type=str | None, default=None, help="other data, to be told from --data by the confidence (AUROC)"
    )
    parser.add_argument("--num_subsets", type=PositiveInt, default=10, help="R, where --scores are given")
    parser.add_argument("--json", action="store_true", help="print results.json instead of the table")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    add_overwrite_argument(parser)
    return arguments


def run(output: Path, overwrite: bool, **arguments: Any) -> None:
    """Evaluate and report."""
    from aradals.pipeline.outputs import output_folder

    read = Source(arguments["data"]).paths(
        *(arguments[name] for name in ("model", "checkpoint", "predictions", "scores", "corrupted", "ood")),
        *arguments["calibrator"],
    )
    written, kinds = ["results.json", "report.html"], ["evaluation"]
    with output_folder(output, written, kinds=kinds, inputs=read, overwrite=overwrite, log=print_log):
        _evaluate(output=output, **arguments)


def _evaluate(
    model: str | None,
    checkpoint: Path | None,
    model_args: dict[str, Any],
    device: str,
    predictions: Path | None,
    scores: Path | None,
    calibrator: list[Path],
    corruptions: list[str],
    severities: list[int],
    preset: str | None,
    corrupted: str | None,
    ood: str | None,
    num_subsets: int,
    json: bool,
    output: Path,
    **source: Any,
) -> None:
    """Evaluate and report."""
    from aradals.data import files_digest
    from aradals.pipeline.artifacts import SCHEMA_VERSION, decode_hashes, load_calibrator, load_predictions, versions
    from aradals.pipeline.evaluate import CLEAN, choose_shift, evaluate_conditions, ood_rows, stored_predictions
    from aradals.pipeline.leakage import refuse_fitted, refuse_fitted_hashes
    from aradals.pipeline.score import scores_of, scoring_record, subsets_of
    from aradals.pipeline.shown import class_rows, example_images

    if predictions is not None:
        refuse_beside_predictions(
            model=model,
            checkpoint=checkpoint,
            corruptions=corruptions,
            preset=preset,
            corrupted=corrupted,
            ood=ood,
            **source,
        )
    loaded = {path.stem: load_calibrator(path) for path in calibrator}
    fitted = {name: each for name, (each, _) in loaded.items()}
    evaluated: Iterator[tuple[Condition, Predictions]]
    class_names: tuple[str, ...] = ()
    out_of_distribution: list[dict[str, Any]] = []
    if predictions is not None:
        stored, metadata = load_predictions(predictions)
        name, data = predictions.stem, metadata.get("data", predictions.stem)
        evaluated_hashes = decode_hashes(metadata.get("example_hashes", ""), predictions)
        for each, (_, hashes) in loaded.items():
            refuse_fitted_hashes(hashes, evaluated_hashes, what=f"the calibrator {each}", where=data)
        subsets = None if scores is None else subsets_of(scores, stored.ids, num_subsets)
        evaluated = iter([(CLEAN, stored)])
    else:
        examples = Source(**source).load()
        subsets = None if scores is None else subsets_of(scores, examples.ids, num_subsets)
        wanted, shift = choose_shift(examples, corruptions, severities, preset=preset, corrupted=corrupted)
        source_of_shift = f"{corrupted}, {files_digest(corrupted)}" if corrupted else preset
        classifier = load_classifier(model, checkpoint, model_args, examples, device)
        refuse_training_examples(classifier, examples)
        for each, (_, hashes) in loaded.items():
            refuse_fitted(hashes, examples, what=f"the calibrator {each}")
        other = None if ood is None else _other_data(ood, examples, classifier)
        name, data = classifier.name, examples.name
        class_names = classifier.class_names or examples.class_names
        stage = partial(
            prediction_stage,
            classifier,
            with_scores=any(each.score == "first_order_margin" for each in fitted.values()),
        )
        stored_at = stage(examples, wanted, output / "predictions", shift=shift, source=source_of_shift)
        stored, _ = load_predictions(stored_at[CLEAN])
        evaluated = stored_predictions([stored_at])
        if other is not None:
            others, _ = load_predictions(stage(other, [CLEAN], output / "ood")[CLEAN])
            out_of_distribution = ood_rows(stored, others, fitted, data=data, ood=other.name)
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
            "calibrators": [str(path) for path in calibrator],
            "corrupted": corrupted,
            "preset": preset,
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
        "classes": [{"method": name, "calibrator": "none", **row} for row in class_rows(stored, class_names)],
        "out_of_distribution": out_of_distribution,
        "scoring": [scoring_record(scores, split=source.get("split") or "")] if scores is not None else [],
    }
    if predictions is None:
        ranking = None if scores is None else scores_of(scores, stored.ids)
        results["examples"] = example_images(examples, stored, ranking)
    finish(results, output, "results.json", json)


def _other_data(spec: str, examples: Examples, classifier: Classifier) -> Examples:
    """Load data of another distribution; its labels have no meaning for the model and are ignored."""
    import torch

    from aradals.data import load_data

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
