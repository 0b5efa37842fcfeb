"""Shared parts of the calibrators: the base class, the checks, and the reading of a saved state."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from aradals._internal.precision import only_moving
from aradals.checks import check_classes, check_logits
from aradals.errors import InputError


@dataclass(frozen=True, eq=False)
class Origin:
    """The model that a calibrator was fitted for, and the examples that it was fitted on.

    Attributes:
        weights: digest of the model's weights; empty if it is not known.
        num_classes: number of classes of the model; 0 if it is not known.
        example_hashes: content hashes of the examples, uint64; empty if they are not known.
    """

    weights: str = ""
    num_classes: int = 0
    example_hashes: npt.NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))


class Calibrator(nn.Module, ABC):
    """Base of the calibrators: a map of logits, fitted on the calibration split, whose numbers are float64 buffers.

    The buffers stay in float64 if a model with the calibrator is cast to half precision; on a device without float64
    they are float32. ``forward(logits, scores)`` computes only the map, in the precision of the buffers and without
    checks, for use within a model (`CalibratedModel`). ``predict_logits`` checks its arguments and computes in float64.
    A subclass sets ``method``. It registers its buffers in ``fit`` and ``from_dict``, and no buffers earlier.

    Attributes:
        method: the name in `CALIBRATORS`.
        score: the robustness score that the map depends on, a name in ``aradals.attacks.ATTACKS``; None if the map
            depends on no score. ``logit_margin`` is computed from the logits. Any other score must be given as
            ``scores``, both to fit and to predict. A calibrator without a score ignores ``scores``, so that the same
            call works for every calibrator.
        origin: model and examples of the fit, as far as they are known.
    """

    method: str
    score: str | None = None
    origin = Origin()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(only_moving(fn), recurse)  # type: ignore[no-untyped-call]
        return self

    @abstractmethod
    def fit(self, logits: Tensor, labels: Tensor, scores: Tensor | None = None) -> Self:
        """Fit on the calibration split.

        Args:
            logits: finite floats, shape (N, K).
            labels: integer, shape (N,), in [0, K).
            scores: robustness of each example, shape (N,); ignored unless `score` needs more than the logits.

        Raises:
            InputError: there are no examples; logits are NaN, infinite or probabilities; labels or scores are wrong.
        """

    @abstractmethod
    def forward(self, logits: Tensor, scores: Tensor | None = None) -> Tensor:
        """Map logits to calibrated logits, shape (N, K)."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return the fitted state, ready for JSON; ``method`` names the calibrator."""

    @classmethod
    @abstractmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Make the fitted calibrator; the inverse of `to_dict`."""

    @torch.no_grad()
    def predict_logits(self, logits: Tensor, scores: Tensor | None = None) -> Tensor:
        """Compute logits whose softmax is calibrated, float64, shape (N, K).

        Args:
            logits: finite floats, shape (N, K), with as many classes as in the fit.
            scores: see `fit`.

        Raises:
            InputError: the calibrator is not fitted; logits are NaN, infinite or probabilities; scores are missing or
                not finite.
        """
        self.check_fitted()
        if len(logits) == 0:
            return logits.double()
        logits = check_logits(logits, len(logits)).double()
        calibrated: Tensor = self(logits, self.check_scores(logits, scores))
        return calibrated

    def predict_proba(self, logits: Tensor, scores: Tensor | None = None) -> Tensor:
        """Compute calibrated probabilities, float64, shape (N, K). Arguments and errors: `predict_logits`."""
        return self.predict_logits(logits, scores).softmax(1)

    def check_fitted(self) -> None:
        """Raise InputError if the calibrator is not fitted."""
        if next(self.buffers(), None) is None:
            raise InputError(
                expected=f"a fitted {self.method} calibrator",
                got="none",
                hint="fit(logits, labels) on the calibration split",
            )

    def check_scores(self, logits: Tensor, scores: Tensor | None) -> Tensor | None:
        """Return the scores to use, float64, on the device of ``logits``; None if the map needs none or computes them.

        Raises:
            InputError: `score` needs ``scores``, and ``scores`` are not N finite numbers.
        """
        if self.score in (None, "logit_margin"):
            return None
        if scores is None or scores.shape != (len(logits),) or not scores.isfinite().all():
            kind = "none" if scores is None else f"shape {tuple(scores.shape)}, or NaN or infinite ones"
            raise InputError(
                expected=f"scores: the finite {self.score} of each of {len(logits)} examples",
                got=kind,
                hint=f'score(model, inputs, "{self.score}").score, to fit and to predict, or margin_temperature, '
                "which needs only logits",
            )
        return scores.detach().to(logits.device, torch.float64)


def check_examples(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Prepare the data of a fit: logits as float64, and labels as int64 on their device.

    Raises:
        InputError: there are no examples; logits are NaN, infinite or probabilities; labels are wrong.
    """
    if len(logits) == 0:
        raise InputError(expected="at least one example", got="none", hint="a larger calibration split")
    check_classes(labels, *check_logits(logits, len(logits)).shape)
    logits = logits.detach().double()
    return logits, labels.long().to(logits.device)


def check_num_classes(logits: Tensor, num_classes: int) -> None:
    """Raise InputError unless ``logits`` have as many classes as in the fit."""
    if logits.shape[1] != num_classes:
        raise InputError(
            expected=f"logits of {num_classes} classes, as in the fit",
            got=f"{logits.shape[1]}",
            hint="the model that the calibrator was fitted for",
        )


def read_state(fields: Mapping[str, Any], method: str, **num_dims: int) -> list[Any]:
    """Read the values of a saved state: a number if ``num_dims`` is 0, a list of numbers for 1, a list of lists for 2.

    Raises:
        InputError: the state is that of another method, or a value is missing, of another kind, or not finite.
    """
    if fields.get("method") != method or not all(_is_numeric(fields.get(name), n) for name, n in num_dims.items()):
        kinds = ("a finite number", "finite numbers", "lists of finite numbers")
        raise bad_state(fields, method, ", ".join(f"{name}: {kinds[n]}" for name, n in num_dims.items()))
    return [fields[name] for name in num_dims]


def bad_state(fields: Mapping[str, Any], method: str, expected: str) -> InputError:
    """Make the error for a saved state that no calibrator of this method has written."""
    return InputError(
        expected=f"the state of a {method} calibrator ({expected})",
        got=f"{dict(fields)}"[:200],
        hint="the output of to_dict",
    )


def _is_numeric(value: object, num_dims: int) -> bool:
    if num_dims:
        return isinstance(value, list) and len(value) > 0 and all(_is_numeric(item, num_dims - 1) for item in value)
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
