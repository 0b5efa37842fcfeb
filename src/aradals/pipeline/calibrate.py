"""Fit a calibrator to a classifier on held-out data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from aradals._internal.json_files import settings_digest
from aradals.calibration import (
    CALIBRATORS,
    BatchTemperature,
    Calibrator,
    get_calibrator,
    load_calibrator,
    scores_for,
)
from aradals.data import Data, Examples, as_examples
from aradals.errors import InputError
from aradals.inference.predictions import predict
from aradals.pipeline.artifacts import save_calibrator
from aradals.pipeline.classifier import Classifier, Model, as_classifier, check_training_examples, match_labels
from aradals.pipeline.domains import check_domains, fit_on_domains
from aradals.pipeline.evaluate import evaluate_predictions
from aradals.pipeline.leakage import check_stored, tell_unchecked
from aradals.pipeline.numbering import check_numbering
from aradals.pipeline.outputs import output_file, refuse_other_request
from aradals.pipeline.prediction_files import StoredPredictions
from aradals.results.records import CLEAN, Results


def calibrate(
    model: Classifier | Model,
    data: Data,
    *,
    method: str = "temperature",
    method_args: Mapping[str, Any] | None = None,
    class_names: Sequence[str] | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    log: Callable[[str], None] = print,
) -> Calibrator:
    """Fit a calibrator on data that is used neither to train nor to judge the model.

    Args:
        model: maps inputs in [0, 1] to logits of shape (N, K), or to outputs that `LogitModel` reads.
        data: `Examples`, (inputs, labels), or a ``DataLoader``; see `aradals.data.as_examples`.
        method: a name in ``aradals.calibration.CALIBRATORS``. ``batch_temperature`` makes drifted copies of the
            examples, and so needs images or the rows of a table.
        method_args: settings of the method, such as ``{"statistic": "mutual_information"}``.
        class_names: names of the model's classes, which find the classes of the data in the model; default: those in
            its ``config.id2label``.
        output: JSON file for the calibrator, the digest of the model and the content hashes of the examples.
        overwrite: replace an output that another program has made, or that was made from other inputs.
        log: called with a line about what could not be checked.

    Raises:
        InputError: the method is unknown; data have no labels, or classes that the model does not have; the model was
            trained on the examples; its outputs are not logits; or another program has made the output.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> inputs = torch.rand(300, 1, 2, 2)
        >>> labels = model(inputs).mul(9).softmax(1).multinomial(1).flatten()
        >>> calibrator = calibrate(model, (inputs, labels), log=lambda line: None)
        >>> calibrator.predict_logits(torch.zeros(1, 3)).shape
        torch.Size([1, 3])
    """
    calibrator = get_calibrator(method, **(method_args or {}))
    examples = as_examples(data)
    if isinstance(calibrator, BatchTemperature):
        check_domains(examples)
    classifier = as_classifier(model, examples, class_names=class_names, log=log)
    examples, numbered = match_labels(classifier, examples, log)
    checks = [numbered, check_training_examples(classifier, examples)]
    if output is None:
        _fit(calibrator, classifier, examples)
    else:
        path, request = (
            Path(output),
            settings_digest([method, *filter(None, [method_args]), classifier.digest, examples.fingerprint]),
        )
        with output_file(path, ".json", "calibrator", overwrite=overwrite):
            refuse_other_request(path, request, overwrite=overwrite)
            _fit(calibrator, classifier, examples)
            save_calibrator(path, calibrator, examples, request=request)
    tell_unchecked(checks, log)
    return calibrator


def calibrate_predictions(
    given: StoredPredictions,
    *,
    method: str = "temperature",
    judged: StoredPredictions | None = None,
    held_out: float = 0.2,
    output: str | Path | None = None,
    overwrite: bool = False,
    log: Callable[[str], None] = print,
) -> tuple[Calibrator, Results]:
    """Fit a calibrator on predictions, and evaluate it on others, with intervals and noise floors.

    Args:
        given: predictions of examples that are used neither to train nor to judge the model.
        method: a name in ``aradals.calibration.CALIBRATORS``.
        judged: predictions to evaluate without and with the calibrator. By default, a random part of ``given`` is held
            out of the fit for this.
        held_out: the part that is held out, in (0, 1).
        output: JSON file for the calibrator.
        overwrite: replace an output that another program has made, or that was made from other inputs.
        log: called with a line about what could not be checked.

    Returns:
        The fitted calibrator, and its evaluation.

    Raises:
        InputError: the method is unknown; there are too few examples; the calibrator was fitted on ``judged``; or
            another program has made the output.
    """
    calibrator, data = get_calibrator(method), given.data
    if isinstance(calibrator, BatchTemperature):
        raise InputError(
            expected="a model and data for batch_temperature, because it is fitted on drifted copies of the inputs",
            got="predictions",
            hint="--model, --checkpoint and --data, or BatchTemperature().fit(labels, logits=..., domains=...)",
        )
    request = settings_digest([method, given.fingerprint, None if judged is not None else held_out])
    fitted_on = given
    if judged is None:
        fitted_on, judged = _split(given, held_out)
        data = f"{data} ({len(judged.predictions)} examples that were held out of the fit)"
        checks = check_stored(judged, {})
    calibrator.fit(
        fitted_on.predictions.labels, logits=fitted_on.predictions.logits, scores=fitted_on.predictions.scores
    )
    calibrator.origin = replace(
        calibrator.origin,
        weights=given.weights,
        example_hashes=given.hashes,
        data=given.data,
        fingerprint=fitted_on.fingerprint,
        request=request,
    )
    if fitted_on is given:
        checks, data = check_stored(judged, {method: calibrator}), judged.data
    if output is not None:
        path = Path(output)
        with output_file(path, ".json", "calibrator", overwrite=overwrite):
            refuse_other_request(path, request, overwrite=overwrite)
            calibrator.save(path)
    log(given.taken)
    tell_unchecked(checks, log)
    results = evaluate_predictions(
        [(CLEAN, judged.predictions)],
        name=judged.name,
        data=data,
        calibrators={method: calibrator},
        class_names=judged.class_names,
        checks=checks,
    )
    return calibrator, results


def _split(given: StoredPredictions, held_out: float) -> tuple[StoredPredictions, StoredPredictions]:
    """Split predictions at random, the same at every call, into those of the fit and those that are held out."""
    num_examples = len(given.predictions)
    size = round(held_out * num_examples)
    if not 0 < held_out < 1 or not 0 < size < num_examples:
        raise InputError(
            expected="a part of the examples between 0 and 1 that leaves some to fit and some to judge",
            got=f"{held_out} of {num_examples} examples",
            hint="--held-out 0.2, or other predictions to --evaluate-on",
        )
    order = torch.randperm(num_examples, generator=torch.Generator().manual_seed(0))
    return given.select(order[size:].sort().values), given.select(order[:size].sort().values)


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
    if isinstance(calibrator, BatchTemperature):
        fit_on_domains(calibrator, classifier.model, examples)
    else:
        _fit_on_clean(calibrator, classifier, examples)
    calibrator.origin = replace(calibrator.origin, weights=classifier.weights, example_hashes=examples.hashes)


def _fit_on_clean(calibrator: Calibrator, classifier: Classifier, examples: Examples) -> None:
    predictions = predict(classifier.model, examples.batches())
    check_numbering(predictions, examples.name)
    scores = scores_for(calibrator, classifier.model, examples.batches(), predictions.ids)
    calibrator.fit(predictions.labels, logits=predictions.logits, scores=scores)
