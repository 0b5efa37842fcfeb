"""Training objectives: functions from a model and a labeled batch to a loss. One file for each method."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from aradals._internal.specs import imported
from aradals.errors import InputError
from aradals.objectives.ccat import ccat, max_confidence_attack, transition_target_prob
from aradals.objectives.cross_entropy import cross_entropy
from aradals.objectives.focal import focal
from aradals.objectives.margin_smoothing import margin_smoothing
from aradals.objectives.mixup import mixup

__all__ = [
    "OBJECTIVES",
    "Objective",
    "ccat",
    "choose_objective",
    "cross_entropy",
    "focal",
    "margin_smoothing",
    "max_confidence_attack",
    "mixup",
    "takes_target_prob",
    "transition_target_prob",
]

Objective = Callable[..., tuple[Tensor, Tensor]]
"""``objective(model, inputs, labels, *, settings) -> (loss, logits)``; row i of the logits belongs to label i.

An objective that supports smoothing has a fourth argument ``target_prob``, shape (N,) or None. Random numbers come
from the global generator of torch.
"""

OBJECTIVES: dict[str, Objective] = {
    "cross_entropy": cross_entropy,
    "mixup": mixup,
    "ccat": ccat,
    "focal": focal,
    "margin_smoothing": margin_smoothing,
}


def choose_objective(name_or_spec: str, args: Mapping[str, Any] | None = None) -> Objective:
    """Return the objective with this name and these settings, checked before any training.

    Args:
        name_or_spec: a name in `OBJECTIVES` (``-`` and ``_`` mean the same), ``path/to/file.py:function``, or
            ``package.module:function``.
        args: settings of the objective, which are its keyword-only arguments.

    Raises:
        InputError: an unknown objective, an unknown setting, or a value out of range; for a function from a file or
            module also any error of its import.

    Example:
        >>> choose_objective("mixup", {"alpha": -1})
        Traceback (most recent call last):
            ...
        aradals.errors.InputError: expected alpha >= 0, got alpha=-1; try alpha=0.2, or alpha=0 for no mixup
    """
    args = dict(args or {})
    if ":" in name_or_spec:
        objective = _import_objective(name_or_spec)
        _check_settings(name_or_spec, objective, args)
        return functools.partial(objective, **args)
    name = name_or_spec.replace("-", "_")
    if name not in OBJECTIVES:
        raise InputError(
            expected=f"an objective: {', '.join(OBJECTIVES)}, path/to/file.py:function, or package.module:function",
            got=repr(name_or_spec),
            hint=difflib.get_close_matches(name, OBJECTIVES, n=1, cutoff=0.0)[0],
        )
    _check_settings(name, OBJECTIVES[name], args)
    objective = functools.partial(OBJECTIVES[name], **args)
    _try(name, objective)
    return objective


def takes_target_prob(objective: Objective) -> bool:
    """Return True if the objective supports smoothing: it has an argument ``target_prob``."""
    return "target_prob" in inspect.signature(objective).parameters


def _import_objective(spec: str) -> Objective:
    with imported(spec, "name an objective") as target:
        if not callable(target):
            raise InputError(
                expected=f"{spec} to be a function of (model, inputs, labels)",
                got=f"an object of type {type(target).__name__}",
                hint="a function that returns (loss, logits)",
            )
        try:
            inspect.signature(target).bind("model", "inputs", "labels")
        except TypeError as error:
            raise InputError(
                expected=f"{spec} to take (model, inputs, labels), with defaults for all other arguments",
                got=f"({', '.join(inspect.signature(target).parameters)})",
                hint="making the settings keyword-only arguments with defaults",
            ) from error
        return target


def _check_settings(name: str, objective: Objective, args: Mapping[str, Any]) -> None:
    parameters = inspect.signature(objective).parameters.values()
    settings = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    unknown = [given for given in args if given not in settings]
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in parameters):
        nearest = difflib.get_close_matches(unknown[0], settings, n=1)
        raise InputError(
            expected=f"the settings of {name}: {', '.join(settings)}" if settings else f"no settings for {name}",
            got=", ".join(unknown),
            hint=nearest[0] if nearest else f"{name} without this setting",
        )


def _try(name: str, objective: Objective) -> None:
    """Call the objective once on a tiny problem, because it checks the values of its settings only when it runs."""
    with torch.random.fork_rng(devices=[]):
        model, inputs, labels = nn.Linear(2, 3), torch.rand(2, 2), torch.tensor([0, 1])
        try:
            objective(model, inputs, labels)
        except (TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                expected=f"settings that {name} accepts", got=str(error), hint="numbers without quotes"
            ) from error
