"""Measure accuracy, confidence, NLL, Brier score and calibration errors, clean and under shift.

With --calibrator, the calibrated model is evaluated, too. With --predictions, files replace the model; with --compare,
two models are compared on the same examples.
The command writes OUTPUT/results.json, report.html and the predictions under every condition. It refuses calibrators of
other models, examples that a calibrator was fitted on, and examples that the model was trained on. It says what it
could not check, because a file does not record it.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from aradals.cli.arguments import DataArguments, ResultsArguments, SharedModel, ShiftArguments
from aradals.cli.prediction_arguments import PairedArguments
from aradals.cli.terminal import print_log

EXAMPLE = (
    "aradals evaluate --checkpoint model.safetensors --calibrator temperature.json --data cifar10 --split test "
    "--corruptions noise,blur,fog --output runs/evaluation"
)
RESUMES = True


def run(
    model: SharedModel, data: DataArguments, stored: PairedArguments, shift: ShiftArguments, output: ResultsArguments
) -> Path:
    """Evaluate the model, and report the results."""
    from aradals.cli.finish import claim, finish
    from aradals.pipeline.calibrate import load_calibrators
    from aradals.pipeline.evaluate import evaluate, evaluate_stored
    from aradals.pipeline.outputs import input_paths, output_folder

    changes: dict[str, Any] = {name: getattr(shift, name) for name in ("corruptions", "preset", "corrupted", "ood")}
    stored.refuse_beside(model, data, **changes)
    files, names, kinds = [*stored.files, *shift.calibrator], ["results.json", "report.html"], ["evaluation"]
    read = input_paths(data.data, model.model, model.checkpoint, *files, shift.corrupted, shift.ood)
    folder = output.output
    with output_folder(folder, names, kinds=kinds, inputs=read, overwrite=output.overwrite, log=print_log):
        fitted, of = load_calibrators(shift.calibrator), {**asdict(shift), "calibrator": None}
        settings: dict[str, Any] = {name: getattr(shift, name) for name in ("num_subsets", "max_errors")}
        settings |= {"calibrators": fitted, "scores": stored.load_scores()}
        if stored.predictions is not None:
            request = claim(output, names[0], list(fitted), of, model.output_kind, files=files)
            given = stored.load(model.output_kind)
            compared = stored.load_other(given, model.output_kind)
            results = evaluate_stored(given, compared=compared, log=print_log, **settings)
        else:
            classifier, examples = model.load(data)
            request = claim(output, names[0], classifier.digest, examples.fingerprint, list(fitted), of, files=files)
            settings |= {"severities": shift.severities, "output": folder, "sharing": model.sharing(data)}
            results = evaluate(classifier, examples, log=print_log, **changes, **settings)
        finish({folder: replace(results, request=request)}, folder, "results.json", json=output.json)
    return folder
