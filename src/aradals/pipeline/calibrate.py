"""Fit a calibrator to a classifier on held-out data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import nn

from aradals._internal.json_files import settings_digest
from aradals.calibration import Calibrator, get_calibrator, scores_for
from aradals.data import Data, Examples, as_examples
from aradals.inference.predictions import predict
from aradals.pipeline.artifacts import load_calibrator, save_calibrator
from aradals.pipeline.classifier import Classifier, as_classifier, refuse_training_examples
from aradals.pipeline.leakage import refuse_fitted_hashes
from aradals.pipeline.outputs import output_file, refuse_other_request


def calibrate(
    model: Classifier | nn.Module,
    data: Data,
    *,
    method: str = "temperature",
    output: str | Path | None = None,
    overwrite: bool = False,
) -> Calibrator:
    """Fit a calibrator on data that is used neither to train nor to judge the model.

    Args:
        model: maps inputs in [0, 1] to logits of shape (N, K).
        data: `Examples`, (inputs, labels), or a ``DataLoader``; see `aradals.data.as_examples`.
        method: a name in ``aradals.calibration.CALIBRATORS``.
        output: JSON file for the calibrator and the content hashes of the examples.
        overwrite: replace an output that another program has made, or that was made from other inputs.

    Raises:
        InputError: the method is unknown; data have no labels; the model was trained on the examples; its outputs are
            not logits; or another program has made the output.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> calibrator = calibrate(model, (torch.rand(30, 1, 2, 2), torch.arange(30) % 3))
        >>> calibrator.predict_logits(torch.zeros(1, 3)).shape
        torch.Size([1, 3])
    """
    calibrator = get_calibrator(method)
    examples = as_examples(data)
    classifier = as_classifier(model, examples)
    refuse_training_examples(classifier, examples)
    if output is None:
        return _fit(calibrator, classifier, examples)
    output, request = Path(output), settings_digest([method, classifier.digest, examples.fingerprint])
    with output_file(output, ".json", "calibrator", overwrite=overwrite):
        refuse_other_request(output, request, overwrite=overwrite)
        save_calibrator(output, _fit(calibrator, classifier, examples), examples, request=request)
    return calibrator


def load_calibrators(paths: Sequence[Path], evaluated: npt.NDArray[np.uint64], *, where: str) -> dict[str, Calibrator]:
    """Read fitted calibrators, by the names of their files.

    Args:
        paths: files that `calibrate` has written.
        evaluated: content hashes of the examples that the calibrators are judged on.
        where: name of these examples.

    Raises:
        InputError: a file is missing or changed, or a calibrator was fitted on the examples.
    """
    loaded = {path.stem: load_calibrator(path) for path in paths}
    for name, (_, hashes) in loaded.items():
        refuse_fitted_hashes(hashes, evaluated, what=f"the calibrator {name}", where=where)
    return {name: calibrator for name, (calibrator, _) in loaded.items()}


def _fit(calibrator: Calibrator, classifier: Classifier, examples: Examples) -> Calibrator:
    predictions = predict(classifier.model, examples.batches())
    scores = scores_for(calibrator, classifier.model, examples.batches(), predictions.ids)
    calibrator.fit(predictions.logits, predictions.labels, scores)
    return calibrator
