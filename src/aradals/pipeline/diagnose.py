"""Diagnosis of a trained classifier's confidence by robustness subset, class and threshold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aradals.data import Data, as_examples
from aradals.inference.predictions import Predictions
from aradals.pipeline.artifacts import load_predictions, load_scores, versions
from aradals.pipeline.classifier import Classifier, Model, as_classifier, check_training_examples, match_labels
from aradals.pipeline.evaluate import judge_stored, matched, measure_predictions, reliability_bins
from aradals.pipeline.leakage import tell_unchecked
from aradals.pipeline.numbering import check_numbering
from aradals.pipeline.outputs import work_folder
from aradals.pipeline.predict import prediction_stage
from aradals.pipeline.prediction_files import StoredPredictions
from aradals.pipeline.score import (
    AUDIT_FOLDERS,
    AttackSettings,
    audit_ranking,
    check_differentiable,
    check_num_subsets,
    score_stage,
    scores_of,
    scoring_record,
    subsets_of,
)
from aradals.pipeline.shards import Scored, Sharing
from aradals.pipeline.shown import class_rows, example_pictures
from aradals.pipeline.stage import check_versions
from aradals.pipeline.thresholds import MAX_ERRORS, check_max_errors, find_thresholds
from aradals.results.records import (
    CLEAN,
    Check,
    ClassShare,
    DataSummary,
    Method,
    Reliability,
    Results,
    Scoring,
)
from aradals.robustness.scores import ScoreTable


def diagnose(
    model: Classifier | Model,
    data: Data,
    *,
    attack: str = "secant",
    attack_args: Mapping[str, Any] | None = None,
    verified: bool = False,
    bf16: bool = False,
    scores: ScoreTable | Path | None = None,
    num_subsets: int = 10,
    audit: int = 128,
    max_errors: Sequence[float] = MAX_ERRORS,
    seed: int = 0,
    class_names: Sequence[str] | None = None,
    output: str | Path | None = None,
    sharing: Sharing[Scored] | None = None,
    log: Callable[[str], None] = print,
) -> Results:
    """Find out where a classifier's confidence is wrong, without training anything.

    Args:
        model: maps inputs in [0, 1] to logits of shape (N, K), or to outputs that `LogitModel` reads.
        data: `Examples`, (inputs, labels), or a ``DataLoader``; see `aradals.data.as_examples`.
        attack: attack that measures robustness, a name in ``aradals.attacks.ATTACKS``.
        attack_args: settings of the attack.
        verified: also find a perturbation that changes the prediction.
        bf16: attack a copy of the model in bfloat16.
        scores: robustness of the same examples, a table or its file, to use instead of an attack.
        num_subsets: number R of subsets; subset 0 is the least robust.
        audit: number of random examples (at least R) on which a strong attack checks the ranking; 0 for no audit.
        max_errors: shares of wrong predictions for which a confidence threshold is sought.
        seed: seed of the bootstrap and of the audited sample.
        class_names: names of the model's classes, which find the classes of the data in the model; default: those in
            its ``config.id2label``.
        output: folder for predictions and scores, from which an interrupted call continues; default: a temporary one.
        sharing: workers that predict and score a part each; default: this process.
        log: called with each line of progress.

    Raises:
        InputError: data have no labels, or classes that the model does not have; the model was trained on the examples;
            outputs are not logits; the model has no gradients; or there are fewer examples than subsets.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> data = (torch.rand(60, 1, 2, 2), torch.arange(60) % 3)
        >>> diagnose(model, data, num_subsets=2, audit=0, log=lambda line: None).num_subsets
        2
    """
    settings = AttackSettings(attack, attack_args or {}, verified, bf16)
    settings.check()
    check_max_errors(max_errors)
    examples = as_examples(data)
    check_num_subsets(num_subsets, len(examples), "num_subsets", examples.name)
    classifier = as_classifier(model, examples, class_names=class_names, log=log)
    examples, numbered = match_labels(classifier, examples, log)
    checks = [numbered, check_training_examples(classifier, examples)]
    table, is_ours = _given_scores(scores, classifier)
    if table is None:
        check_differentiable(classifier.model, examples.batch([0])[1])
    with work_folder(output) as folder:
        shared = matched(sharing)
        paths = prediction_stage(classifier, examples, [CLEAN], folder / "predictions", sharing=shared, log=log)
        predictions, _ = load_predictions(paths[CLEAN])
        if table is None:
            table = score_stage(classifier, examples, folder / "scores", settings, log=log, sharing=shared)
        ranking = scores_of(table, predictions.ids)
        results = diagnose_predictions(
            predictions,
            name=classifier.name,
            data=examples.name,
            scores=table,
            num_subsets=num_subsets,
            class_names=classifier.class_names or examples.class_names,
            max_errors=max_errors,
            seed=seed,
        )
        audited = None
        if audit and not is_ours:
            log(f"audit: none, because {scores} is of another model or of other data")
        elif audit and ranking is not None:
            sample = {"num_examples": audit, "num_subsets": num_subsets, "seed": seed}
            audited = audit_ranking(classifier, examples, table, folder, **sample, log=log)
        stages = ["predictions", *(["scores"] if scores is None else []), *(AUDIT_FOLDERS if audited else [])]
        checks.append(check_versions(folder / stage for stage in stages))
        tell_unchecked(checks, log)
        return replace(
            results,
            checks=tuple(checks),
            weights=classifier.checkpoints,
            audit=audited,
            pictures=example_pictures(examples, predictions, ranking),
            config={**results.config, **classifier.origin},
        )


def _given_scores(scores: ScoreTable | Path | None, classifier: Classifier) -> tuple[ScoreTable | None, bool]:
    """Return the scores that replace an attack; the bool is False if their file names another model."""
    if not isinstance(scores, Path):
        return scores, True
    table, metadata = load_scores(scores)
    return table, metadata.get("model_digest", classifier.digest) == classifier.digest


def diagnose_stored(
    given: StoredPredictions,
    *,
    scores: ScoreTable | None = None,
    num_subsets: int = 10,
    max_errors: Sequence[float] = MAX_ERRORS,
    seed: int = 0,
    log: Callable[[str], None] = print,
) -> Results:
    """Diagnose predictions from a file, see `diagnose_predictions`."""
    settings: dict[str, Any] = {"scores": scores, "num_subsets": num_subsets, "max_errors": max_errors, "seed": seed}
    return judge_stored(given, partial(diagnose_predictions, given.predictions, **settings), {}, log)


def diagnose_predictions(
    predictions: Predictions,
    *,
    name: str,
    data: str,
    scores: ScoreTable | None = None,
    num_subsets: int = 10,
    class_names: Sequence[str] = (),
    max_errors: Sequence[float] = MAX_ERRORS,
    seed: int = 0,
    checks: Sequence[Check] = (),
) -> Results:
    """Diagnose predictions that exist already.

    Args:
        predictions: predictions of N examples.
        name: name of the model.
        data: name of the data.
        scores: robustness of the examples; if None, or if the search failed for more than 5 % of the examples, there
            are no results by robustness.
        num_subsets: number R of subsets; subset 0 is the least robust.
        class_names: name of each class; a class without a name has its number.
        max_errors: shares of wrong predictions for which a confidence threshold is sought.
        seed: seed of the bootstrap.
        checks: answers of `aradals.pipeline.leakage`, for the results.

    Raises:
        InputError: there are fewer examples than subsets, or scores lack some of the examples.
    """
    check_numbering(predictions, data)
    check_max_errors(max_errors)
    num_classes = predictions.logits.shape[1]
    names = (*class_names, *map(str, range(len(class_names), num_classes)))
    subsets, scoring = None, tuple[Scoring, ...]()
    if scores is not None:
        check_num_subsets(num_subsets, len(predictions), "num_subsets", "the predictions")
        subsets = subsets_of(scores, predictions.ids, num_subsets)
        scoring = (scoring_record(scores, split="evaluated"),)
    keys: dict[str, Any] = {"method": name, "calibrator": "none", "seed": seed, "corruption": "none", "severity": 0}
    rows, _ = measure_predictions(predictions, subsets, keys=keys, seed=seed)
    return Results(
        kind="diagnosis",
        name=name,
        data=DataSummary(data, num_classes, names, {"evaluated": len(predictions)}),
        methods=(Method(name, name),),
        reference=name,
        rows=tuple(rows),
        reliability=tuple(
            Reliability(**keys, bins=reliability_bins(part), subset=subset)
            for subset, part in _parts(predictions, subsets)
        ),
        config={"model": name, **({"attack": scoring[0].attack} if scoring else {})},
        versions=versions(),
        scoring=scoring,
        checks=tuple(checks),
        classes=class_rows(predictions, names, name),
        least_robust_classes=() if subsets is None else _class_shares(predictions, subsets == 0, names),
        thresholds=tuple(find_thresholds(predictions, subsets, max_errors)),
    )


def _parts(predictions: Predictions, subsets: Tensor | None) -> Iterator[tuple[int | None, Predictions]]:
    """List all examples, then each subset with examples."""
    yield None, predictions
    for subset in [] if subsets is None else torch.unique(subsets).tolist():
        yield subset, predictions.select(subsets == subset)


def _class_shares(predictions: Predictions, member: Tensor, names: Sequence[str]) -> tuple[ClassShare, ...]:
    """Compute the shares of the true classes among some examples and among all examples; the largest first."""
    part = predictions.select(member)
    confidence, predicted = part.probs.max(1)
    correct = (predicted == part.labels).double()
    found = []
    for label in torch.unique(part.labels).tolist():
        own = part.labels == label
        found.append(
            ClassShare(
                label=label,
                name=names[label],
                n=int(own.sum()),
                share=own.double().mean().item(),
                base_share=(predictions.labels == label).double().mean().item(),
                accuracy=correct[own].mean().item(),
                confidence=confidence[own].mean().item(),
            )
        )
    return tuple(sorted(found, key=lambda row: (-row.n, row.label)))
