"""Calibrators: maps from logits to calibrated probabilities, fitted on the calibration split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, Self

from torch import Tensor

from aradals.calibration.temperature import TemperatureScaling
from aradals.errors import InputError


class Calibrator(Protocol):
    """What every calibrator can do; logits of shape (N, K), labels of shape (N,)."""

    def fit(self, logits: Tensor, labels: Tensor) -> Self:
        """Fit on the calibration split."""
        ...

    def predict_logits(self, logits: Tensor) -> Tensor:
        """Logits whose softmax is calibrated, float64, shape (N, K); logarithms of probabilities would underflow."""
        ...

    def predict_proba(self, logits: Tensor) -> Tensor:
        """Calibrated probabilities, float64, shape (N, K)."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """The fitted state, ready for JSON; ``method`` is the name in `CALIBRATORS`."""
        ...

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Inverse of ``to_dict``."""
        ...


CALIBRATORS: dict[str, type[Calibrator]] = {"temperature": TemperatureScaling}


def get_calibrator(name: str) -> Calibrator:
    """A calibrator, not yet fitted, by its name in `CALIBRATORS`.

    Raises:
        InputError: there is none of that name.
    """
    if name not in CALIBRATORS:
        raise InputError(expected=f"a calibrator: {', '.join(CALIBRATORS)}", got=repr(name), hint="temperature")
    return CALIBRATORS[name]()


__all__ = ["CALIBRATORS", "Calibrator", "TemperatureScaling", "get_calibrator"]
