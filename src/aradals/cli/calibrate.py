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
    load_classifier,
    refuse_training_examples,
)

EXAMPLE = "aradals calibrate --checkpoint model.safetensors --data held-out.parquet --output temperature.json"


def add_arguments(parser: ArgumentParser, arguments: list[str]) -> list[str]:
    """Model, data, method, and the file to write."""
    add_model_arguments(parser)
    add_data_arguments(parser)
    parser.add_argument("--method", type=str, default="temperature", help="temperature")
    parser.add_argument("--output", type=Path, required=True, help="FILE.json")
    return arguments


def run(
    model: str | None,
    checkpoint: Path | None,
    model_args: dict[str, Any],
    device: str,
    method: str,
    output: Path,
    **source: Any,
) -> None:
    """Fit and save."""
    from aradals.artifacts import save_calibrator
    from aradals.calibration import get_calibrator
    from aradals.files import ensure_writable
    from aradals.inference import predict

    calibrator = get_calibrator(method)
    ensure_writable(output.parent)
    examples = Source(**source).load()
    classifier = load_classifier(model, checkpoint, model_args, examples, device)
    refuse_training_examples(classifier, examples)
    predictions = predict(classifier.model, examples.batches())
    calibrator.fit(predictions.logits, predictions.labels)
    save_calibrator(output, calibrator, examples)
    fitted = ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else str(value)
        for name, value in calibrator.to_dict().items()
    )
    print(f"{fitted}, fitted on {len(examples)} examples\ncalibrator: {output}")
