"""Calibrators: maps from logits to calibrated probabilities, fitted on the calibration split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from aradals._internal.registry import Registry
from aradals.calibration.base import Calibrator, Origin, bad_state
from aradals.calibration.calibrated_model import CalibratedModel, scores_for
from aradals.calibration.conditional import ConditionalTemperature
from aradals.calibration.one_versus_rest import HistogramBinning, IsotonicCalibration
from aradals.calibration.temperature import TemperatureScaling
from aradals.calibration.vector import VectorScaling

CALIBRATORS: Registry[Callable[..., Calibrator]] = Registry(
    "a calibrator",
    {
        "temperature": TemperatureScaling,
        "vector": VectorScaling,
        "isotonic": IsotonicCalibration,
        "histogram": HistogramBinning,
        "margin_temperature": partial(ConditionalTemperature, score="logit_margin"),
        "robustness_temperature": partial(ConditionalTemperature, score="first_order_margin"),
    },
    only_ours=True,  # code that only the file of a calibrator names is not run
)


def get_calibrator(name: str, /, **settings: Any) -> Calibrator:
    """Make a calibrator, not yet fitted, by its name in `CALIBRATORS`.

    Raises:
        InputError: there is no such calibrator, or the calibrator does not have one of the settings.
    """
    return CALIBRATORS.bind(name, settings)()


def calibrator_from_dict(fields: Mapping[str, Any]) -> Calibrator:
    """Make the fitted calibrator whose ``to_dict`` has returned ``fields``.

    Raises:
        InputError: no calibrator of `CALIBRATORS` has such a state.
    """
    method = fields.get("method")
    if not isinstance(method, str) or method not in CALIBRATORS:
        raise bad_state(fields, "known", f"method: one of {', '.join(CALIBRATORS)}")
    return type(get_calibrator(method)).from_dict(fields)


__all__ = [
    "CALIBRATORS",
    "CalibratedModel",
    "Calibrator",
    "ConditionalTemperature",
    "HistogramBinning",
    "IsotonicCalibration",
    "Origin",
    "TemperatureScaling",
    "VectorScaling",
    "calibrator_from_dict",
    "get_calibrator",
    "scores_for",
]
