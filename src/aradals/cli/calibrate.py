"""Fit a calibrator on data that is used neither to train nor to judge the model.

The JSON file contains the fitted numbers, a digest of the model and the content hashes of the examples. aradals
evaluate refuses the calibrator for other models and on the same examples.
"""

from __future__ import annotations

from pathlib import Path

from aradals.cli.arguments import CalibratorArguments, DataArguments, ModelArguments, OutputArguments
from aradals.cli.terminal import print_log, print_result

EXAMPLE = "aradals calibrate --checkpoint model.safetensors --data held-out.parquet --output temperature.json"
RESUMES = False


def run(model: ModelArguments, data: DataArguments, calibrator: CalibratorArguments, output: OutputArguments) -> Path:
    """Fit the calibrator, and save it."""
    from aradals.calibration import get_calibrator
    from aradals.pipeline.calibrate import calibrate
    from aradals.pipeline.outputs import input_paths, output_file

    get_calibrator(calibrator.method)
    read = input_paths(data.data, model.checkpoint, model.model)
    with output_file(output.output, ".json", "calibrator", inputs=read, overwrite=output.overwrite):
        examples = data.load(model.checkpoint)
        classifier = model.load(examples)
        fitted = calibrate(
            classifier,
            examples,
            method=calibrator.method,
            output=output.output,
            overwrite=output.overwrite,
            log=print_log,
        )
    numbers = [f"{name} {_in_short(value)}" for name, value in fitted.to_dict().items() if name != "method"]
    print_result(f"{calibrator.method}: {', '.join(numbers)}, fitted on {len(examples)} examples")
    print_result(f"calibrator: {output.output}")
    return output.output


def _in_short(value: object) -> str:
    if isinstance(value, list) and (len(value) > 10 or isinstance(value[0], list)):
        return f"({len(value)} of them)"
    if isinstance(value, list):
        return " ".join(map(_in_short, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
