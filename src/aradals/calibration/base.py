"""Shared parts of the calibrators: the base class, the checks, and the reading of a saved state."""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from aradals._internal.hashes import encode_hashes
from aradals._internal.json_files import save_sealed
from aradals._internal.precision import only_moving
from aradals.checks import Values, check_examples, check_predictions, kind_of_outputs, to_tensor
from aradals.errors import InputError
from aradals.inference.predictions import row_hashes

LEAST_PROB = 1e-7
"""The probability that a label of probability 0 counts with in a fit: about the resolution of single precision."""

_NO_HASHES = np.empty(0, np.uint64)


@dataclass(frozen=True, eq=False)
class Origin:
    """The model that a calibrator was fitted for, and the examples that it was fitted on, as far as they are known.

    Attributes:
        weights: digest of the model's weights; empty if it is not known.
        num_classes: number of classes of the model; 0 if it is not known.
        example_hashes: content hashes of the examples, uint64; empty if they are not known.
        row_hashes: hashes of the predictions, see `aradals.inference.predictions.row_hashes`.
        num_examples: number of the examples.
        data: name of the data.
        fingerprint: digest of the data.
        request: digest of everything that decides the fit, if a command has made it.
    """

    weights: str = ""
    num_classes: int = 0
    example_hashes: npt.NDArray[np.uint64] = field(default_factory=lambda: _NO_HASHES)
    row_hashes: npt.NDArray[np.uint64] = field(default_factory=lambda: _NO_HASHES)
    num_examples: int = 0
    data: str = ""
    fingerprint: str = ""
    request: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as values for JSON."""
        return {
            "data": self.data,
            "n": self.num_examples,
            "fingerprint": self.fingerprint,
            "example_hashes": encode_hashes(self.example_hashes),
            "row_hashes": encode_hashes(self.row_hashes),
            "weights": self.weights,
            "num_classes": self.num_classes,
            "request": self.request,
        }


class Calibrator(nn.Module, ABC):
    """Base of the calibrators: a map of logits, fitted on the calibration split, whose numbers are float64 buffers.

    The buffers stay in float64 if a model with the calibrator is cast to half precision; on a device without float64
    they are float32. ``forward(logits, scores)`` computes only the map, in the precision of the buffers and without
    checks, for use within a model (`CalibratedModel`). ``predict_logits`` checks its arguments and computes in float64.
    A subclass sets ``method``. It registers its buffers in ``_fit`` and ``from_dict``, and no buffers earlier.

    A logit of -inf and a probability of 0 mean the same: a class that is masked, or too improbable for its number
    format. Every calibrator that scales logits (temperatures and vector scaling) leaves such a class at probability 0;
    isotonic regression and histogram binning map 0 like any other probability. If the label of an example has
    probability 0, its NLL would be infinite at every temperature. In a fit, it counts as a probability of 1e-7.

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

    @torch.no_grad()
    def fit(
        self,
        labels: Values,
        *,
        logits: Values | None = None,
        probs: Values | None = None,
        scores: Values | None = None,
    ) -> Self:
        """Fit on the calibration split.

        Args:
            labels: integer, shape (N,), in [0, K).
            logits: floats, shape (N, K), -inf for masked classes; or
            probs: rows in [0, 1] that sum to 1, shape (N, K).
            scores: robustness of each example, shape (N,); ignored unless `score` needs more than the logits.

        Raises:
            InputError: there are no examples; logits or probabilities are NaN or something else than they are called;
                labels or scores are wrong.
            MissingExtraError: isotonic regression needs scikit-learn, which is not installed.
        """
        plain, labels = self._examples_of_fit(labels, logits, probs)
        self._fit(with_possible_labels(plain, labels), labels, self.check_scores(plain, scores))
        self.origin = origin_of(plain, labels)
        return self

    def _examples_of_fit(self, labels: Values, logits: Values | None, probs: Values | None) -> tuple[Tensor, Tensor]:
        """Check the examples of a fit; return their logits, float64, and their labels, int64."""
        labels, outputs = check_examples(labels, logits=logits, probs=probs)
        if probs is not None and len(outputs) > 1 and kind_of_outputs(outputs) == "one-hot":
            raise InputError(
                expected="probabilities",
                got="one-hot predictions (all values are 0 or 1)",
                hint="the probabilities before argmax, because a predicted class has no confidence",
            )
        return outputs.double() if probs is None else outputs.double().log(), labels

    @abstractmethod
    def _fit(self, logits: Tensor, labels: Tensor, scores: Tensor | None) -> None:
        """Fit on checked data: float64 logits of which those of the labels are finite, int64 labels."""

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
    def predict_logits(
        self, logits: Values | None = None, scores: Values | None = None, *, probs: Values | None = None
    ) -> Tensor:
        """Compute logits whose softmax is calibrated, float64, shape (N, K).

        Args:
            logits: floats, shape (N, K), with as many classes as in the fit, -inf for masked classes; or
            probs: rows in [0, 1] that sum to 1, shape (N, K).
            scores: see `fit`.

        Returns:
            Logits, which are finite except for -inf where temperatures and vector scaling keep a probability of 0.

        Raises:
            InputError: the calibrator is not fitted; logits or probabilities are NaN or something else than they are
                called; scores are missing or not finite.
        """
        self.check_fitted()
        given = logits if probs is None else probs
        if given is not None and len(given) == 0:
            return to_tensor(given).double()
        outputs = check_predictions(logits=logits, probs=probs).double()
        plain = outputs if probs is None else outputs.log()
        calibrated: Tensor = self(plain, self.check_scores(plain, scores))
        return calibrated

    def predict_proba(
        self, logits: Values | None = None, scores: Values | None = None, *, probs: Values | None = None
    ) -> Tensor:
        """Compute calibrated probabilities, float64, shape (N, K). Arguments and errors: `predict_logits`."""
        return self.predict_logits(logits, scores, probs=probs).softmax(1)

    def save(self, path: str | Path) -> None:
        """Write the fitted calibrator and its origin as JSON, for `aradals.load_calibrator` and the commands.

        Raises:
            InputError: the calibrator is not fitted.
        """
        self.check_fitted()
        save_sealed(Path(path), {**self.to_dict(), "fitted_on": self.origin.to_dict()})

    def check_fitted(self) -> None:
        """Raise InputError if the calibrator is not fitted."""
        if next(self.buffers(), None) is None:
            raise InputError(
                expected=f"a fitted {self.method} calibrator",
                got="none",
                hint="fit(labels, logits=logits) on the calibration split",
            )

    def check_scores(self, logits: Tensor, scores: Values | None) -> Tensor | None:
        """Return the scores to use, float64, on the device of ``logits``; None if the map needs none or computes them.

        Raises:
            InputError: `score` needs ``scores``, and ``scores`` are not N finite numbers.
        """
        if self.score in (None, "logit_margin"):
            return None
        scores = None if scores is None else to_tensor(scores)
        if scores is None or scores.shape != (len(logits),) or not scores.isfinite().all():
            kind = "none" if scores is None else f"shape {tuple(scores.shape)}, or NaN or infinite ones"
            raise InputError(
                expected=f"scores: the finite {self.score} of each of {len(logits)} examples",
                got=kind,
                hint=f'score(model, inputs, "{self.score}").score, to fit and to predict, or margin_temperature, '
                "which needs only logits",
            )
        return scores.detach().to(logits.device, torch.float64)


def origin_of(logits: Tensor, labels: Tensor) -> Origin:
    """Describe the examples of a fit as far as their predictions show it."""
    return Origin(num_classes=logits.shape[1], num_examples=len(labels), row_hashes=row_hashes(logits, labels))


def with_possible_labels(logits: Tensor, labels: Tensor) -> Tensor:
    """Give the labels of probability 0 the probability `LEAST_PROB`."""
    own = logits.gather(1, labels[:, None])
    impossible = own == -math.inf
    if not impossible.any():
        return logits
    least = logits.logsumexp(1, keepdim=True) + math.log(LEAST_PROB)
    return logits.scatter(1, labels[:, None], least.where(impossible, own))


def zero_masked(values: Tensor) -> Tensor:
    """Replace -inf by 0, for products with probabilities, which are 0 there."""
    return values.masked_fill(values == -math.inf, 0)


def quantiles(values: Tensor, levels: Tensor) -> Tensor:
    """Compute the quantiles of any number of values; ``torch.quantile`` takes at most 2^24."""
    return torch.from_numpy(np.quantile(values.cpu().numpy(), levels.cpu().numpy())).to(values)


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
