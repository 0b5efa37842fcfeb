"""The work of each task of a study, from its record and the files of the tasks that it needs."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from aradals._internal.hashes import encode_hashes
from aradals._internal.json_files import save_json, settings_digest
from aradals._internal.specs import code_digest
from aradals.calibration import BatchTemperature, TemperatureScaling, get_calibrator, load_calibrator
from aradals.data import Examples, files_digest, load_column
from aradals.errors import InputError, OutputError, TrainingFailed
from aradals.inference.ensemble import Ensemble
from aradals.inference.predictions import Predictions, resolve_device
from aradals.metrics import nll
from aradals.models import save_checkpoint, seal_description
from aradals.pipeline.artifacts import load_predictions, save_calibrator, versions
from aradals.pipeline.config import ColumnSubsets, RandomSubsets, RankedSubsets
from aradals.pipeline.domains import DRIFTS, fit_on_domains
from aradals.pipeline.evaluate import evaluate_conditions
from aradals.pipeline.predict import pool_members, predict_conditions, prediction_paths
from aradals.pipeline.ranks import on_ranks, rank_of
from aradals.pipeline.score import SCORES, AttackSettings, rankings_of, read_scores, score_stage, scores_of, subsets_of
from aradals.pipeline.shifts import shift_of
from aradals.pipeline.study.arrays import RunArrays
from aradals.pipeline.study.finished import read_file
from aradals.pipeline.study.groups import (
    TrainingSubsets,
    chance_subsets,
    folds_of,
    score_subsets,
    value_subsets,
)
from aradals.pipeline.study.tasks import (
    ARRAYS_FILE,
    CALIBRATION_FILE,
    HISTORY_FILE,
    OOD_FILE,
    ROWS_FILE,
    Calibrate,
    Choose,
    Evaluate,
    Predict,
    PredictOther,
    Score,
    Train,
    needs_model,
    read_task,
)
from aradals.pipeline.study.workspace import Materials, Workspace
from aradals.results.files import plain
from aradals.results.records import CLEAN, Candidate, Condition, Epoch, Training, Update
from aradals.robustness.scores import ScoreTable

if TYPE_CHECKING:
    from aradals.pipeline.train import TrainedModel


def run_task(record: Mapping[str, Any], space: Workspace) -> None:
    """Do a task, unless it was done before from the same inputs.

    Args:
        record: record of the task, see `Task.record`; the tasks that it needs are done.
        space: workspace of the study. Processes that do other tasks need to share only its folder.

    Raises:
        TrainingFailed: a training failed, or its model is useless.
        InputError: a file that the task reads is missing or damaged.
        OutputError: a file cannot be written.
    """
    match read_task(record):
        case Train() as task:
            train(task, space)
        case Choose() as task:
            choose(task, space)
        case Score() as task:
            score(task, space)
        case Predict() as task:
            predict(task, space)
        case PredictOther() as task:
            predict_other(task, space)
        case Calibrate() as task:
            calibrate(task, space)
        case Evaluate() as task:
            evaluate(task, space)


def prepare() -> None:
    """Import what a training needs, which takes seconds."""
    import aradals.pipeline.train  # noqa: F401


def train(task: Train, space: Workspace) -> None:
    """Train one model, or several in step."""
    materials = space.materials(task.source)
    splits, settings, seed = materials.splits, task.method, task.source.seed
    examples, subsets = _examples(task, space), training_subsets(task, space)
    inputs = {
        "model": task.source.model,
        "code": materials.code,
        "model_args": task.source.model_args,
        "training": task.training.course,
        "method": {**settings.training, "code": code_digest(settings.objective)},
        "train": examples.fingerprint,
        "validation": splits.validation.fingerprint,
        "subsets": subsets.digest if subsets else None,
        "seed": seed,
        "members": task.members,
    }

    def make(folder: Path) -> None:
        on_ranks(_fit, task.record, space, settings_digest(inputs), folder, training=task.training, log=space.log)

    try:
        space.fill(task, inputs, make, materials.probe)
    except TrainingFailed as error:
        raise TrainingFailed(error.reason, task.model_name) from error


def _examples(task: Train, space: Workspace) -> Examples:
    """Select the examples of a training."""
    materials = space.materials(task.source)
    train = materials.splits.train
    return train if task.without_fold is None else train.select(~materials.fold(task.without_fold))


def _fit(record: Mapping[str, Any], space: Workspace, inputs: str, folder: Path) -> None:
    """Train from fresh models, or from the state of an interrupted training, and write the models and the history.

    If several processes train together, rank 0 writes the files.
    """
    from aradals.pipeline.train import fit_classifier, member_seed  # takes seconds

    task = read_task(record)
    assert isinstance(task, Train)
    examples, subsets = _examples(task, space), training_subsets(task, space)
    materials, resume = space.materials(task.source), folder / "resume.ckpt"
    seeds = [member_seed(task.source.seed, member) for member in task.members]
    models = []
    for seed in seeds:
        torch.manual_seed(seed)
        models.append(materials.build())
    trained = fit_classifier(
        models[0] if len(models) == 1 else Ensemble(models),
        examples,
        materials.splits.validation,
        method=task.method,
        training=task.training,
        seed=seeds[0],
        train_subsets=subsets.train if subsets else None,
        validation_subsets=subsets.validation if subsets else None,
        device=str(resolve_device(space.device)),
        resume=resume,
        inputs_digest=inputs,
        logs=space.folder / "logs",
        run=f"{task.model_name}-seed-{task.source.seed}",
        log=space.log_of(task),
    )
    if rank_of(task.training):
        return
    save_json(folder / HISTORY_FILE, plain(_history(task, trained)))
    description = _describe(task, materials, examples, inputs)
    for model, name in zip(models, task.checkpoints, strict=True):
        save_checkpoint(model, folder / name, seal_description(model, description))
    resume.unlink(missing_ok=True)


def _history(task: Train, trained: TrainedModel) -> Training:
    """Make the record of a training."""

    def known(values: Sequence[float]) -> tuple[float | None, ...]:
        return tuple(value if math.isfinite(value) else None for value in values)

    return Training(
        method=task.name,
        seed=task.source.seed,
        settings={**task.method.training, "num_members": len(task.members)},
        update_rate=trained.update_rate,
        update_every=task.method.targets.update_every,
        seconds=trained.seconds,
        epochs=tuple(Epoch(each["loss"], each["accuracy"], each["seconds"]) for each in trained.epochs),
        scorings=tuple(trained.scorings),
        updates=tuple(
            Update(known(each["target_prob"]), known(each["confidence"]), known(each["accuracy"]))
            for each in trained.updates
        ),
        target_prob=tuple(trained.target_prob),
        at_lower_bound=tuple(trained.at_lower_bound),
        precision=trained.precision,
    )


def training_subsets(task: Train, space: Workspace) -> TrainingSubsets | None:
    """Make the subsets that a model is trained with from the start; None if there are none."""
    splits, seed = space.materials(task.source).splits, task.source.seed
    train, validation = splits.train.ids, splits.validation.ids
    match task.method.targets.subsets:
        case RandomSubsets() as subsets:
            return chance_subsets(subsets, train, validation, seed)
        case ColumnSubsets() as subsets:
            return value_subsets(subsets, train, validation, load_column(task.source.data, "train", subsets.column))
        case RankedSubsets() as subsets:
            folds = folds_of(train, subsets.folds, seed)
            scores = [
                rankings_of((_table(ours, space), train[folds == fold]), (_table(theirs, space), validation))
                for fold, (ours, theirs) in enumerate(zip(task.train_scores, task.validation_scores, strict=True))
            ]
            return score_subsets(subsets, train, validation, folds, scores)
        case _:  # one target for all examples, or subsets that the model finds in training
            return None


def _table(task: Score, space: Workspace) -> ScoreTable:
    return read_scores(space.folder / task.folder)


def _describe(task: Train, materials: Materials, train: Examples, inputs: str) -> dict[str, Any]:
    """Describe a checkpoint: how to build its model, and the examples that it was fitted on."""
    fitted = np.concatenate([train.hashes, materials.splits.validation.hashes])
    return {
        "model": task.source.model,
        "model_args": task.source.model_args,
        "num_classes": train.num_classes,
        "input_shape": list(train.input_shape),
        "class_names": list(train.class_names) if train.has_names else [],
        "method": task.name,
        "seed": task.source.seed,
        "inputs": inputs,
        "versions": versions(),
        "fitted_examples": encode_hashes(fitted),
        "preparation": train.preparation,
    }


def choose(task: Choose, space: Workspace) -> None:
    """Keep the model with the lowest NLL on the calibration split after a temperature; the first one of equal ones."""
    paths = [space.paths(each)[CALIBRATION_FILE] for each in task.predictions]
    inputs = {
        "predictions": [space.digests(each)[CALIBRATION_FILE] for each in task.predictions],
        "models": [space.digests(each) for each in task.candidates],
    }

    def make(folder: Path) -> None:
        losses = [nll_after_temperature(load_predictions(path)[0]) for path in paths]
        chosen = losses.index(min(losses))
        trainings = [read_file(space.paths(each)[HISTORY_FILE], Training) for each in task.candidates]
        history = replace(
            trainings[chosen],
            seconds=sum(each.seconds for each in trainings),
            candidates=tuple(Candidate(each.settings, loss) for each, loss in zip(trainings, losses, strict=True)),
        )
        save_json(folder / HISTORY_FILE, plain(history))
        for name in task.checkpoints:
            shutil.copyfile(space.paths(task.candidates[chosen])[name], folder / name)
        listed = ", ".join(f"{loss:.4f}" for loss in losses)
        space.log_of(task)(f"candidate {chosen + 1} of {len(losses)}, by the NLL of each after a temperature: {listed}")

    space.fill(task, inputs, make)


def nll_after_temperature(predictions: Predictions) -> float:
    """Compute the mean NLL in nats after a temperature that is fitted on the same examples."""
    fitted = TemperatureScaling().fit(predictions.labels, logits=predictions.logits)
    return nll(predictions.labels, logits=fitted.predict_logits(predictions.logits))


def score(task: Score, space: Workspace) -> None:
    """Score a split, or half of it."""
    materials = space.materials(task.source)
    examples: Examples = getattr(materials.splits, task.split)
    if task.fold is not None:
        examples = examples.select(materials.fold(task.fold))
    # All tables of a scorer start from the same examples, so that it ranks all splits by the same search.
    checkpoint, digest = space.checkpoint(task.scorer)
    try:
        classifier = materials.load(checkpoint, digest, space.device)
        settings = AttackSettings(task.attack, task.attack_args, starts_from=materials.splits.train)
        folder, log = space.folder / task.folder, space.log_of(task)
        score_stage(classifier, examples, folder, settings, log=log, **space.options)
    except OutputError:
        raise
    except InputError as error:
        if isinstance(task.scorer, str):
            raise
        raise TrainingFailed(f"it cannot be used to score examples: {error}", task.scorer.model_name) from error


def predict(task: Predict, space: Workspace) -> None:
    """Predict the calibration split, and the test split under every condition."""
    materials = space.materials(task.source)
    splits = materials.splits
    checkpoint, digest = _checkpoint(task, space)
    inputs = {
        "model": materials.model_digest(digest),
        "calibration": splits.calibration.fingerprint,
        "test": splits.test.fingerprint,
        "conditions": task.conditions,
        "preset": task.preset,
        "corrupted": task.corrupted and [task.corrupted, files_digest(task.corrupted)],
        "with_scores": task.with_scores,
    }

    def make(folder: Path) -> None:
        classifier = materials.load(checkpoint, digest, space.device)
        calibration = {CLEAN: folder / CALIBRATION_FILE} if len(splits.calibration) else {}
        for examples, paths in (
            (splits.calibration, calibration),
            (splits.test, prediction_paths(folder, task.conditions)),
        ):
            if paths:
                shift = shift_of(task.preset, task.corrupted)
                predict_conditions(classifier, examples, paths, with_scores=task.with_scores, shift=shift)

    space.fill(task, inputs, make, materials.probe)


def predict_other(task: PredictOther, space: Workspace) -> None:
    """Predict out-of-distribution data."""
    materials, examples = space.materials(task.source), space.other_data(task.ood, task.source)
    checkpoint, digest = _checkpoint(task, space)
    inputs = {
        "model": materials.model_digest(digest),
        "data": examples.fingerprint,
        "with_scores": task.with_scores,
    }

    def make(folder: Path) -> None:
        classifier = materials.load(checkpoint, digest, space.device)
        predict_conditions(classifier, examples, {CLEAN: folder / OOD_FILE}, with_scores=task.with_scores)

    space.fill(task, inputs, make, materials.probe)


def calibrate(task: Calibrate, space: Workspace) -> None:
    """Fit every calibrator on the calibration split."""
    examples = space.materials(task.source).splits.calibration
    inputs = {
        "predictions": [space.digests(each)[CALIBRATION_FILE] for each in task.predictions],
        "data": examples.fingerprint,
        "calibrators": task.calibrators,
        "pull": True,  # earlier versions fitted temperatures without it
    }
    with_model = any(map(needs_model, task.calibrators))
    if with_model:
        inputs |= {"models": [_checkpoint(each, space)[1] for each in task.predictions], "drifts": DRIFTS}

    def make(folder: Path) -> None:
        paths = [space.paths(each)[CALIBRATION_FILE] for each in task.predictions]
        members = [load_predictions(path) for path in paths]
        fitted_on = pool_members([predictions for predictions, _ in members])
        weights = [metadata.get("weights", "") for _, metadata in members]
        origin_weights = weights[0] if len(weights) == 1 else settings_digest(weights)
        for calibrator in task.calibrators:
            fitted = get_calibrator(calibrator)
            if isinstance(fitted, BatchTemperature):
                fit_on_domains(fitted, _load_pooled(task.predictions, space), examples)
            else:
                fitted.fit(fitted_on.labels, logits=fitted_on.logits, scores=fitted_on.scores)
            fitted.origin = replace(fitted.origin, weights=origin_weights)
            save_calibrator(folder / f"{calibrator}.json", fitted, examples)

    space.fill(task, inputs, make, space.materials(task.source).probe if with_model else None)


def _checkpoint(task: Predict | PredictOther, space: Workspace) -> tuple[Path, str]:
    """Return the file of the model that predicts, and its digest."""
    return space.paths(task.train)[task.checkpoint], space.digests(task.train)[task.checkpoint]


def _load_pooled(predictions: Sequence[Predict], space: Workspace) -> nn.Module:
    """Load the model that has made predictions, or the ensemble of several."""
    models = [space.materials(each.source).load(*_checkpoint(each, space), space.device).model for each in predictions]
    return models[0] if len(models) == 1 else Ensemble(models)


def evaluate(task: Evaluate, space: Workspace) -> None:
    """Make the rows of a method or ensemble, and its arrays, from one pass over the predictions."""
    examples, settings = space.materials(task.source).splits.test, task.evaluation
    members = [prediction_paths(space.folder / each.folder, each.conditions) for each in task.predictions]
    calibrators = {path.stem: path for path in space.paths(task.calibrate).values()}
    inputs = {
        "predictions": [
            space.digests(each)[path.name]
            for each, paths in zip(task.predictions, members, strict=True)
            for path in paths.values()
        ],
        "calibrators": {name: space.digests(task.calibrate)[path.name] for name, path in calibrators.items()},
        "scores": space.digests(task.scores)[SCORES],
        "evaluation": {name: value for name, value in asdict(settings).items() if name != "ood"},
    }
    if task.others:
        inputs["ood"] = [space.digests(each)[OOD_FILE] for each in task.others]

    def make(folder: Path) -> None:
        scores = _table(task.scores, space)
        subsets = subsets_of(scores, examples.ids, settings.num_subsets)
        clean_logits: list[Tensor] = []

        def pooled() -> Iterator[tuple[Condition, Predictions]]:
            for condition in members[0]:
                predictions = [load_predictions(paths[condition])[0] for paths in members]
                if condition == CLEAN:
                    clean_logits.extend(each.logits for each in predictions)
                yield condition, pool_members(predictions)

        found = evaluate_conditions(
            pooled(),
            subsets,
            {name: load_calibrator(path) for name, path in calibrators.items()},
            method=task.name,
            seed=task.source.seed,
            num_bins=settings.num_bins,
            num_resamples=settings.num_resamples,
            ood=_pooled_others(task, space),
        )
        RunArrays(
            found.by_place, torch.stack(clean_logits), examples.labels, scores_of(scores, examples.ids), subsets
        ).save(folder / ARRAYS_FILE)
        save_json(folder / ROWS_FILE, {"rows": plain(found.rows), "reliability": plain(found.reliability)})
        accuracy, confidence, ece = (found.rows[0][metric].value for metric in ("accuracy", "confidence", "ece"))
        space.log_of(task)(f"accuracy {accuracy:.4f}  confidence {confidence:.4f}  ECE {ece:.4f}")

    space.fill(task, inputs, make)


def _pooled_others(task: Evaluate, space: Workspace) -> Predictions | None:
    """Read the predictions of out-of-distribution data, if the study has such data."""
    members = [load_predictions(space.paths(each)[OOD_FILE])[0] for each in task.others]
    return pool_members(members) if members else None
