"""What a type checker has to accept: mypy checks this file as it checks every test."""

from __future__ import annotations

from typing import assert_type

from torch import Tensor, nn

from aradals.calibration import CalibratedModel, Calibrator, TemperatureScaling, calibrator_from_dict, get_calibrator


def calibrate(model: nn.Module, logits: Tensor, labels: Tensor, scores: Tensor) -> CalibratedModel:
    assert_type(TemperatureScaling().fit(labels, logits=logits), TemperatureScaling)
    assert_type(
        get_calibrator("vector").fit(labels, logits=logits, scores=scores).predict_logits(logits, scores), Tensor
    )
    assert_type(calibrator_from_dict(get_calibrator("vector").to_dict()), Calibrator)
    return CalibratedModel(model, get_calibrator("temperature").fit(labels, logits=logits))
