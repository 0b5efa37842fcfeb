"""What no study can have, refused before hours of work are spent."""

from __future__ import annotations

import re
from collections.abc import Iterator

from aradals.adaptive_smoothing import AdaptiveSmoothing
from aradals.calibration import get_calibrator
from aradals.config import MethodConfig, StudyConfig
from aradals.errors import InputError
from aradals.objectives import choose_objective, takes_target_prob

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
    if not config.training.learning_rate > 0:
        got = str(config.training.learning_rate)
        raise InputError(expected="training.learning_rate above 0", got=got, hint="0.001")
    for what, given in (("seed", config.seeds), ("data set", data_sets(config))):
        if len(set(given)) < len(given):
            raise InputError(expected=f"every {what} once", got=str(given), hint=f"other {what}s")
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
        _check_method(name, method, config.training.epochs)
    _check_ensembles(config)


def data_sets(config: StudyConfig) -> list[str]:
    """The data sets of a study, of which there is mostly one."""
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


def _check_method(name: str, method: MethodConfig, epochs: int) -> None:
    """Settings that fit each other, so that none is silently without effect."""
    objective = choose_objective(method.objective, method.objective_args)
    AdaptiveSmoothing(
        1000,
        method.num_subsets,
        rule=method.rule and method.rule.for_updates(1),
        initial_target_prob=method.initial_target_prob,
    )
    smooths = method.rule is not None or method.initial_target_prob < 1

    def refuse(expected: str, got: str, hint: str) -> None:
        raise InputError(expected=f"methods.{name} {expected}", got=got, hint=hint)

    if smooths and not takes_target_prob(objective):
        refuse(
            "with one-hot targets, for its objective knows no others",
            f"objective={method.objective} with " + ("a rule" if method.rule else "initial_target_prob below 1"),
            "objective=cross_entropy, or neither rule nor initial_target_prob",
        )
    if method.num_subsets > 1 and method.rule is None:
        refuse("with a rule, for subsets differ by it alone", f"num_subsets={method.num_subsets}", "rule={}")
    if not method.consistency >= 0:
        refuse("with a consistency of at least 0", str(method.consistency), "12")
    if method.consistency and method.objective in ("mixup", "ccat"):
        refuse(
            "with an objective that leaves images as they are, for its consistency", method.objective, "augment=augmix"
        )
    if (method.grouping == "column") != (method.group_column is not None):
        refuse(
            "with grouping=column and a group_column, or neither",
            f"grouping={method.grouping}, group_column={method.group_column}",
            "both",
        )
    if method.num_subsets == 1:
        unused = MethodConfig()
        for key in ("grouping", "cross_fit", "score_every", "matching"):
            if getattr(method, key) != getattr(unused, key):
                refuse(f"with num_subsets above 1, for {key} is about subsets", "1", "num_subsets=10")
    if not needs_scores(method):
        for key in ("cross_fit", "matching"):
            if getattr(method, key) != getattr(MethodConfig(), key):
                refuse(f"scored by another model, for its {key}", f"{key}={getattr(method, key)}", f"without {key}")
    if method.score_every is not None:
        _check_self_scoring(name, method, method.score_every, epochs)


def _check_self_scoring(name: str, method: MethodConfig, score_every: int, epochs: int) -> None:
    """A model that scores itself has targets that part early enough to be trained with."""
    if method.grouping != "robustness":
        raise InputError(
            expected=f"methods.{name} grouped by robustness, which is what a model in training scores",
            got=f"score_every={score_every} and grouping={method.grouping}",
            hint="without score_every",
        )
    last_update = (epochs - 1) // method.update_every * method.update_every  # the last that an epoch follows
    if score_every >= last_update:
        raise InputError(
            expected=f"methods.{name} scored early enough for an update by subsets, and for an epoch after that",
            got=f"score_every={score_every} and update_every={method.update_every} in {epochs} epochs",
            hint="smaller ones, or more epochs",
        )


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
