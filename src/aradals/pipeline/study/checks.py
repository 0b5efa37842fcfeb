"""Checks of a study that need its code or its model, made before hours of work."""

from __future__ import annotations

from torch import nn

from aradals._internal.specs import user_code
from aradals.calibration import get_calibrator
from aradals.checks import check_output
from aradals.errors import InputError
from aradals.inference.predictions import Batch, evaluation_mode
from aradals.objectives import get_objective, takes_target_prob
from aradals.pipeline.config import FixedTargets, MethodConfig, ShapedTargets, StudyConfig, TrainingConfig


def check_config(config: StudyConfig) -> None:
    """Raise InputError for unknown objectives and calibrators; settings check all other values."""
    for calibrator in config.all_calibrators:
        get_calibrator(calibrator)
    for name, method in config.methods.items():
        for candidate in method.candidates:
            _check_objective(name, candidate)


def _check_objective(name: str, method: MethodConfig) -> None:
    objective = get_objective(method.objective, 2, **method.objective_args)
    if method.targets != FixedTargets() and not takes_target_prob(objective):
        raise InputError(
            expected=f"methods.{name} with one-hot targets, because its objective takes no other targets",
            got=f"objective={method.objective} with " + ("a rule" if method.targets.rule else "smoothing"),
            hint="objective=cross_entropy, or no targets",
        )


def try_method(
    name: str, method: MethodConfig, training: TrainingConfig, model: nn.Module, batch: Batch, num_classes: int
) -> None:
    """Make one step of a method on a few examples, so that errors occur before the work; this adds to gradients.

    Raises:
        InputError: targets, views or the objective do not fit the model or the inputs.
    """
    _, inputs, labels = batch
    augment = "augmix" if method.consistency else method.augment or training.augment
    if augment != "none" and inputs.ndim != 4:
        raise InputError(
            expected=f"methods.{name} on images, because {augment} changes them",
            got=f"inputs of shape {tuple(inputs.shape)}",
            hint="augment=none",
        )
    objective = get_objective(method.objective, num_classes, **method.objective_args)
    with user_code(method.objective, "return (loss, logits)"), evaluation_mode(model):
        loss, logits = objective(model, inputs, labels)
        loss.backward()
    num_classes = check_output(logits, len(inputs)).shape[1]
    if isinstance(method.targets, ShapedTargets):
        method.targets.shape(num_classes)
    if method.initial_target_prob < 1 / num_classes:
        raise InputError(
            expected=f"methods.{name}.targets.smoothing of at most {1 - 1 / num_classes:.3g} for {num_classes} classes",
            got=str(method.targets.smoothing),
            hint="0.05",
        )
