"""Evaluation of a classifier's confidence, clean and under shift, with calibrators and without."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from aradals.calibration import Calibrator
from aradals.data import Data, as_examples, files_digest
from aradals.inference.predictions import Predictions
from aradals.metrics import reliability_diagram, summarize_by_subset
from aradals.metrics.bootstrap import Bootstrap
from aradals.metrics.estimates import estimate_ood_auroc
from aradals.metrics.summary import summarize_and_resample
from aradals.pipeline.artifacts import load_predictions, load_scores, versions
from aradals.pipeline.classifier import Classifier, Model, as_classifier, check_training_examples, match_labels
from aradals.pipeline.leakage import check_calibrators, check_other, check_stored, check_unseen, tell_unchecked
from aradals.pipeline.numbering import check_numbering
from aradals.pipeline.outputs import work_folder
from aradals.pipeline.predict import load_other_data, prediction_stage, stored_predictions
from aradals.pipeline.prediction_files import StoredPredictions
from aradals.pipeline.score import scores_of, scoring_record, subsets_of
from aradals.pipeline.shards import Scored, Sharing
from aradals.pipeline.shifts import choose_shift
from aradals.pipeline.shown import class_rows, example_pictures
from aradals.pipeline.stage import check_versions
from aradals.pipeline.thresholds import MAX_ERRORS, check_max_errors, find_thresholds
from aradals.results.compare import compare_methods, mean_replicates
from aradals.results.records import (
    CLEAN,
    Bin,
    Check,
    Condition,
    DataSummary,
    Measure,
    Method,
    Place,
    Reliability,
    Results,
    Row,
    Variant,
    measures_of,
)
from aradals.robustness.scores import ScoreTable

Sample = dict[str, Tensor]
"""The result of `aradals.metrics.resampled_metrics`: metric -> its value on every resample, shape (B,)."""


@dataclass(frozen=True)
class Evaluated:
    """The result of an evaluation under several conditions.

    Attributes:
        rows: rows of all examples, then of each robustness subset, for each condition and calibrator.
        reliability: reliability diagrams of all examples.
        samples: metrics on resamples of all examples, by calibrator and condition.
    """

    rows: list[Row] = field(default_factory=list)
    reliability: list[Reliability] = field(default_factory=list)
    samples: dict[tuple[str, Condition], Sample] = field(default_factory=dict)

    @property
    def by_place(self) -> dict[tuple[str, Place], Sample]:
        """The samples on clean data, and their mean over all shifts, by calibrator."""
        found: dict[tuple[str, Place], Sample] = {}
        for calibrator in dict.fromkeys(name for name, _ in self.samples):
            found[calibrator, "clean"] = self.samples[calibrator, CLEAN]
            shifted = [each for (name, where), each in self.samples.items() if name == calibrator and where != CLEAN]
            if shifted:
                found[calibrator, "all_shifts"] = mean_replicates(shifted)
        return found


def evaluate(
    model: Classifier | Model,
    data: Data,
    *,
    calibrators: Mapping[str, Calibrator] | None = None,
    scores: ScoreTable | Path | None = None,
    num_subsets: int = 10,
    corruptions: Sequence[str] = (),
    severities: Sequence[int] = (1, 2, 3, 4, 5),
    preset: str | None = None,
    corrupted: str | None = None,
    ood: str | None = None,
    max_errors: Sequence[float] = MAX_ERRORS,
    class_names: Sequence[str] | None = None,
    output: str | Path | None = None,
    sharing: Sharing[Scored] | None = None,
    log: Callable[[str], None] = print,
) -> Results:
    """Evaluate a classifier on clean and on corrupted data, without and with each calibrator.

    Args:
        model: maps inputs in [0, 1] to logits of shape (N, K), or to outputs that `LogitModel` reads.
        data: `Examples`, (inputs, labels), or a ``DataLoader``; see `aradals.data.as_examples`.
        calibrators: fitted calibrators by name, see `aradals.pipeline.calibrate`.
        scores: robustness of the same examples, a table or its file, which defines the subsets.
        num_subsets: number R of subsets.
        corruptions: names or groups; clean data are always evaluated.
        severities: severities of the corruptions, from 1 to 5.
        preset: constants of the corruptions: cifar, tiny or imagenet; default: those for the size of the images.
        corrupted: a corrupted copy of the examples to use instead, such as a CIFAR-10-C folder.
        ood: other data; reports the AUROC of the confidence for telling them from ``data``.
        max_errors: shares of wrong predictions for which a confidence threshold is sought, with each calibrator.
        class_names: names of the model's classes, which find the classes of the data in the model; default: those in
            its ``config.id2label``.
        output: folder for the predictions, from which an interrupted call continues; default: a temporary folder.
        sharing: workers that predict a part each; default: this process.
        log: called with each line of progress.

    Raises:
        InputError: data have no labels, or classes that the model does not have; the model or a calibrator was fitted
            on the examples; a calibrator is that of another model; outputs are not logits; a corruption is unknown; or
            scores lack some of the examples.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> data = (torch.rand(30, 1, 2, 2), torch.arange(30) % 3)
        >>> results = evaluate(model, data, log=lambda line: None)
        >>> results.rows[0].n
        30
    """
    check_max_errors(max_errors)
    examples = as_examples(data)
    classifier = as_classifier(model, examples, class_names=class_names, log=log)
    examples, numbered = match_labels(classifier, examples, log)
    fitted = dict(calibrators or {})
    checks = [
        numbered,
        check_training_examples(classifier, examples),
        *check_calibrators(
            fitted,
            weights=classifier.weights,
            num_classes=classifier.num_classes,
            evaluated=examples.hashes,
            where=examples.name,
        ),
    ]
    conditions, shift = choose_shift(examples, corruptions, severities, preset=preset, corrupted=corrupted)
    other = others = None
    if ood is not None:
        other = load_other_data(ood, examples, log)
        check_other(other.hashes, examples.hashes, where=other.name, beside=examples.name)
        checks.append(check_training_examples(classifier, other))
        checks += [
            check_unseen(each.origin.example_hashes, other.hashes, what=f"the calibrator {name}", where=other.name)
            for name, each in fitted.items()
        ]
    table = load_scores(scores)[0] if isinstance(scores, Path) else scores
    ranking = None if table is None else scores_of(table, examples.ids)
    needs_scores = any(each.score == "first_order_margin" for each in fitted.values())
    source = f"{corrupted}, {files_digest(corrupted)}" if corrupted else preset
    with work_folder(output) as folder:
        predicted = partial(prediction_stage, classifier, with_scores=needs_scores, log=log)
        shared = matched(sharing)
        paths = predicted(examples, conditions, folder / "predictions", shift=shift, source=source, sharing=shared)
        clean, _ = load_predictions(paths[CLEAN])
        if other is not None and ood is not None:
            elsewhere = sharing and replace(sharing, load=partial(_load_other, sharing.load, ood))
            others, _ = load_predictions(predicted(other, [CLEAN], folder / "ood", sharing=elsewhere)[CLEAN])
        results = evaluate_predictions(
            stored_predictions(paths),
            name=classifier.name,
            data=examples.name,
            calibrators=fitted,
            scores=table,
            num_subsets=num_subsets,
            class_names=classifier.class_names or examples.class_names,
            max_errors=max_errors,
            ood=others,
        )
        stages = [folder / "predictions", *([] if other is None else [folder / "ood"])]
        checks.append(check_versions(stages))
    tell_unchecked(checks, log)
    return replace(
        results,
        data=replace(results.data, ood={} if other is None else {other.name: len(other)}),
        checks=tuple(checks),
        weights=classifier.checkpoints,
        pictures=example_pictures(examples, clean, ranking),
        config={**results.config, **classifier.origin, "corrupted": corrupted, "preset": preset},
    )


def matched(sharing: Sharing[Scored] | None) -> Sharing[Scored] | None:
    """Make workers give the classes of the data the numbers of the model, see `match_labels`."""
    return sharing and replace(sharing, load=partial(_load_matched, sharing.load))


def _load_matched(load: Callable[[], Scored]) -> Scored:
    classifier, examples = load()
    return classifier, match_labels(classifier, examples, lambda line: None)[0]


def _load_other(load: Callable[[], Scored], ood: str) -> Scored:
    classifier, examples = _load_matched(load)
    return classifier, load_other_data(ood, examples)


def evaluate_stored(
    given: StoredPredictions,
    *,
    calibrators: Mapping[str, Calibrator],
    scores: ScoreTable | None = None,
    num_subsets: int = 10,
    compared: Mapping[str, Predictions] | None = None,
    max_errors: Sequence[float] = MAX_ERRORS,
    log: Callable[[str], None] = print,
) -> Results:
    """Evaluate predictions from a file, see `evaluate`.

    Raises:
        InputError: a calibrator is that of another model, or was fitted on the examples.
    """
    settings: dict[str, Any] = {
        "scores": scores,
        "num_subsets": num_subsets,
        "compared": compared,
        "max_errors": max_errors,
    }
    measure = partial(evaluate_predictions, [(CLEAN, given.predictions)], calibrators=calibrators, **settings)
    return judge_stored(given, measure, calibrators, log)


def judge_stored(
    given: StoredPredictions,
    measure: Callable[..., Results],
    calibrators: Mapping[str, Calibrator],
    log: Callable[[str], None],
) -> Results:
    """Measure predictions from a file, and say what could not be checked.

    Args:
        given: the predictions.
        measure: function that makes the results, such as `evaluate_predictions` with its first arguments.
        calibrators: calibrators whose fit must not have used the examples.
        log: called with each line about the file.
    """
    checks = check_stored(given, calibrators)
    results = measure(name=given.name, data=given.data, class_names=given.class_names, checks=checks)
    log(given.taken)
    tell_unchecked(checks, log)
    return results


def evaluate_predictions(
    predictions: Iterable[tuple[Condition, Predictions]],
    *,
    name: str,
    data: str,
    calibrators: Mapping[str, Calibrator] | None = None,
    scores: ScoreTable | None = None,
    num_subsets: int = 10,
    class_names: Sequence[str] = (),
    checks: Sequence[Check] = (),
    compared: Mapping[str, Predictions] | None = None,
    max_errors: Sequence[float] = MAX_ERRORS,
    ood: Predictions | None = None,
) -> Results:
    """Evaluate predictions that exist already, without and with each calibrator.

    Args:
        predictions: predictions by condition, clean data first, all of the same examples in the same order.
        name: name of the model.
        data: name of the data.
        calibrators: fitted calibrators by name.
        scores: robustness of the examples, which defines the subsets.
        num_subsets: number R of subsets.
        class_names: name of each class; a class without a name has its number.
        checks: answers of `aradals.pipeline.leakage`, for the results.
        compared: clean predictions of other models by name, of the same examples in the same order. The results compare
            them with this model, paired by example.
        max_errors: shares of wrong predictions for which a confidence threshold of this model is sought.
        ood: predictions of other data, see `evaluate`.
    """
    check_max_errors(max_errors)
    given = iter(predictions)
    condition, clean = next(given)
    check_numbering(clean, data)
    subsets = subsets_of(scores, clean.ids, num_subsets)

    def everything() -> Iterator[tuple[Condition, Predictions]]:
        yield condition, clean
        yield from given

    found = {name: evaluate_conditions(everything(), subsets, calibrators or {}, method=name, seed=0, ood=ood)}
    for other, clean_of_other in (compared or {}).items():
        found[other] = evaluate_conditions([(CLEAN, clean_of_other)], subsets, {}, method=other, seed=0)
    results = Results(
        kind="evaluation",
        name=name,
        data=DataSummary(data, clean.logits.shape[1], tuple(class_names), {"evaluated": len(clean)}),
        methods=tuple(Method(each, each) for each in found),
        reference=name,
        rows=tuple(row for each in found.values() for row in each.rows),
        reliability=tuple(diagram for each in found.values() for diagram in each.reliability),
        config={"model": name, "calibrators": list(calibrators or {})},
        versions=versions(),
        scoring=() if scores is None else (scoring_record(scores, split="evaluated"),),
        classes=class_rows(clean, class_names, name),
        thresholds=tuple(
            threshold
            for calibrator, variant in calibrated_variants(clean, calibrators or {})
            for threshold in find_thresholds(variant, subsets, max_errors, calibrator)
        ),
        checks=tuple(checks),
    )
    replicates = {
        (Variant(method, each), 0, place): sample
        for method, evaluated in found.items()
        for (each, place), sample in evaluated.by_place.items()
    }
    return replace(results, comparisons=compare_methods(results, replicates))


def evaluate_conditions(
    predictions: Iterable[tuple[Condition, Predictions]],
    subsets: Tensor | None,
    calibrators: Mapping[str, Calibrator],
    *,
    method: str,
    seed: int,
    num_bins: int = 15,
    num_resamples: int = 1000,
    ood: Predictions | None = None,
) -> Evaluated:
    """Measure predictions under several conditions, without and with each calibrator, in one pass.

    Args:
        predictions: predictions by condition, all of the same examples in the same order.
        subsets: robustness subset of each example, int64, shape (N,), or None.
        calibrators: fitted calibrators by name.
        method: name of the method.
        seed: seed of the training.
        num_bins: number of bins of the ECE.
        num_resamples: number of bootstrap resamples for the intervals.
        ood: predictions of other data, which the confidence is to distinguish from the clean data.
    """
    found = Evaluated()
    for condition, plain in predictions:
        aurocs = {}
        if ood is not None and condition == CLEAN:
            aurocs = measure_ood(plain, ood, calibrators, num_resamples=num_resamples)
        for calibrator, variant in calibrated_variants(plain, calibrators):
            keys = {"method": method, "calibrator": calibrator, "seed": seed, **condition._asdict()}
            rows, sample = measure_predictions(
                variant, subsets, keys=keys, num_bins=num_bins, num_resamples=num_resamples
            )
            if calibrator in aurocs:
                auroc, resampled = aurocs[calibrator]
                rows[0] = replace(rows[0], metrics={**rows[0].metrics, "ood_auroc": auroc})
                sample |= {} if resampled is None else {"ood_auroc": resampled}
            found.rows.extend(rows)
            found.reliability.append(Reliability(**keys, bins=reliability_bins(variant, num_bins)))
            found.samples[calibrator, condition] = sample
    return found


def measure_predictions(
    predictions: Predictions,
    subsets: Tensor | None = None,
    *,
    keys: Mapping[str, Any],
    num_bins: int = 15,
    num_resamples: int = 1000,
    seed: int = 0,
) -> tuple[list[Row], Sample]:
    """Compute all metrics of one set of predictions.

    Args:
        predictions: predictions of N examples.
        subsets: robustness subset of each example, int64, shape (N,); if None, the only row is that of all examples.
        keys: the fields of `Row` that name the model and the condition.
        num_bins: number of bins of the ECE.
        num_resamples: number of bootstrap resamples for the intervals.
        seed: seed of the bootstrap.

    Returns:
        The row of all examples, then one row for each subset, the least robust first; and the metrics of the resamples
        that give the intervals of the first row.
    """
    options: dict[str, Any] = {
        "logits": predictions.logits,
        "num_bins": num_bins,
        "num_resamples": num_resamples,
        "seed": seed,
    }
    overall, sample = summarize_and_resample(predictions.labels, subsets=subsets, **options)
    by_subset = [] if subsets is None else summarize_by_subset(predictions.labels, subsets, **options)
    rows = [
        Row(**keys, n=int(row["n"] or 0), metrics=measures_of(row), subset=None if subset is None else int(subset))
        for row in (overall, *by_subset)
        for subset in [row.get("subset")]
    ]
    return rows, sample


def calibrated_variants(
    predictions: Predictions, calibrators: Mapping[str, Calibrator]
) -> Iterator[tuple[str, Predictions]]:
    """Return the unchanged predictions, under the name ``none``, and those with the logits of each calibrator."""
    yield "none", predictions
    for name, calibrator in calibrators.items():
        yield name, replace(predictions, logits=calibrator.predict_logits(predictions.logits, predictions.scores))


def measure_ood(
    inside: Predictions, outside: Predictions, calibrators: Mapping[str, Calibrator], *, num_resamples: int = 1000
) -> dict[str, tuple[Measure, Tensor | None]]:
    """Measure how well the confidence distinguishes other data from these, by calibrator: see `estimate_ood_auroc`.

    Both data sets are one batch. So a calibrator that fits itself to a batch does not know which examples are which.
    """
    found = {}
    for calibrator, both in calibrated_variants(Predictions.concatenate([inside, outside]), calibrators):
        confidence, n = both.probs.amax(1), len(inside)
        estimate, resampled = estimate_ood_auroc(confidence[:n], confidence[n:], Bootstrap(num_resamples))
        found[calibrator] = Measure(estimate.value, estimate.low, estimate.high), resampled
    return found


def reliability_bins(predictions: Predictions, num_bins: int = 15) -> tuple[Bin, ...]:
    """Compute the bins of a reliability diagram."""
    diagram = reliability_diagram(predictions.labels, logits=predictions.logits, num_bins=num_bins)
    columns = {name: column.tolist() for name, column in asdict(diagram).items()}
    return tuple(
        Bin(**{**dict(zip(columns, values, strict=True)), "count": int(count)})
        for *values, count in zip(*columns.values(), columns["count"], strict=True)
    )
