"""Measure accuracy, confidence, NLL, Brier score and calibration errors, clean and under shift.

With --calibrator, the calibrated model is evaluated, too.
The command writes OUTPUT/results.json, report.html and the predictions under every condition. It refuses calibrators of
other models, examples that a calibrator was fitted on, and examples that the model was trained on. It says what it
could not check, because a file does not record it.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from aradals.cli.arguments import DataArguments, ModelArguments, ResultsArguments, ShiftArguments, StoredArguments
from aradals.cli.terminal import print_log

EXAMPLE = (
    "aradals evaluate --checkpoint model.safetensors --calibrator temperature.json --data cifar10 --split test "
    "--corruptions noise,blur,fog --output runs/evaluation"
)
RESUMES = True


def run(
    model: ModelArguments, data: DataArguments, stored: StoredArguments, shift: ShiftArguments, output: ResultsArguments
) -> Path:
    """Evaluate the model, and report the results."""
    from aradals.cli.finish import claim, finish
    from aradals.pipeline.calibrate import load_calibrators
    from aradals.pipeline.evaluate import evaluate, evaluate_predictions
    from aradals.pipeline.leakage import check_stored, tell_unchecked
    from aradals.pipeline.outputs import input_paths, output_folder
    from aradals.results import CLEAN

    changes: dict[str, Any] = {name: getattr(shift, name) for name in ("corruptions", "preset", "corrupted", "ood")}
    stored.refuse_beside(**{**asdict(model), "device": None}, **changes, **data.given)
    sources = (data.data, model.model, model.checkpoint, stored.predictions, stored.scores, shift.corrupted, shift.ood)
    names, kinds, folder = ["results.json", "report.html"], ["evaluation"], output.output
    read = input_paths(*sources, *shift.calibrator)
    settings: dict[str, Any] = {"num_subsets": shift.num_subsets}
    with output_folder(folder, names, kinds=kinds, inputs=read, overwrite=output.overwrite, log=print_log):
        settings["calibrators"] = fitted = load_calibrators(shift.calibrator)
        settings["scores"] = stored.load_scores()
        chosen = {**changes, "severities": shift.severities, "num_subsets": shift.num_subsets, "names": list(fitted)}
        files = [*shift.calibrator, stored.predictions, stored.scores]
        if stored.predictions is not None:
            given = stored.load()
            request = claim(output, names[0], chosen, files=files)
            checks = check_stored(given, fitted)
            settings |= {"name": given.name, "data": given.data, "checks": checks}
            results = evaluate_predictions([(CLEAN, given.predictions)], **settings)
            tell_unchecked(checks, print_log)
        else:
            examples = data.load(model.checkpoint)
            classifier = model.load(examples)
            request = claim(output, names[0], classifier.digest, examples.fingerprint, chosen, files=files)
            settings |= {"severities": shift.severities, "output": folder, "log": print_log}
            results = evaluate(classifier, examples, **changes, **settings)
        finish({folder: replace(results, request=request)}, folder, "results.json", json=output.json)
    return folder
