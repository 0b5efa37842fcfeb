"""Calibrators: maps from logits to calibrated probabilities, fitted on the calibration split."""

from __future__ import annotations

from aradals.calibration.base import Calibrator, LogitMap
from aradals.calibration.calibrated_model import CalibratedModel, scores_for
from aradals.calibration.conditional import ConditionalTemperature, MarginTemperature, RobustnessTemperature
from aradals.calibration.one_versus_rest import HistogramBinning, IsotonicCalibration
from aradals.calibration.temperature import TemperatureScaling
from aradals.calibration.vector import VectorScaling
from aradals.errors import InputError

CALIBRATORS: dict[str, type[Calibrator]] = {
    "temperature": TemperatureScaling,
    "vector": VectorScaling,
    "isotonic": IsotonicCalibration,
    "histogram": HistogramBinning,
    "margin_temperature": MarginTemperature,
    "robustness_temperature": RobustnessTemperature,
}


def get_calibrator(name: str) -> Calibrator:
    """Make a calibrator, not yet fitted, by its name in `CALIBRATORS`.

    Raises:
        InputError: there is none of that name.
    """
    if name not in CALIBRATORS:
        raise InputError(expected=f"a calibrator: {', '.join(CALIBRATORS)}", got=repr(name), hint="temperature")
    return CALIBRATORS[name]()


__all__ = [
    "CALIBRATORS",
    "CalibratedModel",
    "Calibrator",
    "ConditionalTemperature",
    "HistogramBinning",
    "IsotonicCalibration",
    "LogitMap",
    "MarginTemperature",
    "RobustnessTemperature",
    "TemperatureScaling",
    "VectorScaling",
    "get_calibrator",
    "scores_for",
]
