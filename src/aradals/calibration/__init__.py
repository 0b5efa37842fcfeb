"""Calibrators: maps from logits to calibrated probabilities, fitted on the calibration split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from aradals._internal.hashes import decode_hashes
from aradals._internal.json_files import load_sealed
from aradals._internal.registry import Registry
from aradals.calibration.base import Calibrator, Origin, bad_state
from aradals.calibration.batch_temperature import BatchTemperature, RunningBatch
from aradals.calibration.calibrated_model import CalibratedModel, scores_for
from aradals.calibration.conditional import ConditionalTemperature
from aradals.calibration.consistency import ConsistencyCalibration
from aradals.calibration.ensemble_temperature import EnsembleTemperatureScaling
from aradals.calibration.one_versus_rest import HistogramBinning, IsotonicCalibration
from aradals.calibration.pnorm import PNormScaling
from aradals.calibration.smart import SmartTemperature
from aradals.calibration.structured_matrix import StructuredMatrixScaling
from aradals.calibration.temperature import TemperatureScaling
from aradals.calibration.vector import VectorScaling
from aradals.errors import InputError

CALIBRATORS: Registry[Callable[..., Calibrator]] = Registry(
    "a calibrator",
    {
        "temperature": TemperatureScaling,
        "vector": VectorScaling,
        "structured_matrix": StructuredMatrixScaling,
        "isotonic": IsotonicCalibration,
        "histogram": HistogramBinning,
        "margin_temperature": partial(ConditionalTemperature, score="logit_margin"),
        "robustness_temperature": partial(ConditionalTemperature, score="first_order_margin"),
        "ensemble_temperature": EnsembleTemperatureScaling,
        "smart_temperature": SmartTemperature,
        "consistency": ConsistencyCalibration,
        "pnorm": PNormScaling,
        "batch_temperature": BatchTemperature,
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


def load_calibrator(path: str | Path) -> Calibrator:
    """Read a fitted calibrator that `Calibrator.save` or `aradals calibrate` has written, with its origin.

    Raises:
        InputError: the file is missing, changed, or not that of a calibrator.
    """
    path = Path(path)
    content = load_sealed(path, required=False)
    method, fitted_on = content.get("method"), content.get("fitted_on")
    if not isinstance(method, str) or method not in CALIBRATORS or not isinstance(fitted_on, dict):
        raise InputError(
            expected=f"a calibrator in {path} ({', '.join(CALIBRATORS)}), and the hashes of its examples",
            got=f"method {method!r:.80}",
            hint="a file written by `aradals calibrate`",
        )
    calibrator = calibrator_from_dict(content)
    counts = {name: n if isinstance(n := fitted_on.get(name), int) else 0 for name in ("num_classes", "n")}
    calibrator.origin = Origin(
        weights=str(fitted_on.get("weights") or ""),
        num_classes=counts["num_classes"],
        example_hashes=decode_hashes(fitted_on.get("example_hashes"), path),
        row_hashes=decode_hashes(fitted_on.get("row_hashes", ""), path),
        num_examples=counts["n"],
        data=str(fitted_on.get("data") or ""),
        fingerprint=str(fitted_on.get("fingerprint") or ""),
        request=fitted_on.get("request"),
    )
    return calibrator


__all__ = [
    "CALIBRATORS",
    "BatchTemperature",
    "CalibratedModel",
    "Calibrator",
    "ConditionalTemperature",
    "ConsistencyCalibration",
    "EnsembleTemperatureScaling",
    "HistogramBinning",
    "IsotonicCalibration",
    "Origin",
    "PNormScaling",
    "RunningBatch",
    "SmartTemperature",
    "StructuredMatrixScaling",
    "TemperatureScaling",
    "VectorScaling",
    "calibrator_from_dict",
    "get_calibrator",
    "load_calibrator",
    "scores_for",
]
