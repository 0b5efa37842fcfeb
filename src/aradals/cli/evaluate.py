"""Accuracy, confidence, NLL, Brier score and calibration errors, clean and under shift, with a calibrator or without.

Writes OUTPUT/results.json, report.html and the predictions under every condition. Examples that the model (where its
checkpoint says) or the calibrator was fitted on are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aradals.cli.arguments import (
    DataArguments,
    ModelArguments,
    ResultsArguments,
    ShiftArguments,
    StoredArguments,
    SubsetArguments,
)
from aradals.cli.terminal import print_log

if TYPE_CHECKING:
    from aradals.inference.predictions import Predictions
    from aradals.pipeline.evaluate import Condition

EXAMPLE = (
    "aradals evaluate --checkpoint model.safetensors --calibrator temperature.json --data cifar10 --split test "
    "--corruptions noise,blur,fog --output runs/evaluation"
)
RESUMES = True


def run(
    model: ModelArguments,
    data: DataArguments,
    stored: StoredArguments,
    shift: ShiftArguments,
    subsets: SubsetArguments,
    output: ResultsArguments,
) -> Path:
    """Evaluate and report."""
    from aradals.cli.finish import finish
    from aradals.pipeline.outputs import input_paths, output_folder

    changes = {"corruptions": shift.corruptions, "preset": shift.preset, "corrupted": shift.corrupted, "ood": shift.ood}
    stored.refuse_beside(model=model.model, checkpoint=model.checkpoint, **changes, **asdict(data))
    sources = (data.data, model.model, model.checkpoint, stored.predictions, stored.scores, shift.corrupted, shift.ood)
    read, folder = input_paths(*sources, *shift.calibrator), output.output
    names, kinds = ["results.json", "report.html"], ["evaluation"]
    with output_folder(folder, names, kinds=kinds, inputs=read, overwrite=output.overwrite, log=print_log):
        results = _evaluate(model, data, stored, shift, subsets.num_subsets, folder)
        finish(results, folder, "results.json", output.json)
    return folder


def _evaluate(
    model: ModelArguments,
    source: DataArguments,
    given: StoredArguments,
    changes: ShiftArguments,
    num_subsets: int,
    output: Path,
) -> dict[str, Any]:
    """The results of the evaluation."""
    from aradals.data import files_digest
    from aradals.pipeline.artifacts import SCHEMA_VERSION, decode_hashes, load_predictions, versions
    from aradals.pipeline.calibrate import load_calibrators
    from aradals.pipeline.classifier import refuse_training_examples
    from aradals.pipeline.evaluate import CLEAN, choose_shift, evaluate_conditions, ood_rows, stored_predictions
    from aradals.pipeline.predict import load_other_data, prediction_stage
    from aradals.pipeline.score import scores_of, scoring_record, subsets_of
    from aradals.pipeline.shown import class_rows, example_images

    predictions, scores, corrupted, preset = given.predictions, given.scores, changes.corrupted, changes.preset
    evaluated: Iterator[tuple[Condition, Predictions]]
    class_names: tuple[str, ...] = ()
    out_of_distribution: list[dict[str, Any]] = []
    if predictions is not None:
        stored, metadata = load_predictions(predictions)
        name, data = predictions.stem, metadata.get("data", predictions.stem)
        hashes = decode_hashes(metadata.get("example_hashes", ""), predictions)
        fitted = load_calibrators(changes.calibrator, hashes, where=data)
        subsets = None if scores is None else subsets_of(scores, stored.ids, num_subsets)
        evaluated = iter([(CLEAN, stored)])
    else:
        examples = source.load()
        fitted = load_calibrators(changes.calibrator, examples.hashes, where=examples.name)
        subsets = None if scores is None else subsets_of(scores, examples.ids, num_subsets)
        wanted, shift = choose_shift(
            examples, changes.corruptions, changes.severities, preset=preset, corrupted=corrupted
        )
        source_of_shift = f"{corrupted}, {files_digest(corrupted)}" if corrupted else preset
        classifier = model.load(examples)
        refuse_training_examples(classifier, examples)
        other = None if changes.ood is None else load_other_data(changes.ood, examples, classifier)
        name, data = classifier.name, examples.name
        class_names = classifier.class_names or examples.class_names
        stage = partial(
            prediction_stage,
            classifier,
            with_scores=any(each.score == "first_order_margin" for each in fitted.values()),
            log=print_log,
        )
        stored_at = stage(examples, wanted, output / "predictions", shift=shift, source=source_of_shift)
        stored, _ = load_predictions(stored_at[CLEAN])
        evaluated = stored_predictions(stored_at)
        if other is not None:
            others, _ = load_predictions(stage(other, [CLEAN], output / "ood")[CLEAN])
            out_of_distribution = ood_rows(stored, others, fitted, data=data, ood=other.name)
    keys = {"method": name, "seed": 0, "data": data}
    rows, reliability, _ = evaluate_conditions(evaluated, subsets, fitted, keys=keys)
    results = {
        "schema": SCHEMA_VERSION,
        "kind": "evaluation",
        "name": name,
        "description": "",
        "config": {
            "model": name,
            "checkpoint": str(model.checkpoint),
            "calibrators": [str(path) for path in changes.calibrator],
            "corrupted": corrupted,
            "preset": preset,
            "scores": str(scores),
        },
        "versions": versions(),
        "device": model.device,
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
        "scoring": [scoring_record(scores, split=source.split or "")] if scores is not None else [],
    }
    if predictions is None:
        ranking = None if scores is None else scores_of(scores, stored.ids)
        results["examples"] = example_images(examples, stored, ranking)
    return results
