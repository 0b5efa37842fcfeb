"""Measure accuracy, confidence, NLL, Brier score and calibration errors, clean and under shift.

With --calibrator, the calibrated model is evaluated, too. With --predictions, files replace the model; with --compare,
two models are compared on the same examples.
The command writes OUTPUT/results.json, report.html and the predictions under every condition. It refuses calibrators of
other models, examples that a calibrator was fitted on, and examples that the model was trained on. It says what it
could not check, because a file does not record it.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from aradals.cli.arguments import ComparedArguments, DataArguments, ModelArguments, ResultsArguments, ShiftArguments
from aradals.cli.terminal import print_log, print_result
from aradals.errors import InputError

EXAMPLE = (
    "aradals evaluate --checkpoint model.safetensors --calibrator temperature.json --data cifar10 --split test "
    "--corruptions noise,blur,fog --output runs/evaluation"
)
RESUMES = True


def run(
    model: ModelArguments,
    data: DataArguments,
    stored: ComparedArguments,
    shift: ShiftArguments,
    output: ResultsArguments,
) -> Path:
    """Evaluate the model, and report the results."""
    from aradals.cli.finish import finish
    from aradals.pipeline.calibrate import load_calibrators
    from aradals.pipeline.evaluate import evaluate, evaluate_predictions
    from aradals.pipeline.leakage import check_stored, tell_unchecked
    from aradals.pipeline.outputs import input_paths, output_folder
    from aradals.report.terminal import paired_differences
    from aradals.results import CLEAN

    changes: dict[str, Any] = {name: getattr(shift, name) for name in ("corruptions", "preset", "corrupted", "ood")}
    stored.refuse_beside(model=model.model, checkpoint=model.checkpoint, **changes, **asdict(data))
    if stored.compare is not None and stored.predictions is None:
        raise InputError(expected="--compare beside --predictions", got="only --compare", hint="--predictions FILE")
    sources = (data.data, model.model, model.checkpoint, shift.corrupted, shift.ood)
    files = (stored.predictions, stored.labels, stored.scores, stored.compare, *shift.calibrator)
    names, kinds, folder = ["results.json", "report.html"], ["evaluation"], output.output
    read = input_paths(*sources, *files)
    settings: dict[str, Any] = {"scores": stored.scores, "num_subsets": shift.num_subsets}
    with output_folder(folder, names, kinds=kinds, inputs=read, overwrite=output.overwrite, log=print_log):
        settings["calibrators"] = fitted = load_calibrators(shift.calibrator)
        if stored.predictions is not None:
            given = stored.load()
            checks = check_stored(given, fitted)
            settings |= {"name": given.name, "data": given.data, "class_names": given.class_names, "checks": checks}
            settings["compared"] = stored.load_other(given)
            results = evaluate_predictions([(CLEAN, given.predictions)], **settings)
            print_log(given.taken)
            tell_unchecked(checks, print_log)
        else:
            examples = data.load()
            settings |= {"severities": shift.severities, "output": folder, "log": print_log}
            results = evaluate(model.load(examples), examples, **changes, **settings)
        finish({folder: results}, folder, "results.json", json=output.json)
        if stored.compare is not None and not output.json:
            print_result(paired_differences(results))
    return folder
