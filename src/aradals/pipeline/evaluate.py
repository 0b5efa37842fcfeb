"""From predictions to the rows of every table: overall and by robustness subset."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from aradals._internal.files import file_name, set_aside
from aradals.calibration import Calibrator
from aradals.data import Examples, corrupt, corruption_names, list_conditions, load_condition
from aradals.errors import InputError
from aradals.inference.accelerate import accelerated
from aradals.inference.ensemble import pool_predictions
from aradals.inference.predictions import Batch, Predictions, predict
from aradals.metrics import ood_auroc, reliability_diagram, summarize_by_subset
from aradals.metrics.summary import summarize_and_resample
from aradals.pipeline.artifacts import encode_hashes, load_predictions, save_predictions
from aradals.robustness.scores import score

Condition = tuple[str, int]
"""(corruption, severity); clean data are ("none", 0)."""

CLEAN: Condition = ("none", 0)

Row = dict[str, Any]
"""One row of a table: keys that say what was evaluated, then fractions with their `_low` and `_high`."""


Shift = Callable[[Examples, Condition], Iterable[Batch]]
"""The examples under a condition, as batches; ids and labels are those of the clean examples."""


def corrupted_batches(examples: Examples, condition: Condition, *, preset: str | None = None) -> Iterator[Batch]:
    """Examples corrupted on the fly: a `Shift`.

    Args:
        examples: clean images.
        condition: corruption and severity.
        preset: whose constants, see `aradals.data.corrupt`; by default those for the size of the images.
    """
    for ids, inputs, labels in examples.batches():
        yield ids, corrupt(inputs, ids, *condition, preset=preset) if condition != CLEAN else inputs, labels


def published_batches(examples: Examples, condition: Condition, *, data: str) -> Iterable[Batch]:
    """The same examples from a corrupted copy that others have made, such as CIFAR-10-C: a `Shift`.

    Args:
        examples: the clean ones, whose ids are the rows of every part of the copy.
        condition: corruption and severity, a part of the copy.
        data: see `aradals.data.load_condition`, which raises where the two do not fit.
    """
    clean = condition == CLEAN
    return (examples if clean else load_condition(data, *condition, examples)).batches()


def prediction_file(condition: Condition) -> str:
    """The name of the file of predictions under a condition."""
    name, severity = condition
    return f"predictions-{file_name(name)}-{severity}.parquet"


def prediction_paths(folder: Path, conditions: Sequence[Condition]) -> dict[Condition, Path]:
    """Where in ``folder`` the predictions under each condition lie."""
    return {condition: folder / prediction_file(condition) for condition in conditions}


def predict_conditions(
    model: nn.Module,
    examples: Examples,
    paths: Mapping[Condition, Path],
    *,
    model_digest: str,
    with_scores: bool = False,
    shift: Shift = corrupted_batches,
) -> None:
    """Write the predictions under every condition, but for those that are there already: one pass for each.

    The caller sees to it that what is there is of this model and these examples.

    Args:
        model: inputs in [0, 1] to logits. What predicts is a copy of it with batch norm folded in, which is faster and
            the same up to rounding.
        examples: to be predicted.
        paths: where to.
        model_digest: stands for the model's weights.
        with_scores: also the model's first-order margins, which some calibrators need.
        shift: where the corrupted examples come from.
    """
    provenance = {
        "model_digest": model_digest,
        "data": examples.name,
        "data_fingerprint": examples.fingerprint,
        "example_hashes": encode_hashes(examples.hashes),
    }
    fast = accelerated(model, examples.__getitems__([0])[1])
    for condition, path in tqdm(paths.items(), unit="condition", disable=None, leave=False):
        if not _is_predicted(path, provenance):
            predictions = predict(fast, shift(examples, condition))
            if with_scores:
                table = score(model, shift(examples, condition), "first_order_margin")
                scores = table.score.cpu()[torch.searchsorted(table.ids, predictions.ids)]
                predictions = replace(predictions, scores=scores)
            save_predictions(path, predictions, provenance)


def _is_predicted(path: Path, provenance: Mapping[str, str]) -> bool:
    """Whether an interrupted call has written these predictions; a file that it has not is renamed."""
    if not path.exists():
        return False
    with suppress(InputError):
        if provenance.items() <= load_predictions(path)[1].items():
            return True
    set_aside(path, "changed")
    return False


def conditions(corruptions: Sequence[str], severities: Sequence[int]) -> list[Condition]:
    """Clean data, then every corruption, or those of every group, at every severity.

    Raises:
        InputError: a severity that is not from 1 to 5; an unknown corruption or group.
    """
    for severity in severities:
        if severity not in range(1, 6):
            raise InputError(expected="severities from 1 to 5", got=str(severity), hint="1 (mild) to 5 (strong)")
    return [CLEAN, *((name, severity) for name in corruption_names(corruptions) for severity in severities)]


def choose_conditions(
    corruptions: Sequence[str], severities: Sequence[int], *, corrupted: str | None = None
) -> list[Condition]:
    """The conditions to evaluate under; of a corrupted copy, all that it has where no corruptions are named.

    Raises:
        InputError: unknown names or severities; a copy without what is asked of it.
    """
    if corrupted is None:
        return conditions(corruptions, severities)
    found = list_conditions(corrupted)
    known = list(dict.fromkeys(name for name, _ in found))
    chosen = corruption_names(corruptions) if corruptions else known
    wanted = [CLEAN, *((name, severity) for name, severity in found if name in chosen and severity in severities)]
    if missing := set(chosen) - {name for name, _ in wanted}:
        raise InputError(
            expected=f"corruptions of {corrupted}: {', '.join(known)}", got=", ".join(sorted(missing)), hint="these"
        )
    return wanted


def shift_of(preset: str | None, corrupted: str | None) -> Shift:
    """Where corrupted examples come from: they are made on the fly, or a corrupted copy has them."""
    return (
        partial(corrupted_batches, preset=preset) if corrupted is None else partial(published_batches, data=corrupted)
    )


def choose_shift(
    examples: Examples,
    corruptions: Sequence[str],
    severities: Sequence[int],
    *,
    preset: str | None = None,
    corrupted: str | None = None,
) -> tuple[list[Condition], Shift]:
    """The conditions to evaluate under, and where their examples come from; what can fail is tried on one example.

    Args:
        examples: clean.
        corruptions: names or groups; of a corrupted copy, all that it has where none are named.
        severities: 1 to 5.
        preset: of the constants, see `aradals.data.corrupt`.
        corrupted: a corrupted copy of the examples, see `published_batches`.

    Raises:
        InputError: see `choose_conditions`; a preset beside a corrupted copy.
    """
    if preset is not None and corrupted is not None:
        raise InputError(
            expected="a preset or a corrupted copy", got=f"both ({preset}, {corrupted})", hint="one of them"
        )
    wanted = choose_conditions(corruptions, severities, corrupted=corrupted)
    if corrupted is None:
        ids, inputs, _ = examples.__getitems__([0])
        for condition in wanted[1:]:
            corrupt(inputs, ids, *condition, preset=preset)
    return wanted, shift_of(preset, corrupted)


class Evaluated(NamedTuple):
    """What an evaluation under several conditions finds.

    Attributes:
        rows: as in `evaluate_predictions`.
        reliability: one dict per diagram with the key ``bins``.
        replicates: by calibrator and condition, what `aradals.metrics.resampled_metrics` gives of all examples.
    """

    rows: list[Row]
    reliability: list[Row]
    replicates: dict[tuple[str, Condition], dict[str, Tensor]]


def evaluate_predictions(
    predictions: Predictions,
    subsets: Tensor | None = None,
    *,
    keys: Mapping[str, object],
    num_bins: int = 15,
    num_resamples: int = 1000,
    seed: int = 0,
) -> tuple[list[Row], dict[str, Tensor]]:
    """All metrics of one set of predictions.

    Args:
        predictions: of N examples.
        subsets: robustness subset of each, int64, shape (N,); without them there is the overall row only.
        keys: what was evaluated (method, seed, corruption, ...), copied into every row.
        num_bins: of the ECE.
        num_resamples: bootstrap resamples for the intervals.
        seed: of the bootstrap.

    Returns:
        The overall row (``subset`` None), then one row per subset, least robust first; and the metrics of the resamples
        that the intervals of the overall row come from.
    """
    logits, labels = predictions.logits, predictions.labels
    options: dict[str, Any] = {"num_bins": num_bins, "num_resamples": num_resamples, "seed": seed}
    overall, replicates = summarize_and_resample(logits, labels, subsets=subsets, **options)
    by_subset = [] if subsets is None else summarize_by_subset(logits, labels, subsets, **options)
    return [{**keys, "subset": None, **overall}, *({**keys, **row} for row in by_subset)], replicates


def evaluate_conditions(
    predictions: Iterable[tuple[Condition, Predictions]],
    subsets: Tensor | None,
    calibrators: Mapping[str, Calibrator],
    *,
    keys: Mapping[str, object],
    num_bins: int = 15,
    num_resamples: int = 1000,
) -> Evaluated:
    """Evaluate predictions under several conditions, without and with each calibrator, in one pass.

    Args:
        predictions: by condition, all of the same examples in the same order.
        subsets: robustness subset of each example, int64, shape (N,), or None.
        calibrators: fitted, by name.
        keys: what was evaluated (method, seed, ...), copied into every row.
        num_bins: of the ECE.
        num_resamples: bootstrap resamples for the intervals.
    """
    found = Evaluated([], [], {})
    for condition, plain in predictions:
        corruption, severity = condition
        for name, variant in calibrated_variants(plain, calibrators):
            row_keys: Row = {**keys, "calibrator": name, "corruption": corruption, "severity": severity}
            rows, found.replicates[name, condition] = evaluate_predictions(
                variant, subsets, keys=row_keys, num_bins=num_bins, num_resamples=num_resamples
            )
            bins = reliability_bins(variant.logits, variant.labels, num_bins)
            found.rows.extend(rows)
            found.reliability.append({**row_keys, "subset": None, "bins": bins})
    return found


def stored_predictions(paths: Mapping[Condition, Path]) -> Iterator[tuple[Condition, Predictions]]:
    """Predictions from files by condition, one after the other."""
    return ((condition, load_predictions(path)[0]) for condition, path in paths.items())


def pool_members(members: Sequence[Predictions]) -> Predictions:
    """The predictions of one model as they are, and those of several as `pool_predictions` gives them."""
    return members[0] if len(members) == 1 else pool_predictions(members)


def calibrated_variants(
    predictions: Predictions, calibrators: Mapping[str, Calibrator]
) -> Iterator[tuple[str, Predictions]]:
    """The predictions as they are, by the name ``none``, then with the logits of each calibrator."""
    yield "none", predictions
    for name, calibrator in calibrators.items():
        yield name, replace(predictions, logits=calibrator.predict_logits(predictions.logits, predictions.scores))


def ood_rows(
    inside: Predictions, outside: Predictions, calibrators: Mapping[str, Calibrator], *, data: str, ood: str
) -> list[Row]:
    """How well the confidence tells the examples of one data set from those of another, with each calibrator."""
    pairs = zip(calibrated_variants(inside, calibrators), calibrated_variants(outside, calibrators), strict=True)
    return [
        {
            "calibrator": name,
            "data": data,
            "ood_data": ood,
            "n": len(ours),
            "ood_n": len(others),
            "ood_auroc": ood_auroc(ours.probs.amax(1), others.probs.amax(1)),
        }
        for (name, ours), (_, others) in pairs
    ]


def reliability_bins(logits: Tensor, labels: Tensor, num_bins: int = 15) -> list[dict[str, float]]:
    """The bins of a reliability diagram, one dict each: low, high, count, confidence, accuracy and its interval."""
    columns = asdict(reliability_diagram(labels, logits=logits, num_bins=num_bins))
    values = {name: column.tolist() for name, column in columns.items()}
    return [dict(zip(values, bin_values, strict=True)) for bin_values in zip(*values.values(), strict=True)]
