"""The model card of an exported model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from aradals.errors import InputError
from aradals.pipeline.classifier import Classifier
from aradals.results.records import Measure, Metric, Results, Row

_METRICS: dict[Metric, str] = {"accuracy": "accuracy", "confidence": "mean confidence", "ece": "ECE", "nll": "NLL"}


def check_results(results: Results | None, classifier: Classifier, calibrator: str) -> None:
    """Refuse results of another model or calibrator.

    Raises:
        InputError: the results are not an evaluation of the weights of ``classifier`` with this calibrator.
    """
    if results is None:
        return
    hint = "`aradals evaluate --checkpoint ... --calibrator ...` with the files that are exported"
    if results.kind == "study":
        raise InputError(expected="results of one model", got="results of a study", hint=hint)
    if not set(classifier.checkpoints.values()) & set(results.weights.values()):
        raise InputError(
            expected=f"results of {classifier.checkpoint}", got="results that do not name this file", hint=hint
        )
    _row(results, calibrator)


def _row(results: Results, calibrator: str) -> Row:
    rows = [row for row in results.rows if row.condition.is_clean and row.subset is None]
    found = next((row for row in rows if row.calibrator == calibrator), None)
    if found is None:
        raise InputError(
            expected=f"results with the calibrator {calibrator}",
            got=f"results with {', '.join(sorted({row.calibrator for row in rows})) or 'no clean data'}",
            hint="`aradals evaluate --calibrator FILE` with the calibrator that is exported",
        )
    return found


def model_card(description: Mapping[str, Any], results: Results | None, calibrator: str) -> str:
    """Write the card, Markdown with a YAML header, from the description of an export and from its results."""
    return "\n".join(
        [*_header(), *_use(description), *_method(description), *_metrics(results, calibrator), *_limits()]
    )


def _header() -> Iterator[str]:
    yield from ("---", "library_name: ar-adals", "tags:", "- calibration", "- pytorch_model_hub_mixin", "---", "")


def _use(description: Mapping[str, Any]) -> Iterator[str]:
    shape = ", ".join(map(str, description["input_shape"]))
    yield f"# {description['model']}, {description['num_classes']} classes"
    yield "\n## Intended use\n"
    yield f"Classification of inputs like those of the training data: floats in [0, 1], shape (N, {shape})."
    yield "The output is log-probabilities; their exponentials are the confidence that each class is right."
    if description["class_names"]:
        yield f"The classes, in order: {json.dumps(description['class_names'], ensure_ascii=False)}."
    yield "\n```python\nfrom aradals.models.hub import HubModel\n"
    yield 'model = HubModel.from_pretrained("THIS_FOLDER")\nprobabilities = model(inputs).exp()\n```'


def _method(description: Mapping[str, Any]) -> Iterator[str]:
    fitted = description["calibrator"]
    yield "\n## Method\n"
    yield f"The network is {description['model']} of ar-adals. The digest of its weights is {description['weights']}."
    yield f"Calibration after training: {fitted['method']}." if fitted else "No calibrator was fitted after training."
    yield f"Versions: {', '.join(f'{name} {version}' for name, version in description['versions'].items())}."


def _metrics(results: Results | None, calibrator: str) -> Iterator[str]:
    yield "\n## Data and metrics\n"
    if results is None:
        yield "No evaluation was given when this folder was written."
        return
    row = _row(results, calibrator)
    yield f"Evaluated on {results.data.label}, {row.n:,} examples, with 95 % intervals where they are known."
    yield "\n| metric | value | 95 % interval |\n|---|---|---|"
    for metric, label in _METRICS.items():
        if row[metric].known:
            yield f"| {label} | {row[metric].value:.4f} | {_interval(row[metric])} |"


def _interval(measure: Measure) -> str:
    return f"{measure.low:.4f} to {measure.high:.4f}" if measure.has_interval else "unknown"


def _limits() -> Iterator[str]:
    yield "\n## Limits\n"
    yield "- The confidence was fitted on examples of one population. Other inputs can be wrong with high confidence."
    yield "- The model assigns every input to one of its classes, including inputs that belong to none of them."
    yield "- This card does not know the license of the training data. Add it before you publish the folder.\n"
