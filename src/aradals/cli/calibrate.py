"""Fit a calibrator on data that the model was not trained on, and will not be judged on.

Writes a JSON file with what was fitted and the content hashes of the examples; evaluate refuses to use it on them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from aradals.cli.common import (
    Source,
    add_data_arguments,
    add_model_arguments,
    add_overwrite_argument,
    load_classifier,
    refuse_training_examples,
)
from aradals.cli.terminal import print_result

EXAMPLE = "aradals calibrate --checkpoint model.safetensors --data held-out.parquet --output temperature.json"
RESUMES = False


METHOD_HELP = """\
temperature (one number), vector (a factor and an offset per class), isotonic and histogram (a curve, or bins, per
class), margin_temperature (a temperature by logit margin), robustness_temperature (a temperature by first-order margin,
which takes a gradient of the model)\
"""


def add_arguments(parser: ArgumentParser, arguments: list[str]) -> list[str]:
    """Model, data, method, and the file to write."""
    add_model_arguments(parser)
    add_data_arguments(parser)
    parser.add_argument("--method", type=str, default="temperature", help=METHOD_HELP)
    parser.add_argument("--output", type=Path, required=True, help="FILE.json")
    add_overwrite_argument(parser)
    return arguments


def run(
    model: str | None,
    checkpoint: Path | None,
    model_args: dict[str, Any],
    device: str,
    method: str,
    output: Path,
    overwrite: bool,
    **source: Any,
) -> None:
    """Fit and save."""
    from aradals.calibration import get_calibrator, scores_for
    from aradals.inference.predictions import predict
    from aradals.pipeline.artifacts import save_calibrator, settings_digest
    from aradals.pipeline.outputs import output_file, refuse_other_request

    calibrator = get_calibrator(method)
    read = Source(**source)
    with output_file(output, ".json", "calibrator", inputs=read.paths(checkpoint, model), overwrite=overwrite):
        examples = read.load()
        classifier = load_classifier(model, checkpoint, model_args, examples, device)
        refuse_training_examples(classifier, examples)
        request = settings_digest([method, classifier.digest, examples.fingerprint])
        refuse_other_request(output, request, overwrite=overwrite)
        predictions = predict(classifier.model, examples.batches())
        scores = scores_for(calibrator, classifier.model, examples.batches(), predictions.ids)
        calibrator.fit(predictions.logits, predictions.labels, scores)
        save_calibrator(output, calibrator, examples, request=request)
    fitted = ", ".join(f"{name} {_in_short(value)}" for name, value in calibrator.to_dict().items() if name != "method")
    print_result(f"{method}: {fitted}, fitted on {len(examples)} examples\ncalibrator: {output}")


def _in_short(value: object) -> str:
    if isinstance(value, list) and (len(value) > 10 or isinstance(value[0], list)):
        return f"({len(value)} of them)"
    if isinstance(value, list):
        return " ".join(map(_in_short, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
