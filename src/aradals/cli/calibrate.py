"""Fit a calibrator on data that is used neither to train nor to judge the model.

The JSON file contains the fitted numbers, a digest of the model and the content hashes of the examples. aradals
evaluate refuses the calibrator for other models and on the same examples.
With --predictions, no model is needed. The command then also reports accuracy and calibration before and after, with
intervals and noise floors, on examples that were held out of the fit.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from aradals.cli.arguments import CalibratorArguments, DataArguments, ModelArguments, OutputArguments
from aradals.cli.prediction_arguments import HeldOutArguments
from aradals.cli.terminal import print_log, print_result

EXAMPLE = "aradals calibrate --checkpoint model.safetensors --data held-out.parquet --output temperature.json"
RESUMES = False


def run(
    model: ModelArguments,
    data: DataArguments,
    calibrator: CalibratorArguments,
    stored: HeldOutArguments,
    output: OutputArguments,
) -> Path:
    """Fit the calibrator, and save it."""
    from aradals.calibration import get_calibrator
    from aradals.pipeline.calibrate import calibrate, calibrate_predictions
    from aradals.pipeline.outputs import input_paths, output_file
    from aradals.report.terminal import results_findings

    get_calibrator(calibrator.method, **calibrator.method_args)
    stored.refuse_beside(model, data, method_args=calibrator.method_args)
    read = input_paths(data.data, model.checkpoint, model.model, *stored.files)
    target: dict[str, Any] = {"method": calibrator.method, **asdict(output), "log": print_log}
    with output_file(output.output, ".json", "calibrator", inputs=read, overwrite=output.overwrite):
        if stored.predictions is not None:
            judges: dict[str, Any] = {"judged": stored.load_judged(model.output_kind), "held_out": stored.held_out}
            fitted, results = calibrate_predictions(stored.load(model.output_kind), **judges, **target)
            print_result(results.table(), results_findings(results))
        else:
            fitted = calibrate(*model.load(data), method_args=calibrator.method_args, **target)
    numbers = [f"{name} {_in_short(value)}" for name, value in fitted.to_dict().items() if name != "method"]
    print_result(f"{calibrator.method}: {', '.join(numbers)}, fitted on {fitted.origin.num_examples} examples")
    print_result(f"calibrator: {output.output}")
    return output.output


def _in_short(value: object) -> str:
    if isinstance(value, list):
        is_long = len(value) > 10 or isinstance(value[0], list)
        return f"({len(value)} of them)" if is_long else " ".join(map(_in_short, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
