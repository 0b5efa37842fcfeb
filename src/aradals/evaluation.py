"""From predictions to the rows of every table: overall and by robustness subset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from tqdm import tqdm

from aradals.artifacts import encode_hashes, load_predictions, save_predictions
from aradals.calibration import Calibrator
from aradals.data import Examples, corrupt
from aradals.errors import InputError
from aradals.inference import Batch, Predictions, predict
from aradals.metrics import reliability_diagram, summarise, summarise_by_subset

Condition = tuple[str, int]
"""(corruption, severity); clean data are ("none", 0)."""

CLEAN: Condition = ("none", 0)

Row = dict[str, Any]
"""One row of a table: keys that say what was evaluated, then fractions with their `_low` and `_high`."""


def corrupted_batches(examples: Examples, condition: Condition) -> Iterator[Batch]:
    """Batches of ``examples`` under a corruption, made on the fly."""
    for ids, inputs, labels in examples.batches():
        yield ids, corrupt(inputs, ids, *condition) if condition != CLEAN else inputs, labels


def prediction_paths(folder: Path, conditions: Sequence[Condition]) -> dict[Condition, Path]:
    """Where in ``folder`` the predictions under each condition lie."""
    return {condition: folder / f"predictions-{condition[0]}-{condition[1]}.parquet" for condition in conditions}


def predict_conditions(
    model: nn.Module, examples: Examples, paths: Mapping[Condition, Path], *, model_digest: str
) -> None:
    """Write the predictions under every condition, but for those that are there already.

    The caller sees to it that what is there is of this model and these examples.
    """
    provenance = {
        "model_digest": model_digest,
        "data": examples.name,
        "data_fingerprint": examples.fingerprint,
        "example_hashes": encode_hashes(examples.hashes),
    }
    for condition, path in tqdm(paths.items(), unit="condition", disable=None, leave=False):
        if not path.exists():
            save_predictions(path, predict(model, corrupted_batches(examples, condition)), provenance)


def conditions(corruptions: Sequence[str], severities: Sequence[int]) -> list[Condition]:
    """Clean data, then every corruption at every severity.

    Raises:
        InputError: a severity that is not from 1 to 5.
    """
    for severity in severities:
        if severity not in range(1, 6):
            raise InputError(expected="severities from 1 to 5", got=str(severity), hint="1 (mild) to 5 (strong)")
    return [CLEAN, *((name, severity) for name in corruptions for severity in severities)]


def evaluate_predictions(
    predictions: Predictions,
    subsets: Tensor | None = None,
    *,
    keys: Mapping[str, object],
    num_bins: int = 15,
    num_resamples: int = 1000,
    seed: int = 0,
) -> list[Row]:
    """All metrics of one set of predictions.

    Args:
        predictions: of N examples.
        subsets: robustness subset of each, int64, shape (N,); without them there is the overall row only.
        keys: what was evaluated (method, seed, corruption, ...), copied into every row.
        num_bins: of the ECE.
        num_resamples: bootstrap resamples for the intervals.
        seed: of the bootstrap.

    Returns:
        The overall row (``subset`` None), then one row per subset, least robust first.
    """
    logits, labels = predictions.logits, predictions.labels
    options: dict[str, Any] = {"num_bins": num_bins, "num_resamples": num_resamples, "seed": seed}
    rows: list[Row] = [{**keys, "subset": None, **summarise(logits, labels, subsets=subsets, **options)}]
    if subsets is not None:
        rows.extend({**keys, **row} for row in summarise_by_subset(logits, labels, subsets, **options))
    return rows


def evaluate_conditions(
    paths: Mapping[Condition, Path],
    subsets: Tensor | None,
    calibrators: Mapping[str, Calibrator],
    *,
    keys: Mapping[str, object],
    num_bins: int = 15,
    num_resamples: int = 1000,
) -> tuple[list[Row], list[Row]]:
    """Rows and reliability diagrams of stored predictions, without and with each calibrator.

    Args:
        paths: predictions by condition, all of the same examples in the same order.
        subsets: robustness subset of each example, int64, shape (N,), or None.
        calibrators: fitted, by name.
        keys: what was evaluated (method, seed, ...), copied into every row.
        num_bins: of the ECE.
        num_resamples: bootstrap resamples for the intervals.

    Returns:
        Rows as in `evaluate_predictions`, and one dict per diagram with the key ``bins``.
    """
    rows: list[Row] = []
    reliability: list[Row] = []
    for (corruption, severity), path in paths.items():
        predictions, _ = load_predictions(path)
        for name, calibrator in {"none": None, **calibrators}.items():
            calibrated = predictions if calibrator is None else calibrate(predictions, calibrator)
            row_keys: Row = {**keys, "calibrator": name, "corruption": corruption, "severity": severity}
            rows += evaluate_predictions(
                calibrated, subsets, keys=row_keys, num_bins=num_bins, num_resamples=num_resamples
            )
            bins = reliability_bins(calibrated.logits, calibrated.labels, num_bins)
            reliability.append({**row_keys, "subset": None, "bins": bins})
    return rows, reliability


def calibrate(predictions: Predictions, calibrator: Calibrator) -> Predictions:
    """The predictions with calibrated logits."""
    return replace(predictions, logits=calibrator.predict_logits(predictions.logits))


def reliability_bins(logits: Tensor, labels: Tensor, num_bins: int = 15) -> list[dict[str, float]]:
    """The bins of a reliability diagram, one dict each: low, high, count, confidence, accuracy and its interval."""
    columns = asdict(reliability_diagram(labels, logits=logits, num_bins=num_bins))
    values = {name: column.tolist() for name, column in columns.items()}
    return [dict(zip(values, bin_values, strict=True)) for bin_values in zip(*values.values(), strict=True)]
