"""Training objectives: functions from a model and a labeled batch to a loss. One file for each method."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from aradals._internal.registry import Registry
from aradals.errors import InputError
from aradals.objectives.adafocal import AdaFocal
from aradals.objectives.base import StatefulObjective
from aradals.objectives.calmo import calmo
from aradals.objectives.ccat import ccat, max_confidence_attack, transition_target_prob
from aradals.objectives.cross_entropy import cross_entropy
from aradals.objectives.dual_focal import dual_focal
from aradals.objectives.fedlas import FedLAS
from aradals.objectives.focal import focal
from aradals.objectives.logit_norm import logit_norm
from aradals.objectives.margin_smoothing import margin_smoothing
from aradals.objectives.mixup import mixup
from aradals.objectives.sample_focal import sample_focal

__all__ = [
    "OBJECTIVES",
    "AdaFocal",
    "FedLAS",
    "Objective",
    "StatefulObjective",
    "calmo",
    "ccat",
    "cross_entropy",
    "dual_focal",
    "focal",
    "get_objective",
    "logit_norm",
    "margin_smoothing",
    "max_confidence_attack",
    "mixup",
    "sample_focal",
    "takes_target_prob",
    "transition_target_prob",
]

Objective = Callable[..., tuple[Tensor, Tensor]]
"""``objective(model, inputs, labels, *, settings) -> (loss, logits)``; row i of the logits belongs to label i.

An objective that supports smoothing has a fourth argument ``target_prob``, shape (N,) or None. Random numbers come
from the global generator of torch.
"""

OBJECTIVES: Registry[Callable[..., Any]] = Registry(
    "an objective",
    {
        "cross_entropy": cross_entropy,
        "mixup": mixup,
        "ccat": ccat,
        "focal": focal,
        "margin_smoothing": margin_smoothing,
        "logit_norm": logit_norm,
        "sample_focal": sample_focal,
        "dual_focal": dual_focal,
        "calmo": calmo,
        "adafocal": AdaFocal,
        "fedlas": FedLAS,
    },
    arguments=("model", "inputs", "labels"),
)
"""Objectives by name; a class is a `StatefulObjective`, which each training makes anew."""


def get_objective(objective: str | Objective, num_classes: int | None = None, /, **settings: Any) -> Objective:
    """Return the objective with some of its settings, which are checked before any training.

    Args:
        objective: a name in `OBJECTIVES` (``-`` and ``_`` mean the same), ``path/to/file.py:function``,
            ``package.module:function``, or a function.
        num_classes: K, which objectives with weights of their own need.
        **settings: keyword-only arguments of the objective.

    Raises:
        InputError: an unknown objective, an unknown setting, or a value out of range; for a function from a file or
            module also any error of its import; or ``num_classes`` is needed.

    Example:
        >>> get_objective("mixup", alpha=-1)
        Traceback (most recent call last):
            ...
        aradals.errors.InputError: expected alpha >= 0, got alpha=-1; try alpha=0.2, or alpha=0 for no mixup
    """
    bound = OBJECTIVES.bind(objective, settings)
    if isinstance(objective, str) and ":" not in objective:
        _try(objective, bound)
    return _begun(bound, num_classes)


def _begun(objective: Callable[..., Any], num_classes: int | None) -> Objective:
    """Make the objective of one training: a new instance, if the objective has a state."""
    if not isinstance(getattr(objective, "func", objective), type):
        return objective
    needs_classes = "num_classes" in inspect.signature(objective).parameters
    if needs_classes and num_classes is None:
        raise InputError(
            expected="the number of classes, because this objective has weights of its own",
            got="none",
            hint='get_objective("fedlas", 10)',
        )
    begun: Objective = objective(num_classes) if needs_classes else objective()
    return begun


def takes_target_prob(objective: Objective) -> bool:
    """Return True if the objective supports smoothing: it has an argument ``target_prob``."""
    return "target_prob" in inspect.signature(objective).parameters


def _try(name: str, objective: Callable[..., Any]) -> None:
    """Call the objective once on a tiny problem, because it checks the values of its settings only when it runs."""
    with torch.random.fork_rng(devices=[]):
        model, inputs, labels = nn.Linear(2, 3), torch.rand(2, 2), torch.tensor([0, 1])
        try:
            _begun(objective, 3)(model, inputs, labels)
        except (TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                expected=f"settings that {name} accepts", got=str(error), hint="numbers without quotes"
            ) from error
