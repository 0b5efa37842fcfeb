"""What no study can have, refused before hours of work are spent."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NoReturn

from torch import nn

from aradals._internal.specs import user_code
from aradals.calibration import get_calibrator
from aradals.checks import check_logits
from aradals.errors import InputError
from aradals.inference.predictions import Batch, evaluation_mode
from aradals.objectives import choose_objective, takes_target_prob
from aradals.pipeline.config import MethodConfig, StudyConfig, TrainingConfig
from aradals.smoothing.adaptive import AdaptiveSmoothing
from aradals.smoothing.update_rules import UpdateRule

OTHER_FOLDERS = ("scores", "scorer", "runs")


def check_config(config: StudyConfig) -> None:
    """Raise InputError for what no study can have, whatever its data."""
    sizes = {
        "training.epochs": (config.training.epochs, 1),
        "training.batch_size": (config.training.batch_size, 2),
        "splits.train": (config.splits.train or 2, 2),
        "splits.validation": (config.splits.validation, 1),
        "splits.calibration": (config.splits.calibration, 1 if config.calibrators else 0),
        "evaluation.num_bins": (config.evaluation.num_bins, 1),
        "evaluation.num_resamples": (config.evaluation.num_resamples, 2),
        "the number of data sets": (len(data_sets(config)), 1),
        "the number of methods": (len(config.methods), 1),
        "the number of seeds": (len(config.seeds), 1),
        **{f"methods.{name}.{key}": pair for name, method in config.methods.items() for key, pair in _sizes(method)},
        **{f"ensembles.{name}.num_members": (settings.num_members, 2) for name, settings in config.ensembles.items()},
    }
    for key, (value, minimum) in sizes.items():
        if value < minimum:
            raise InputError(expected=f"{key} of at least {minimum}", got=str(value), hint="a larger number")
    _check_training(config.training)
    lists: dict[str, Sequence[object]] = {
        "seed": config.seeds,
        "data set": data_sets(config),
        "calibrator": config.calibrators,
        "corruption": config.evaluation.corruptions,
        "severity": config.evaluation.severities,
    }
    for what, given in lists.items():
        if len(set(given)) < len(given):
            raise InputError(expected=f"every {what} once", got=str(given), hint="leaving out what is there twice")
    if min(config.seeds) < 0:
        raise InputError(expected="seeds of at least 0", got=str(config.seeds), hint="0, 1, 2")
    if config.evaluation.corruptions and not config.evaluation.severities:
        raise InputError(expected="severities of the corruptions", got="none", hint="severities=[1, 3, 5]")
    for calibrator in config.calibrators:
        get_calibrator(calibrator)
    for name in (*config.methods, *config.ensembles):
        if name in OTHER_FOLDERS or not re.fullmatch(r"\w[\w.-]*", name):
            raise InputError(
                expected="methods whose names can be folders beside " + ", ".join(OTHER_FOLDERS),
                got=repr(name),
                hint="letters, digits, dots, dashes and underscores",
            )
    for name, method in config.methods.items():
        _check_method(name, method, config.training)
    _check_ensembles(config)


def try_method(name: str, method: MethodConfig, training: TrainingConfig, model: nn.Module, batch: Batch) -> None:
    """One step of a method on a few examples, to fail before the work rather than in it; adds to gradients.

    Raises:
        InputError: targets, views or an objective that do not suit the model or the inputs.
    """
    _, inputs, labels = batch
    augment = "augmix" if method.consistency else method.augment or training.augment
    if augment != "none" and inputs.ndim != 4:
        _refuse(
            name, f"on images, for {augment} changes them", f"inputs of shape {tuple(inputs.shape)}", "augment=none"
        )
    objective = choose_objective(method.objective, method.objective_args)
    with user_code(method.objective, "return (loss, logits)"), evaluation_mode(model):
        loss, logits = objective(model, inputs, labels)
        loss.backward()
    num_classes = check_logits(logits, len(inputs)).shape[1]
    AdaptiveSmoothing(num_classes, rule=None, initial_target_prob=method.initial_target_prob)  # checks the range


def data_sets(config: StudyConfig) -> list[str]:
    """List the data sets of a study; most studies have one."""
    return [config.data] if isinstance(config.data, str) else config.data


def needs_subsets(settings: MethodConfig) -> bool:
    """Whether a method trains with subsets that are there before it starts."""
    return settings.num_subsets > 1 and settings.score_every is None


def needs_scores(settings: MethodConfig) -> bool:
    """Whether those subsets come from scores of a model."""
    return needs_subsets(settings) and settings.grouping in ("robustness", "confidence")


def _sizes(method: MethodConfig) -> Iterator[tuple[str, tuple[int, int]]]:
    yield "update_every", (method.update_every, 1)
    yield "num_subsets", (method.num_subsets, 1)
    if method.score_every is not None:
        yield "score_every", (method.score_every, 1)


def _check_training(training: TrainingConfig) -> None:
    if not training.learning_rate > 0:
        got = str(training.learning_rate)
        raise InputError(expected="training.learning_rate above 0", got=got, hint="0.001")
    if not training.weight_decay >= 0:
        raise InputError(expected="training.weight_decay of at least 0", got=str(training.weight_decay), hint="0")
    if (training.schedule == "steps") != bool(training.milestones):
        raise InputError(
            expected="training.schedule=steps and training.milestones, or neither",
            got=f"schedule={training.schedule}, milestones={training.milestones}",
            hint="both, or another schedule and milestones=[]",
        )
    if training.schedule != "steps" and training.gamma != TrainingConfig.gamma:
        raise InputError(
            expected="training.gamma with schedule=steps only",
            got=f"schedule={training.schedule}",
            hint="without gamma",
        )


def _check_method(name: str, method: MethodConfig, training: TrainingConfig) -> None:
    """Check that the settings fit each other, so that every setting has an effect."""
    _check_objective(name, method, training)
    _check_targets(name, method, training)
    _check_subsets(name, method)
    if method.score_every is not None:
        _check_self_scoring(name, method, method.score_every, training.epochs)


def _check_objective(name: str, method: MethodConfig, training: TrainingConfig) -> None:
    """Check that the objective supports the targets and the views that the method gives it."""
    objective = choose_objective(method.objective, method.objective_args)
    if (method.rule or method.initial_target_prob < 1) and not takes_target_prob(objective):
        _refuse(
            name,
            "with one-hot targets, for its objective knows no others",
            f"objective={method.objective} with " + ("a rule" if method.rule else "initial_target_prob below 1"),
            "objective=cross_entropy, or neither rule nor initial_target_prob",
        )
    if not method.consistency >= 0:
        _refuse(name, "with a consistency of at least 0", str(method.consistency), "12")
    if method.consistency and method.objective in ("mixup", "ccat"):
        _refuse(
            name,
            "with an objective that leaves images as they are, for its consistency",
            method.objective,
            "augment=augmix",
        )
    if method.consistency and (method.augment or training.augment) == "augmix":
        _refuse(
            name, "with images that are not AugMix views already, for its consistency", "augment=augmix", "flip_crop"
        )


def _check_targets(name: str, method: MethodConfig, training: TrainingConfig) -> None:
    """Check that the method has a rule if it needs one, and updates that can have an effect."""
    if method.num_subsets > 1 and method.rule is None:
        _refuse(name, "with a rule, for subsets differ by it alone", f"num_subsets={method.num_subsets}", "rule={}")
    if method.update_every > 1 and (method.rule is None or method.update_every >= training.epochs):
        got = f"{training.epochs} epochs" if method.rule else "no rule"
        _refuse(name, f"with updates every {method.update_every} epochs that an epoch follows", got, "update_every=1")
    rule, unused = method.rule or UpdateRule(), UpdateRule()
    for key in ("shape_rate", "shrink", "monotone"):
        if method.num_subsets == 1 and getattr(rule, key) != getattr(unused, key):
            _refuse(name, f"with num_subsets above 1, for rule.{key} is about subsets", "1", "num_subsets=10")
    if rule.monotone and method.grouping == "random":
        _refuse(name, "with subsets that have an order, for rule.monotone", "grouping=random", "monotone=false")


def _check_subsets(name: str, method: MethodConfig) -> None:
    """Check that settings of subsets are given only if the method has subsets."""
    if (method.grouping == "column") != (method.group_column is not None):
        _refuse(
            name,
            "with grouping=column and a group_column, or neither",
            f"grouping={method.grouping}, group_column={method.group_column}",
            "both",
        )
    unused = MethodConfig()
    for key in ("grouping", "cross_fit", "score_every", "matching"):
        if method.num_subsets == 1 and getattr(method, key) != getattr(unused, key):
            _refuse(name, f"with num_subsets above 1, for {key} is about subsets", "1", "num_subsets=10")
    for key in ("cross_fit", "matching"):
        if not needs_scores(method) and getattr(method, key) != getattr(unused, key):
            _refuse(name, f"scored by another model, for its {key}", f"{key}={getattr(method, key)}", f"without {key}")


def _check_self_scoring(name: str, method: MethodConfig, score_every: int, epochs: int) -> None:
    """Check that a model that scores itself does so early enough to train with separate targets."""
    if method.grouping != "robustness":
        _refuse(
            name,
            "grouped by robustness, which is what a model in training scores",
            f"score_every={score_every} and grouping={method.grouping}",
            "without score_every",
        )
    last_update = (epochs - 1) // method.update_every * method.update_every  # the last that an epoch follows
    if score_every >= last_update:
        _refuse(
            name,
            "scored early enough for an update by subsets, and for an epoch after that",
            f"score_every={score_every} and update_every={method.update_every} in {epochs} epochs",
            "smaller ones, or more epochs",
        )


def _refuse(name: str, expected: str, got: str, hint: str) -> NoReturn:
    raise InputError(expected=f"methods.{name} {expected}", got=got, hint=hint)


def _check_ensembles(config: StudyConfig) -> None:
    for name, ensemble in config.ensembles.items():
        if name in config.methods:
            raise InputError(expected="an ensemble with a name of its own", got=repr(name), hint=f"{name}_ensemble")
        if ensemble.method not in config.methods:
            raise InputError(
                expected=f"ensembles.{name} of a method of the recipe: {', '.join(config.methods)}",
                got=repr(ensemble.method),
                hint="one of these",
            )
        if ensemble.in_step and config.methods[ensemble.method].rule is None:
            raise InputError(
                expected=f"ensembles.{name} in step of a method with a rule, for only targets that adapt can be shared",
                got=f"{ensemble.method}, which has none",
                hint="in_step=false",
            )
