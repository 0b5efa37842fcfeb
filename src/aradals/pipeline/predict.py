"""Predictions of a model under every condition, computed once and kept in files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import repeat, tee
from pathlib import Path
from typing import Any

import torch

from aradals._internal.files import file_name, set_aside
from aradals._internal.hashes import encode_hashes
from aradals._internal.json_files import settings_digest
from aradals.data import Examples, load_data
from aradals.errors import InputError
from aradals.inference.ensemble import pool_predictions
from aradals.inference.predictions import Predictions, predict
from aradals.pipeline.artifacts import SCHEMA_VERSION, as_arrow, load_predictions, merge_parquet, prediction_columns
from aradals.pipeline.classifier import Classifier
from aradals.pipeline.shards import Scored, Sharing, Work, do_shards
from aradals.pipeline.shifts import Shift, corrupted_batches
from aradals.pipeline.stage import run_stage
from aradals.results.records import Condition
from aradals.robustness.scores import score_batches

_BATCHES_PER_WORKER = 16


def prediction_file(condition: Condition) -> str:
    """Return the name of the file of predictions under a condition."""
    name, severity = condition
    return f"predictions-{file_name(name)}-{severity}.parquet"


def prediction_paths(folder: Path, conditions: Sequence[Condition]) -> dict[Condition, Path]:
    """Return the path in ``folder`` of the predictions under each condition."""
    return {condition: folder / prediction_file(condition) for condition in conditions}


def predict_conditions(
    classifier: Classifier,
    examples: Examples,
    paths: Mapping[Condition, Path],
    *,
    with_scores: bool = False,
    shift: Shift = corrupted_batches,
    sharing: Sharing[Scored] | None = None,
) -> None:
    """Write the predictions under every condition, except those that exist already.

    The caller makes sure that existing predictions are those of this model and these examples. Batches are finished in
    a hidden folder beside the files, see `do_shards`.

    Args:
        classifier: the model. A copy with folded batch norm predicts, which is faster and the same up to rounding.
        examples: the examples to predict.
        paths: paths of the files by condition.
        with_scores: also compute the model's first-order margins, which some calibrators need.
        shift: source of the corrupted examples.
        sharing: workers that do a part each; default: this process.
    """
    provenance = {
        "model_digest": classifier.digest,
        "weights": classifier.weights,
        "data": examples.name,
        "data_fingerprint": examples.fingerprint,
        "example_hashes": encode_hashes(examples.hashes),
    }
    first, *_ = paths.values()
    work = Predicting(
        tuple(paths),
        shift,
        with_scores,
        num_examples=len(examples),
        batch_size=examples.batches().batch_size or 1,
        num_files=len(paths),
        batches_per_worker=_BATCHES_PER_WORKER,
        done=frozenset(file for file, path in enumerate(paths.values()) if _is_predicted(path, provenance)),
    )
    request = settings_digest([provenance, work.conditions, with_scores, SCHEMA_VERSION])
    done = do_shards(work, (classifier, examples), first.with_name(f".{first.name}.shards"), request, sharing)
    for file, path in enumerate(paths.values()):
        if file not in work.done:
            merge_parquet(path, "predictions", done.of_file(work, file), provenance)
    done.remove()


@dataclass(frozen=True)
class Predicting(Work[Scored]):
    """Predictions under several conditions, a file each.

    Attributes:
        conditions: the conditions.
        shift: source of the corrupted examples.
        with_scores: also compute first-order margins.
    """

    conditions: tuple[Condition, ...]
    shift: Shift
    with_scores: bool

    def identity(self, loaded: Scored, rows: range) -> dict[str, str]:
        """Describe the model and these examples."""
        classifier, examples = loaded
        if self.num_files > 1:
            _ = examples.hashes  # of all examples once, because every condition has the same
        return {"model_digest": classifier.digest, "data_fingerprint": examples.select(rows).fingerprint}

    def tables(self, loaded: Scored, file: int, rows: range) -> Iterator[Any]:
        """Predict batch by batch."""
        classifier, examples = loaded
        fast = classifier.fast_model(examples.batch([0])[1])
        batches, again = tee(self.shift(examples.select(rows), self.conditions[file]))
        margins = score_batches(classifier.model, again, "first_order_margin") if self.with_scores else repeat(None)
        for batch, table in zip(batches, margins, strict=self.with_scores):
            predictions = predict(fast, [batch])
            if table is not None:
                predictions = replace(predictions, scores=table.for_ids(predictions.ids).score)
            yield as_arrow(prediction_columns(predictions))


def _is_predicted(path: Path, provenance: Mapping[str, str]) -> bool:
    """Return True if an interrupted call has written these predictions; rename any other file."""
    if not path.exists():
        return False
    with suppress(InputError):
        if provenance.items() <= load_predictions(path)[1].items():
            return True
    set_aside(path, "changed")
    return False


def stored_predictions(paths: Mapping[Condition, Path]) -> Iterator[tuple[Condition, Predictions]]:
    """Read predictions from files by condition, one after the other."""
    return ((condition, load_predictions(path)[0]) for condition, path in paths.items())


def pool_members(members: Sequence[Predictions]) -> Predictions:
    """Return the predictions of one model as they are, and pool those of several by `pool_predictions`."""
    return members[0] if len(members) == 1 else pool_predictions(members)


def prediction_stage(
    classifier: Classifier,
    examples: Examples,
    conditions: Sequence[Condition],
    folder: Path,
    *,
    with_scores: bool = False,
    shift: Shift = corrupted_batches,
    source: str | None = None,
    sharing: Sharing[Scored] | None = None,
    log: Callable[[str], None] = print,
) -> dict[Condition, Path]:
    """Predict under every condition, in a separate stage, which continues after an interruption.

    Args:
        classifier: the model.
        examples: clean examples.
        conditions: see `aradals.pipeline.shifts.choose_conditions`.
        folder: folder of the stage.
        with_scores: also compute first-order margins.
        shift: source of the corrupted examples.
        source: name of ``shift`` in the record of the stage's inputs.
        sharing: workers that do a part each; default: this process.
        log: called with each line of progress.

    Returns:
        The file of the predictions under each condition.
    """
    paths = prediction_paths(folder, conditions)
    inputs = {
        "model": classifier.digest,
        "spec": classifier.name,
        "data": examples.fingerprint,
        "conditions": conditions,
        "with_scores": with_scores,
        "source": source,
    }

    def make(_: Path) -> None:
        predict_conditions(classifier, examples, paths, with_scores=with_scores, shift=shift, sharing=sharing)

    outputs = [path.name for path in paths.values()]
    run_stage(folder, inputs, outputs, make, lambda line: log(f"predictions: {line}"), probe=classifier.probe)
    return paths


def load_other_data(spec: str, examples: Examples, log: Callable[[str], None] = lambda line: None) -> Examples:
    """Load data of another distribution; all labels are 0, because the model does not know their classes.

    The inputs are prepared as those of ``examples``. Images of another size are resized. Values outside [0, 1] are
    clipped, because other data may well have a wider range.

    Raises:
        InputError: the inputs have another shape than those of ``examples``, or are on another scale.
    """
    preparation = dict(examples.preparation)
    match examples.input_shape:
        case (_, height, width) if height == width:
            preparation["resize"] = width
    other = load_data(spec, labeled=False, out_of_range="clip", preparation=preparation, log=log)
    if other.input_shape != examples.input_shape:
        raise InputError(
            expected=f"inputs of shape {examples.input_shape} in {other.name}, as in {examples.name}",
            got=str(other.input_shape),
            hint="data of the same kind, such as images with as many channels",
        )
    return Examples(
        lambda rows: other.batch(rows)[1],
        torch.zeros_like(other.labels),
        num_classes=examples.num_classes,
        ids=other.ids,
        name=other.name,
    )
