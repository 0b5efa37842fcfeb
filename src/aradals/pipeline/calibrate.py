"""Fit a calibrator to a classifier on held-out data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn

from aradals._internal.json_files import settings_digest
from aradals.calibration import CALIBRATORS, Calibrator, Origin, get_calibrator, scores_for
from aradals.data import Data, Examples, as_examples
from aradals.inference.predictions import predict
from aradals.pipeline.artifacts import load_calibrator, save_calibrator
from aradals.pipeline.classifier import Classifier, as_classifier, check_training_examples
from aradals.pipeline.leakage import tell_unchecked
from aradals.pipeline.outputs import output_file, refuse_other_request


def calibrate(
    model: Classifier | nn.Module,
    data: Data,
    *,
    method: str = "temperature",
    output: str | Path | None = None,
    overwrite: bool = False,
    log: Callable[[str], None] = print,
) -> Calibrator:
    """Fit a calibrator on data that is used neither to train nor to judge the model.

    Args:
        model: maps inputs in [0, 1] to logits of shape (N, K).
        data: `Examples`, (inputs, labels), or a ``DataLoader``; see `aradals.data.as_examples`.
        method: a name in ``aradals.calibration.CALIBRATORS``.
        output: JSON file for the calibrator, the digest of the model and the content hashes of the examples.
        overwrite: replace an output that another program has made, or that was made from other inputs.
        log: called with a line about what could not be checked.

    Raises:
        InputError: the method is unknown; data have no labels; the model was trained on the examples; its outputs are
            not logits; or another program has made the output.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> inputs = torch.rand(300, 1, 2, 2)
        >>> labels = model(inputs).mul(9).softmax(1).multinomial(1).flatten()
        >>> calibrator = calibrate(model, (inputs, labels), log=lambda line: None)
        >>> calibrator.predict_logits(torch.zeros(1, 3)).shape
        torch.Size([1, 3])
    """
    calibrator = get_calibrator(method)
    examples = as_examples(data)
    classifier = as_classifier(model, examples)
    checks = [check_training_examples(classifier, examples)]
    if output is None:
        _fit(calibrator, classifier, examples)
    else:
        path, request = Path(output), settings_digest([method, classifier.digest, examples.fingerprint])
        with output_file(path, ".json", "calibrator", overwrite=overwrite):
            refuse_other_request(path, request, overwrite=overwrite)
            _fit(calibrator, classifier, examples)
            save_calibrator(path, calibrator, examples, request=request)
    tell_unchecked(checks, log)
    return calibrator


def load_calibrators(paths: Sequence[Path]) -> dict[str, Calibrator]:
    """Read fitted calibrators, by the stems of their files.

    A calibrator has its path as its name if its stem is that of another file too, or a word with another meaning:
    "none", or the method of other calibrators.

    Raises:
        InputError: a file is missing or changed.
    """
    stems, loaded = [path.stem for path in paths], {}
    for path in paths:
        calibrator = load_calibrator(path)
        is_taken = path.stem in {"none", *CALIBRATORS} - {calibrator.method} or stems.count(path.stem) > 1
        loaded[f"{path.parent}/{path.name}" if is_taken else path.stem] = calibrator
    return loaded


def _fit(calibrator: Calibrator, classifier: Classifier, examples: Examples) -> None:
    predictions = predict(classifier.model, examples.batches())
    calibrator.origin = Origin(classifier.weights, predictions.logits.shape[1], examples.hashes)
    scores = scores_for(calibrator, classifier.model, examples.batches(), predictions.ids)
    calibrator.fit(predictions.logits, predictions.labels, scores)
